/* What verify has found, and how far it is: collected from all threads, printed at the end. */
#include "verify.h"

#include "fs/base/messages.h"

#include "layout/format/json_write.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DIFFERENCES_KEPT 20
#define PROGRESS_PERIOD 200 /* milliseconds */

void report_begin(struct report *report, uint64_t total)
{
    *report = (struct report){.total = total, .show_progress = isatty(STDERR_FILENO) == 1};
    pthread_mutex_init(&report->lock, NULL);
    clock_gettime(CLOCK_MONOTONIC, &report->begin);
    report->differences = xcalloc(DIFFERENCES_KEPT + 1, sizeof *report->differences);
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
    free(report->blocks);
    error_free(&report->failure);
    notes_free(&report->notes);
    pthread_mutex_destroy(&report->lock);
}

struct difference report_place(uint64_t order, const char *kind)
{
    return (struct difference){
        .order = order, .kind = kind, .row = UINT64_MAX, .column = UINT64_MAX, .digest = UINT64_MAX};
}

void report_difference(struct report *report, const struct difference *where, const char *tensor,
                       const char *format, ...)
{
    struct difference difference = *where;
    va_list arguments;
    unsigned at;

    va_start(arguments, format);
    if (vasprintf(&difference.text, format, arguments) < 0)
        memory_exhausted();
    va_end(arguments);
    difference.tensor = xstrdup(tensor);
    pthread_mutex_lock(&report->lock);
    report->n_found++;
    for (at = report->n_differences; at > 0 && report->differences[at - 1].order > where->order; at--)
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
    char *text = NULL;

    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        memory_exhausted();
    va_end(arguments);
    pthread_mutex_lock(&report->lock);
    if (!report->failure.text)
        error_set(&report->failure, "%s", text);
    pthread_mutex_unlock(&report->lock);
    free(text);
    return -1;
}

double report_seconds(const struct report *report)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - report->begin.tv_sec) + (double)(now.tv_nsec - report->begin.tv_nsec) / 1e9;
}

void report_add_bytes(struct report *report, uint64_t bytes)
{
    const uint64_t done = atomic_fetch_add(&report->bytes, bytes) + bytes;

    if (!report->show_progress)
        return;
    const double seconds = report_seconds(report);
    uint64_t shown = atomic_load(&report->shown);
    const uint64_t now = (uint64_t)(seconds * 1000);
    if (now < shown + PROGRESS_PERIOD || !atomic_compare_exchange_strong(&report->shown, &shown, now))
        return;
    const double rate = (double)done / seconds;
    const uint64_t total = done > report->total ? done : report->total;
    const int twentieths = total > 0 ? (int)(20.0 * (double)done / (double)total) : 0;
    fprintf(stderr, "\r[%.*s%*s] %.1f of %.1f GB, %.2f GB/s, %.0f s left  ", twentieths,
            "####################", 20 - twentieths, "", (double)done / 1e9, (double)total / 1e9, rate / 1e9,
            (double)(total - done) / rate);
}

void report_end(struct report *report)
{
    if (report->show_progress && atomic_load(&report->shown) > 0)
        fputs("\r\033[K", stderr);
}

/* ---- the verdict ---- */

/* Of whom these bytes are: what a logical tensor holds in place of its own. */
static const char *find_owner(const struct verify *verify, const struct difference *difference)
{
    if (difference->digest == UINT64_MAX)
        return NULL;
    const struct digest *digest = &verify->digests[difference->digest];
    for (uint64_t d = 0; d < verify->n_digests; d++)
        if (&verify->digests[d] != digest && XXH128_isEqual(verify->digests[d].hash, digest->found))
            return verify->digests[d].name;
    return NULL;
}

static void print_difference(const struct verify *verify, const struct difference *difference)
{
    const char *owner = find_owner(verify, difference);

    messages_printf("%s: %s: %s%s%s\n", difference->kind, difference->tensor, difference->text,
                    owner ? "; it holds the bytes of " : "", owner ? owner : "");
}

