/* What verify has found, collected from all threads. */
#include "report.h"

#include "layout/base/memory.h"

#include <stdarg.h>
#include <stdbool.h>

#define DIFFERENCES_KEPT 20

void report_begin(struct report *report)
{
    *report = (struct report){.differences = xcalloc(DIFFERENCES_KEPT + 1, sizeof *report->differences)};
    pthread_mutex_init(&report->lock, NULL);
}

static void free_difference(struct difference *difference)
{
    free(difference->tensor);
    free(difference->text);
}

void report_free(struct report *report)
{
    for (unsigned i = 0; i < report->n_differences; i++)
        free_difference(&report->differences[i]);
    free(report->differences);
    error_free(&report->failure);
    notes_free(&report->notes);
    pthread_mutex_destroy(&report->lock);
}

struct difference report_place(enum difference_order order, uint64_t sequence, const char *kind)
{
    return (struct difference){.order = order,
                               .sequence = sequence,
                               .kind = kind,
                               .row = DIFFERENCE_NONE,
                               .column = DIFFERENCE_NONE,
                               .digest = DIFFERENCE_NONE};
}

static bool is_before(const struct difference *a, const struct difference *b)
{
    return a->order != b->order ? a->order < b->order : a->sequence < b->sequence;
}

void report_difference(struct report *report, const struct difference *where, const char *tensor,
                       const char *format, ...)
{
    struct difference difference = *where;
    va_list arguments;
    unsigned at;

    va_start(arguments, format);
    difference.text = xvasprintf(format, arguments);
    va_end(arguments);
    difference.tensor = xstrdup(tensor);
    pthread_mutex_lock(&report->lock);
    report->n_found++;
    for (at = report->n_differences; at > 0 && is_before(where, &report->differences[at - 1]); at--)
        report->differences[at] = report->differences[at - 1];
    report->differences[at] = difference;
    if (report->n_differences == DIFFERENCES_KEPT)
        free_difference(&report->differences[DIFFERENCES_KEPT]);
    else
        report->n_differences++;
    pthread_mutex_unlock(&report->lock);
}

int report_failure(struct report *report, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    cleanup_free char *text = xvasprintf(format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&report->lock);
    if (!report->failure.text)
        error_relay(&report->failure, text);
    pthread_mutex_unlock(&report->lock);
    return -1;
}
