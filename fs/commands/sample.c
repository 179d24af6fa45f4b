/* moefs sample: a checkpoint to try things with. What is written is a plan over a source that computes its
 * bytes, so that a sample in another layout is made by the same code as a mount of it. */
#include "commands.h"

#include "layout/format/checkpoint.h"
#include "layout/layouts.h"
#include "layout/plan.h"
#include "messages.h"
#include "fs/read/reader.h"
#include "fs/sample/model.h"
#include "sample_options.h"
#include "fs/convert/output.h"
#include "fs/sample/source.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define BUFFER_SIZE ((size_t)8 << 20)
#define CACHE_SIZE ((size_t)64 << 20)

static volatile sig_atomic_t interrupted;

static void note_signal(int number)
{
    interrupted = number;
}

/* What was written must be removed: only a flag is set here. */
static void catch_signals(void)
{
    const struct sigaction action = {.sa_handler = note_signal};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

/* What a plan says for information is about a mount. */
static void print_warnings(const struct notes *notes)
{
    for (size_t i = 0; i < notes->n; i++)
        if (notes->list[i].kind == NOTE_WARNING)
            messages_print_notes(&(struct notes){.list = &notes->list[i], .n = 1});
}

static int check_layout(const char *name, struct error *err)
{
    struct layouts layouts;

    if (layouts_load(&layouts, NULL, err))
        return -1;
    int result = layouts_check_name(&layouts, "--layout", name, err);
    layouts_free(&layouts);
    return result;
}

/* The model as the checkpoint that a plan is built from. */
static int make_checkpoint(const struct sample_model *model, struct checkpoint *checkpoint, struct error *err)
{
    *checkpoint = (struct checkpoint){.index_name = "model.safetensors.index.json"};
    if (config_parse("config.json", model->config, strlen(model->config), &checkpoint->config, err))
        return -1;
    for (uint32_t i = 0; i < model->n_shards; i++) {
        const struct sample_shard *shard = &model->shards[i];
        struct safetensors_header header = {
            .tensors = xreallocarray(NULL, shard->n_tensors, sizeof *header.tensors),
            .n_tensors = shard->n_tensors,
            .data_offset = shard->head_length,
        };
        for (uint32_t k = 0; k < shard->n_tensors; k++) {
            const struct sample_tensor *tensor = &model->tensors[shard->first_tensor + k];
            uint64_t begin = tensor->offset - shard->head_length;
            header.tensors[k] = (struct safetensors_tensor){
                .info = tensor->info,
                .begin = begin,
                .end = begin + tensor->length,
            };
        }
        checkpoint_add_shard(checkpoint, shard->name, shard->size, &header);
        free(header.tensors);
    }
    struct notes notes = {0};
    int result = checkpoint_settle(checkpoint, NULL, &notes, err);
    print_warnings(&notes);
    notes_free(&notes);
    if (result)
        checkpoint_free(checkpoint);
    return result;
}

static int write_text(struct sample_output *output, const char *name, const char *text, struct error *err)
{
    if (sample_output_begin(output, name, err) || sample_output_write(output, text, strlen(text), err) ||
        sample_output_write(output, "\n", 1, err))
        return -1;
    return sample_output_finish(output, err);
}

static int write_bytes(struct sample_output *output, struct reader *reader, uint32_t file, uint64_t length,
                       void *buffer, struct error *err)
{
    for (uint64_t at = 0; at < length;) {
        size_t n = length - at < BUFFER_SIZE ? (size_t)(length - at) : BUFFER_SIZE;
        int error = interrupted ? 0 : reader_read(reader, file, at, n, buffer);

        if (interrupted)
            return error_set(err, "interrupted: %s is left as it was", output->path);
        if (error)
            return error_set(err, "%s/%s: cannot compute bytes %" PRIu64 " to %" PRIu64 ": %s", output->path,
                             output->name, at, at + n, strerror(error));
        if (sample_output_write(output, buffer, n, err))
            return -1;
        at += n;
    }
    return 0;
}

static int write_files(const struct sample_options *options, const struct sample_model *model,
                       const struct plan *plan, struct reader *reader, struct sample_output *output,
                       struct error *err)
{
    cleanup_free void *buffer = xmalloc(BUFFER_SIZE);

    if (write_text(output, "config.json", model->config, err) ||
        write_text(output, "generation_config.json", model->generation_config, err))
        return -1;
    for (uint32_t i = 0; i < plan->n_files; i++) {
        const struct planned_file *file = &plan->files[i];
        bool verbatim = file->verbatim_shard != PLAN_NO_SHARD;
        uint64_t head = verbatim ? model->shards[file->verbatim_shard].head_length : file->head_length;

        if (sample_output_begin(output, file->name, err) ||
            write_bytes(output, reader, i, options->sparse ? head : file->size, buffer, err) ||
            (options->sparse && sample_output_extend(output, file->size, err)) ||
            sample_output_finish(output, err))
            return -1;
    }
    return 0;
}

static int write_sample(const struct sample_options *options, const struct sample_model *model,
                        const struct plan *plan, struct source *source, struct error *err)
{
    struct sample_output output;

    if (sample_output_open(options->directory, &output, err))
        return -1;
    struct reader *reader = reader_new(plan, source, CACHE_SIZE);
    if (!reader)
        memory_exhausted();
    int result = write_files(options, model, plan, reader, &output, err);
    reader_free(reader);
    sample_output_close(&output, result);
    return result;
}

static int make_sample(const struct sample_options *options, const struct sample_model *model,
                       struct error *err)
{
    const struct plan_options plan_options = {.to = options->layout};
    struct checkpoint checkpoint;
    struct plan plan;

    if (make_checkpoint(model, &checkpoint, err))
        return -1;
    if (plan_build(&checkpoint, &plan_options, &plan, err)) {
        checkpoint_free(&checkpoint);
        return -1;
    }
    print_warnings(&plan.notes);
    struct source *source = source_sample_open(model, options->seed);
    int result = write_sample(options, model, &plan, source, err);
    if (!result)
        printf("%s: %s, %" PRIu32 " tensors of %" PRIu64 " bytes in %" PRIu32 " file%s%s\n",
               options->directory, model->model_type, plan.n_tensors, plan.total_size, plan.n_weight_files,
               plan.n_weight_files == 1 ? "" : "s", options->sparse ? ", sparse" : "");
    source_close(source);
    plan_free(&plan);
    checkpoint_free(&checkpoint);
    return result;
}

int command_sample(int argc, char **argv, struct error *err)
{
    struct sample_options options;
    struct sample_model model;

    switch (sample_options_parse(argc, argv, &options, err)) {
    case OPTIONS_ERROR:
        return EXIT_USAGE;
    case OPTIONS_DONE:
        return EXIT_OK;
    case OPTIONS_GO:
        break;
    }
    if (check_layout(options.layout, err) || sample_model_build(&options.request, &model, err))
        return EXIT_REFUSED;
    catch_signals();
    int result = make_sample(&options, &model, err);
    sample_model_free(&model);
    return result ? EXIT_REFUSED : EXIT_OK;
}
