/* What a run found, as text and as JSON. */
#include "verdict.h"

#include "fs/base/messages.h"

#include "layout/format/json_write.h"

#include <inttypes.h>
#include <stdio.h>

static void print_difference(const struct verdict *verdict, const struct difference *difference)
{
    const char *owner = digests_owner(verdict->digests, difference->digest);

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

/* The blocks of level 2: what the verdict is about. */
static uint32_t computed_blocks(const struct verdict *verdict)
{
    uint32_t n = 0;

    for (uint32_t b = 0; b < verdict->n_blocks; b++)
        n += verdict->blocks[b].skipped == NULL;
    return n;
}

void verdict_print_text(const struct verdict *verdict)
{
    const struct report *report = verdict->report;
    const double seconds = progress_seconds(verdict->progress);
    const uint64_t bytes = atomic_load(&verdict->progress->bytes);

    for (uint32_t b = 0; b < verdict->n_blocks; b++)
        print_block(&verdict->blocks[b]);
    for (unsigned i = 0; i < report->n_differences; i++)
        print_difference(verdict, &report->differences[i]);
    if (report->n_found > 0) {
        if (report->n_found > report->n_differences)
            printf("... and %" PRIu64 " more\n", report->n_found - report->n_differences);
        printf("DIFFERENT (%" PRIu64 "): ", report->n_found);
        print_difference(verdict, &report->differences[0]);
        return;
    }
    printf("EQUAL: %" PRIu64 " tensors, %" PRIu64 " bytes; function of %" PRIu32 " of %" PRIu32
           " blocks; %.1f s, %.2f GB/s\n",
           verdict->digests->n_tensors, bytes, computed_blocks(verdict), verdict->n_blocks, seconds,
           (double)bytes / 1e9 / (seconds > 0 ? seconds : 1));
}

static void json_difference(struct json_writer *w, const struct verdict *verdict,
                            const struct difference *difference)
{
    json_write_object(w, JSON_ONE_LINE);
    json_write_text_of(w, "kind", difference->kind);
    json_write_text_of(w, "tensor", difference->tensor);
    json_write_text_of(w, "text", difference->text);
    json_write_text_of(w, "holds", digests_owner(verdict->digests, difference->digest));
    if (difference->row != DIFFERENCE_NONE) {
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

void verdict_print_json(const struct verdict *verdict)
{
    const struct report *report = verdict->report;
    struct json_writer w;

    json_writer_init(&w, stdout);
    json_write_object(&w, JSON_LINES);
    json_write_text_of(&w, "verdict", report->n_found > 0 ? "different" : "equal");
    json_write_text_of(&w, "to", verdict->to);
    json_write_number_of(&w, "tensors", verdict->digests->n_tensors);
    json_write_number_of(&w, "bytes", atomic_load(&verdict->progress->bytes));
    json_write_real_of(&w, "seconds", progress_seconds(verdict->progress));
    json_write_number_of(&w, "found", report->n_found);
    json_write_key(&w, "differences");
    json_write_array(&w, JSON_LINES);
    for (unsigned i = 0; i < report->n_differences; i++)
        json_difference(&w, verdict, &report->differences[i]);
    json_write_end(&w);
    json_write_key(&w, "notes");
    json_write_array(&w, JSON_LINES);
    for (size_t i = 0; i < report->notes.n; i++)
        json_write_text(&w, report->notes.list[i].text);
    json_write_end(&w);
    json_write_key(&w, "function");
    json_write_array(&w, JSON_LINES);
    for (uint32_t b = 0; b < verdict->n_blocks; b++)
        json_block(&w, &verdict->blocks[b]);
    json_write_end(&w);
    json_write_end(&w);
    putchar('\n');
}
