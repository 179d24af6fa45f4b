/* Collecting reasons to refuse blocks, one for each cause. */
#include "refusals.h"
#include "layout/base/array.h"
#include "layout/base/memory.h"

#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <utstring.h>

struct refusal {
    char *first, *last; /* titles of blocks */
    uint32_t n;         /* blocks */
    char *cause;        /* the text without the block's name and without numbers */
    char *text;
};

static const UT_icd refusal_icd = {sizeof(struct refusal), NULL, NULL, NULL};

/* The text with the block's name left out and each number as "#". */
static char *find_cause(const char *text, const char *block)
{
    size_t length = strlen(block);
    UT_string cause;

    utstring_init(&cause);
    for (const char *at = text; *at;) {
        size_t digits = strspn(at, "0123456789");
        if (length > 0 && strncmp(at, block, length) == 0) {
            at += length;
        } else if (digits > 0) {
            utstring_bincpy(&cause, "#", 1);
            at += digits;
        } else {
            utstring_bincpy(&cause, at++, 1);
        }
    }
    return utstring_body(&cause);
}

void refusals_add(struct refusals *refusals, const char *block, const char *title, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    char *text = xvasprintf(format, args);
    va_end(args);
    char *cause = find_cause(text, block);
    if (!refusals->list)
        utarray_new(refusals->list, &refusal_icd);
    for (unsigned i = 0; i < utarray_len(refusals->list); i++) {
        struct refusal *other = array_at(refusals->list, i);
        if (strcmp(other->cause, cause) != 0)
            continue;
        if (strcmp(other->last, title) != 0) {
            free(other->last);
            other->last = xstrdup(title);
            other->n++;
        }
        free(text);
        free(cause);
        return;
    }
    struct refusal refusal = {
        .first = xstrdup(title), .last = xstrdup(title), .n = 1, .cause = cause, .text = text};
    utarray_push_back(refusals->list, &refusal);
}

int refusals_report(struct refusals *refusals, struct error *err)
{
    if (!refusals->list)
        return 0;
    for (unsigned i = 0; i < utarray_len(refusals->list); i++) {
        struct refusal *r = array_at(refusals->list, i);
        if (r->n == 1)
            error_add(err, "%s: %s", r->first, r->text);
        else
            error_add(err, "%s%s%s (%u MoE layers): %s", r->first, r->n == 2 ? ", " : ", ..., ", r->last,
                      r->n, r->text);
        free(r->first);
        free(r->last);
        free(r->cause);
        free(r->text);
    }
    utarray_free(refusals->list);
    refusals->list = NULL;
    return -1;
}
