/* Runs the levels of verify one after another. */
#include "verify.h"

#include "blobs.h"
#include "forward.h"
#include "loading.h"
#include "ungrouped.h"
#include "verdict.h"

#include "fs/base/messages.h"
#include "fs/base/parallel.h"

#include <inttypes.h>
#include <stdio.h>

#define THREADS_MAX 32

struct run {
    const struct verify_options *options;
    const struct verify_input *input;
    struct side sides[SIDES_MAX];
    unsigned n_sides;
    struct logical logical;
    struct digests digests;
    struct block_result *blocks; /* of the logical groups */
    uint32_t n_blocks;           /* that level 2 came to */
    struct report report;
    struct progress progress;
};

static void open_run(struct run *run, const struct verify_options *options, const struct verify_input *input)
{
    *run = (struct run){.options = options, .input = input};
    report_begin(&run->report);
    side_of_checkpoint(&run->sides[run->n_sides++], "the source", &input->view->directory->checkpoint,
                       input->view->directory->source);
    side_of_plan(&run->sides[run->n_sides++], "the reader", &input->view->plan, input->view->reader);
    if (input->other)
        side_of_checkpoint(&run->sides[run->n_sides++], options->other, &input->other->checkpoint,
                           input->other->source);
}

static void close_run(struct run *run)
{
    for (unsigned s = 0; s < run->n_sides; s++)
        side_free(&run->sides[s]);
    digests_free(&run->digests);
    logical_free(&run->logical);
    for (uint32_t b = 0; b < run->n_blocks; b++)
        free(run->blocks[b].skipped);
    free(run->blocks);
    report_free(&run->report);
}

/* ---- level 0 ---- */

/* Opening the directory has already held every header against its file's size. */
static int check_source(struct run *run, struct error *err)
{
    const struct directory *directory = run->input->view->directory;
    uint64_t n_checked;

    if (blobs_check(directory->source, &n_checked, &run->report, err) < 0 ||
        loading_check_index("the source", directory, false, &run->report, err) < 0)
        return -1;
    if (!run->options->json)
        printf("source: %" PRIu64
               " of %u files are named by their sha256 and were checked; %u headers fit their "
               "files' sizes\n",
               n_checked, directory->source->n_files, directory->checkpoint.n_shards);
    return 0;
}

static int check_files(struct run *run, struct error *err)
{
    const struct verify_input *input = run->input;

    if (run->options->source && check_source(run, err) < 0)
        return -1;
    if (!input->other)
        return 0;
    if (loading_check_index(run->options->other, input->other, true, &run->report, err) < 0)
        return -1;
    return loading_check_config(input->view->directory, run->options->other, input->other, &run->report, err);
}

/* ---- levels 1 and 2 ---- */

static int find_tensors(struct run *run, struct error *err)
{
    const struct verify_input *input = run->input;
    const struct logical_input find = {.checkpoint = &input->view->directory->checkpoint,
                                       .plan = &input->view->plan,
                                       .from = input->plan_options->from,
                                       .to = input->plan_options->to,
                                       .sides = run->sides,
                                       .n_sides = run->n_sides,
                                       .layers = run->options->layers};

    if (logical_find(&find, &run->logical, &run->report, err) < 0)
        return -1;
    digests_number(&run->digests, &run->logical);
    if (run->options->layers && run->digests.n_tensors == 0)
        return error_set(err, "--layers %s: no tensor's name has such a number", run->options->layers);
    return 0;
}

static uint64_t count_bytes(const struct run *run)
{
    uint64_t total = 0;

    for (uint32_t t = 0; t < run->sides[0].n_tensors; t++)
        if (logical_takes(run->options->layers, run->sides[0].tensors[t].info.name))
            total += run->sides[0].tensors[t].length;
    return total;
}

#ifdef MOEFS_FORWARD
static struct forward *open_forward(const struct run *run, unsigned n_threads, struct report *report,
                                    struct error *err)
{
    const struct verify_options *options = run->options;
    const struct verify_input *input = run->input;
    const struct forward_options forward = {.tokens = options->tokens,
                                            .seed = options->seed,
                                            .before_down = options->before_down,
                                            .keep = options->write_outputs != NULL};
    const struct config *source = &input->view->directory->checkpoint.config;
    const struct forward_input with = {
        .layouts = input->view->plan.layouts,
        .config = {source, input->other ? &input->other->checkpoint.config : source},
        .sides = run->sides,
        .n_sides = run->n_sides,
        .n_threads = n_threads,
        .report = report};

