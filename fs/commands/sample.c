/* moefs sample: a checkpoint to try things with. What is written is a plan over a source that computes its
 * bytes, so that a sample in another layout is made by the same code as a mount of it. */
#include "plan_rows.h"

#include "layout/format/checkpoint.h"
#include "layout/layouts.h"
#include "layout/plan.h"
#include "fs/base/messages.h"
#include "fs/read/reader.h"
#include "fs/sample/model.h"
#include "fs/convert/output.h"
#include "fs/sample/source.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define BUFFER_SIZE ((size_t)8 << 20)
#define CACHE_SIZE ((size_t)64 << 20)

struct sample_command {
    uint64_t layers, experts, hidden, intermediate; /* 0: the entry's or the preset's */
    const char *layout;
    uint64_t shards; /* 0: the preset's byte limit, else the entry's number */
    uint64_t seed;
    const char *like; /* a preset, or NULL */
    bool sparse;
    const char *directory;
};

static int parse_size(const struct option_use *use, void *field, struct error *err)
{
    return option_parse_number(use, 1, SAMPLE_SIZE_MAX, field, err);
}

static int parse_shards(const struct option_use *use, void *field, struct error *err)
{
    return option_parse_number(use, 1, SAMPLE_SHARDS_MAX, field, err);
}

static int parse_layout(const struct option_use *use, void *field, struct error *err)
{
    if (layouts_is_file(use->text))
        return option_refuse(use, err, "a sample is written in a layout that moefs knows (`moefs layouts`)");
    return option_layout(use, field, err);
}

#define FIELD(member) offsetof(struct sample_command, member)

static const struct option_row sample_rows[] = {
    {"layers", 0, "N", parse_size, FIELD(layers), "number of layers; default 2"},
    {"experts", 0, "N", parse_size, FIELD(experts), "experts of a layer; default 8"},
    {"hidden", 0, "N", parse_size, FIELD(hidden), "width of the model; default 64"},
    {"intermediate", 0, "N", parse_size, FIELD(intermediate), "width of an expert; default 48"},
    {"layout", 0, "LAYOUT", parse_layout, FIELD(layout),
     "store the experts in this layout; default original, as on the hub"},
    {"shards", 0, "N", parse_shards, FIELD(shards), "number of weight files; default 2"},
    {"seed", 0, "N", option_number, FIELD(seed), "other contents; default 0"},
    {"like", 0, "CHECKPOINT", option_text, FIELD(like),
     "sizes and sharding of qwen3-30b-a3b, of qwen3-vl-30b-a3b (its language model) or of gpt-oss-20b (in "
     "BF16); the options above change them; ARCH may then be left out"},
    {"sparse", 0, NULL, option_flag, FIELD(sparse),
     "real headers, all weights zero: 61 GB take a few megabytes"},
    {0},
};

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

static int write_files(const struct sample_command *options, const struct sample_model *model,
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

static int write_sample(const struct sample_command *options, const struct sample_model *model,
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

static int make_sample(const struct sample_command *options, const struct sample_model *model,
                       struct error *err)
{
    const struct plan_options plan_options = {.to = options->layout, .to_option = "--layout"};
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
        messages_printf("%s: %s, %" PRIu32 " tensors of %" PRIu64 " bytes in %" PRIu32 " file%s%s\n",
                        options->directory, model->model_type, plan.n_tensors, plan.total_size,
                        plan.n_weight_files, plan.n_weight_files == 1 ? "" : "s",
                        options->sparse ? ", sparse" : "");
    source_close(source);
    plan_free(&plan);
    checkpoint_free(&checkpoint);
    return result;
}

static int build_model(const struct sample_command *options, const char *model_type,
                       struct sample_model *model, struct error *err)
{
    const struct sample_size given[] = {{"layers", options->layers},
                                        {"experts", options->experts},
                                        {"hidden", options->hidden},
                                        {"intermediate", options->intermediate}};
    struct sample_size sizes[sizeof given / sizeof *given];
    struct sample_request request = {
        .model_type = model_type, .preset = options->like, .sizes = sizes, .n_shards = options->shards};

    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        if (given[i].value > 0)
            sizes[request.n_sizes++] = given[i];
    return sample_model_build(&request, model, err);
}

static int run_sample(int argc, char **argv, struct error *err)
{
    struct sample_command options = {.layout = "original"};
    struct operands operands;
    struct sample_model model;
    const int parsed = options_parse(&command_sample, argc, argv, &options, &operands, err);

    if (parsed != OPTIONS_GO)
        return parsed;
    if (operands.n == 1 && !options.like)
        return error_set(err, "sample: expected ARCH DIR, got 1 operand; `moefs sample --help` explains"),
               EXIT_USAGE;
    options.directory = operands.list[operands.n - 1];
    if (build_model(&options, operands.n > 1 ? operands.list[0] : NULL, &model, err) < 0)
        return EXIT_REFUSED;
    catch_signals();
    int result = make_sample(&options, &model, err);
    sample_model_free(&model);
    return result ? EXIT_REFUSED : EXIT_OK;
}

const struct command command_sample = {
    .name = "sample",
    .purpose = "write a small valid checkpoint to try things on",
    .operands = "ARCH DIR",
    .n_operands = 1,
    .n_optional = 1,
    .description =
        "Writes a checkpoint of the architecture (one that is not known is answered with those that "
        "are) into DIR, which must be absent or empty: config.json and BF16 weights with "
        "random-looking contents, for trying moefs and for tests. The same options give the same "
        "bytes everywhere, and the same weights in every layout.",
    .options = (const struct option_set[]){{sample_rows, 0}, {0}},
    .run = run_sample,
};
