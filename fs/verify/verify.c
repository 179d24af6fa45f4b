/* moefs verify: whether what is exposed holds the source's weights, by their bytes and by what they compute.
 */
#include "verify.h"

#include "fs/commands/commands.h"
#include "fs/commands/messages.h"
#include "fs/commands/options.h"
#include "fs/base/parallel.h"

#include <stdio.h>
#include <string.h>

#define THREADS_MAX 32
#define CACHE_SIZE ((size_t)256 << 20)

static const struct options_command verify_command = {
    .name = "verify",
    .operands = "SRC [MNT|DST]",
    .n_operands = 1,
    .n_optional = 1,
    .sets = OPTIONS_PLAN | OPTIONS_VERIFY | OPTIONS_REPORT,
    .purpose = "Reads every tensor that a mount of SRC would show, and those of a mount MNT or a converted\n"
               "directory DST where one is given, and compares each with the source's: its bytes, and what\n"
               "each block's experts compute. The verdict is the last line.\n"
               "Exit status: 0 equal, 3 a difference was found, 1 a failure, 2 wrong usage."};

/* What is open during a run. */
struct opened {
    struct options options;
    struct directory source_directory, other_directory;
    struct plan plan;
    struct source *source, *other;
    struct reader *reader;
    bool has_other;
};

static int open_source(struct opened *opened, struct error *err)
{
    if (directory_open(opened->options.operands[0], &opened->options.directory, &opened->source_directory,
                       err) < 0)
        return -1;
    messages_print_notes(&opened->source_directory.notes);
    if (plan_build(&opened->source_directory.checkpoint, &opened->options.plan, &opened->plan, err) < 0)
        return -1;
    messages_print_notes(&opened->plan.notes);
    opened->source = directory_source(&opened->source_directory, err);
    if (!opened->source)
        return -1;
    opened->reader = reader_new(&opened->plan, opened->source, CACHE_SIZE);
    return opened->reader ? 0 : error_set(err, "out of memory");
}

static int open_other(struct opened *opened, struct error *err)
{
    const struct directory_options options = {.follow_symlinks = true};

    opened->has_other = opened->options.n_operands > 1;
    if (!opened->has_other)
        return 0;
    if (directory_open(opened->options.operands[1], &options, &opened->other_directory, err) < 0)
        return -1;
    opened->other = directory_source(&opened->other_directory, err);
    return opened->other ? 0 : -1;
}

static void close_all(struct opened *opened)
{
    reader_free(opened->reader);
    source_close(opened->source);
    source_close(opened->other);
    plan_free(&opened->plan);
    directory_close(&opened->source_directory);
    directory_close(&opened->other_directory);
}

static void free_verify(struct verify *verify)
{
    for (unsigned s = 0; s < verify->n_sides; s++)
        side_free(&verify->sides[s]);
    for (uint64_t d = 0; d < verify->n_digests + verify->n_files; d++) {
        free(verify->digests[d].name);
        free(verify->digests[d].type);
    }
    for (uint32_t o = 0; o < verify->n_outputs; o++) {
        free(verify->outputs[o].x);
        free(verify->outputs[o].weights);
        free(verify->outputs[o].output);
        free(verify->outputs[o].experts);
    }
    free(verify->outputs);
    free(verify->digests);
    free(verify->groups);
    free(verify->others);
    free(verify->other_names);
    report_free(&verify->report);
    arena_free(&verify->arena);
}

static bool wants_file_digests(const struct verify_options *options)
{
    return (options->write_digests || options->check_digests) && !options->layers;
}

static void set_total(struct verify *verify)
{
    uint64_t total = 0;

    for (uint32_t t = 0; t < verify->sides[0].n_tensors; t++)
        if (verify_takes(verify, verify->sides[0].tensors[t].info.name))
            total += verify->sides[0].tensors[t].length;
    verify->report.total = total;
}

static int run_levels(struct verify *verify, const struct opened *opened, struct error *err)
{
    const struct verify_options *options = verify->options;

    if (options->source && verify_source(verify, &opened->source_directory, err) < 0)
        return -1;
    if (opened->has_other && verify_index(verify, options->other, &opened->other_directory, err) < 0)
        return -1;
    if (verify_find(verify, err) < 0)
        return -1;
    if (options->layers && verify->n_digests == 0)
        return error_set(err, "--layers %s: no tensor's name has such a number", options->layers);
    set_total(verify);
    verify->hashes = options->write_digests || options->check_digests;
    int result = verify_bytes(verify);
    if (result == 0 && verify->report.n_found > 0 && !verify->hashes)
        result = verify_hash(verify);
    if (result == 0 && wants_file_digests(options))
        result = digests_of_files(verify);
    report_end(&verify->report);
    if (result < 0)
        return error_set(err, "%s", verify->report.failure.text ? verify->report.failure.text : "failed");
    if ((options->write_digests && digests_write(verify, options->write_digests, err) < 0) ||
        (options->check_digests && digests_check(verify, options->check_digests, err) < 0) ||
        (options->write_outputs && function_write(verify, err) < 0))
        return -1;
    return 0;
}

static int verify_opened(const struct opened *opened, struct error *err)
{
    const unsigned processors = parallel_processors();
    const struct verify_options options = {.src = opened->options.operands[0],
                                           .other = opened->has_other ? opened->options.operands[1] : NULL,
                                           .layers = opened->options.layers,
                                           .write_digests = opened->options.write_digests,
                                           .check_digests = opened->options.check_digests,
                                           .write_outputs = opened->options.write_outputs,
                                           .tokens = opened->options.tokens,
                                           .seed = opened->options.seed,
                                           .json = opened->options.json,
                                           .source = opened->options.source,
                                           .before_down = opened->options.before_down};
    struct verify verify = {.options = &options,
                            .plan_options = &opened->options.plan,
                            .layouts = opened->plan.layouts,
                            .checkpoint = &opened->source_directory.checkpoint,
                            .plan = &opened->plan,
                            .n_threads = processors < THREADS_MAX ? processors : THREADS_MAX};
    int status = EXIT_REFUSED;

    report_begin(&verify.report, 0);
    side_of_checkpoint(&verify.sides[verify.n_sides++], "the source", verify.checkpoint, opened->source);
    side_of_plan(&verify.sides[verify.n_sides++], "the reader", &opened->plan, opened->reader);
    if (opened->has_other)
        side_of_checkpoint(&verify.sides[verify.n_sides++], options.other,
                           &opened->other_directory.checkpoint, opened->other);
    if (run_levels(&verify, opened, err) == 0) {
        messages_print_notes(&verify.report.notes);
        if (options.json)
            report_print_json(&verify);
        else
            report_print_text(&verify);
        status = verify.report.n_found > 0 ? EXIT_DIFFERENT : EXIT_OK;
    }
    free_verify(&verify);
    return status;
}

int command_verify(int argc, char **argv, struct error *err)
{
    struct opened opened = {0};
    int status = EXIT_REFUSED;

    const enum options_result parsed = options_parse(&verify_command, argc, argv, &opened.options, err);
    if (parsed != OPTIONS_GO) {
        options_free(&opened.options);
        return parsed == OPTIONS_DONE ? EXIT_OK : EXIT_USAGE;
    }
    if (open_source(&opened, err) == 0 && open_other(&opened, err) == 0)
        status = verify_opened(&opened, err);
    close_all(&opened);
    options_free(&opened.options);
    return status;
}