    return forward_new(&forward, &with, err);
}

static int compare_groups(struct run *run, struct bytes *bytes, struct error *err)
{
    struct forward *forward = open_forward(run, bytes->n_threads, &run->report, err);
    int result = 0;

    if (!forward)
        return -1;
    for (uint32_t g = 0; g < run->logical.n_groups && result == 0; g++) {
        const struct logical_group *group = &run->logical.groups[g];
        run->n_blocks = g + 1;
        struct forward_block *block = forward_begin(forward, group, &run->blocks[g]);
        const struct bytes_watcher watcher = forward_watcher(block);
        result = bytes_compare(bytes, group, block ? &watcher : NULL);
        forward_end(block, result == 0);
    }
    if (result == 0 && run->options->write_outputs &&
        forward_write(forward, run->options->write_outputs, err) < 0)
        result = -1;
    forward_free(forward);
    return result;
}
#else
static int compare_groups(struct run *run, struct bytes *bytes, struct error *err)
{
    static const char without[] = "this moefs was built without -Dverify=true";
    int result = 0;

    if (run->options->write_outputs)
        return error_set(err, "--write-outputs %s: %s", run->options->write_outputs, without);
    for (uint32_t g = 0; g < run->logical.n_groups && result == 0; g++) {
        run->blocks[run->n_blocks++] =
            (struct block_result){.block = run->logical.groups[g].title, .skipped = xstrdup(without)};
        result = bytes_compare(bytes, &run->logical.groups[g], NULL);
    }
    return result;
}
#endif

static bool wants_digests(const struct verify_options *options)
{
    return options->write_digests || options->check_digests;
}

static int compare_tensors(struct run *run, struct error *err)
{
    const unsigned processors = parallel_processors();
    struct bytes bytes = {.sides = run->sides,
                          .n_sides = run->n_sides,
                          .n_threads = processors < THREADS_MAX ? processors : THREADS_MAX,
                          .hashes = wants_digests(run->options),
                          .digests = &run->digests,
                          .report = &run->report,
                          .progress = &run->progress};

    bytes_begin(&bytes);
    run->blocks = xcalloc(run->logical.n_groups, sizeof *run->blocks);
    int result = compare_groups(run, &bytes, err);
    if (result == 0)
        result = ungrouped_compare(&bytes, run->logical.ungrouped, run->logical.n_ungrouped);
    /* to say whose bytes lie in a wrong place, all of them must be known */
    for (uint32_t g = 0; g < run->logical.n_groups && result == 0 && run->report.n_found > 0 && !bytes.hashes;
         g++)
        result = bytes_hash(&bytes, &run->logical.groups[g]);
    bytes_end(&bytes);
    return result;
}

static int check_digests(struct run *run, struct error *err)
{
    const struct verify_options *options = run->options;

    if (options->write_digests && digests_write(&run->digests, options->write_digests, err) < 0)
        return -1;
    return options->check_digests
               ? digests_check(&run->digests, options->check_digests, options->layers, &run->report, err)
               : 0;
}

static int run_levels(struct run *run, struct error *err)
{
    if (check_files(run, err) < 0 || find_tensors(run, err) < 0)
        return -1;
    progress_begin(&run->progress, count_bytes(run));
    int result = compare_tensors(run, err);
    if (result == 0 && wants_digests(run->options) && !run->options->layers)
        result = digests_add_files(&run->digests, &run->sides[run->n_sides - 1], &run->report);
    progress_end(&run->progress);
    if (result < 0)
        return run->report.failure.text ? error_relay(err, run->report.failure.text) : -1;
    return check_digests(run, err);
}

static void print_verdict(const struct run *run)
{
    const struct verdict verdict = {.report = &run->report,
                                    .progress = &run->progress,
                                    .digests = &run->digests,
                                    .blocks = run->blocks,
                                    .n_blocks = run->n_blocks,
                                    .to = run->input->plan_options->to ? run->input->plan_options->to : "v5"};

    if (run->options->json)
        verdict_print_json(&verdict);
    else
        verdict_print_text(&verdict);
}

int verify_run(const struct verify_options *options, const struct verify_input *input, struct error *err)
{
    struct run run;

    open_run(&run, options, input);
    int result = run_levels(&run, err);
    if (result == 0) {
        messages_print_notes(&run.report.notes);
        print_verdict(&run);
        result = run.report.n_found > 0;
    }
    close_run(&run);
    return result;
}
