/* Whether what is exposed holds the source's weights, by their bytes and by what they compute. */
#include "verify.h"

#include "fs/base/messages.h"
#include "fs/base/parallel.h"

#include <stdio.h>
#include <string.h>

#define THREADS_MAX 32

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

static int run_levels(struct verify *verify, const struct verify_input *input, struct error *err)
{
    const struct verify_options *options = verify->options;

    if (options->source && verify_source(verify, input->source_directory, err) < 0)
        return -1;
    if (options->other && verify_index(verify, options->other, input->other_directory, err) < 0)
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
        return error_relay(err, verify->report.failure.text ? verify->report.failure.text : "failed");
    if ((options->write_digests && digests_write(verify, options->write_digests, err) < 0) ||
        (options->check_digests && digests_check(verify, options->check_digests, err) < 0) ||
        (options->write_outputs && function_write(verify, err) < 0))
        return -1;
    return 0;
}

int verify_run(const struct verify_options *options, const struct verify_input *input, struct error *err)
{
    const unsigned processors = parallel_processors();
    struct verify verify = {.options = options,
                            .plan_options = input->plan_options,
                            .layouts = input->plan->layouts,
                            .checkpoint = &input->source_directory->checkpoint,
                            .plan = input->plan,
                            .n_threads = processors < THREADS_MAX ? processors : THREADS_MAX};
    int result = -1;

    report_begin(&verify.report, 0);
    side_of_checkpoint(&verify.sides[verify.n_sides++], "the source", verify.checkpoint,
                       input->source_directory->source);
    side_of_plan(&verify.sides[verify.n_sides++], "the reader", input->plan, input->reader);
    if (options->other)
        side_of_checkpoint(&verify.sides[verify.n_sides++], options->other,
                           &input->other_directory->checkpoint, input->other_directory->source);
    if (run_levels(&verify, input, err) == 0) {
        messages_print_notes(&verify.report.notes);
        if (options->json)
            report_print_json(&verify);
        else
            report_print_text(&verify);
        result = verify.report.n_found > 0;
    }
    free_verify(&verify);
    return result;
}