static void print_block(const struct block_result *block)
{
    messages_printf("function: %s: ", block->block);
    if (block->skipped) {
        messages_printf("not computed: %s\n", block->skipped);
        return;
    }
    printf("%" PRIu64 " tokens, %" PRIu64
           " experts each (%s), largest error %.3g, %.3g of the largest output",
           block->tokens, block->top_k, block->routed ? "by its router" : "every expert visited",
           block->max_abs, block->max_rel);
    if (block->max_abs > 0)
        printf(", at token %" PRIu64 ", column %" PRIu64, block->token, block->column);
    if (block->not_finite > 0)
        printf("; %" PRIu64 " outputs are not finite on both sides and were not compared", block->not_finite);
    putchar('\n');
}

/* The levels that were run: what the verdict is about. */
static uint32_t computed_blocks(const struct report *report)
{
    uint32_t n = 0;

    for (uint32_t b = 0; b < report->n_blocks; b++)
        n += report->blocks[b].skipped == NULL;
    return n;
}

void report_print_text(const struct verify *verify)
{
    const struct report *report = &verify->report;
    const double seconds = report_seconds(report);
    const uint64_t bytes = atomic_load(&report->bytes);

    for (uint32_t b = 0; b < report->n_blocks; b++)
        print_block(&report->blocks[b]);
    for (unsigned i = 0; i < report->n_differences; i++)
        print_difference(verify, &report->differences[i]);
    if (report->n_found > 0) {
        if (report->n_found > report->n_differences)
            printf("... and %" PRIu64 " more\n", report->n_found - report->n_differences);
        printf("DIFFERENT (%" PRIu64 "): ", report->n_found);
        print_difference(verify, &report->differences[0]);
        return;
    }
    printf("EQUAL: %" PRIu64 " tensors, %" PRIu64 " bytes; function of %" PRIu32 " of %" PRIu32
           " blocks; %.1f s, %.2f GB/s\n",
           verify->n_digests, bytes, computed_blocks(report), report->n_blocks, seconds,
           (double)bytes / 1e9 / (seconds > 0 ? seconds : 1));
}

static void json_difference(struct json_writer *w, const struct verify *verify,
                            const struct difference *difference)
{
    json_write_object(w, JSON_ONE_LINE);
    json_write_text_of(w, "kind", difference->kind);
    json_write_text_of(w, "tensor", difference->tensor);
    json_write_text_of(w, "text", difference->text);
    json_write_text_of(w, "holds", find_owner(verify, difference));
    if (difference->row != UINT64_MAX) {
        json_write_number_of(w, "row", difference->row);
        json_write_number_of(w, "column", difference->column);
    }
    json_write_end(w);
}

static void json_block(struct json_writer *w, const struct block_result *block)
{
    json_write_object(w, JSON_ONE_LINE);
    json_write_text_of(w, "block", block->block);
    json_write_text_of(w, "skipped", block->skipped);
    if (!block->skipped) {
        json_write_number_of(w, "tokens", block->tokens);
        json_write_number_of(w, "top_k", block->top_k);
        json_write_bool_of(w, "routed", block->routed);
        json_write_real_of(w, "max_abs", block->max_abs);
        json_write_real_of(w, "max_rel", block->max_rel);
        json_write_number_of(w, "token", block->token);
        json_write_number_of(w, "column", block->column);
        json_write_number_of(w, "not_finite", block->not_finite);
    }
    json_write_end(w);
}

void report_print_json(const struct verify *verify)
{
    const struct report *report = &verify->report;
    struct json_writer w;

    json_writer_init(&w, stdout);
    json_write_object(&w, JSON_LINES);
    json_write_text_of(&w, "verdict", report->n_found > 0 ? "different" : "equal");
    json_write_number_of(&w, "tensors", verify->n_digests);
    json_write_number_of(&w, "bytes", atomic_load(&report->bytes));
    json_write_real_of(&w, "seconds", report_seconds(report));
    json_write_number_of(&w, "found", report->n_found);
    json_write_key(&w, "differences");
    json_write_array(&w, JSON_LINES);
    for (unsigned i = 0; i < report->n_differences; i++)
        json_difference(&w, verify, &report->differences[i]);
    json_write_end(&w);
    json_write_key(&w, "function");
    json_write_array(&w, JSON_LINES);
    for (uint32_t b = 0; b < report->n_blocks; b++)
        json_block(&w, &report->blocks[b]);
    json_write_end(&w);
    json_write_end(&w);
    putchar('\n');
}
