/* moefs sample: a checkpoint to try things with. What is written is a view of a source that computes its
 * bytes, so that a sample in another layout is made by the same code as a mount of it. */
#include "plan_rows.h"

#include "layout/layouts.h"
#include "fs/base/messages.h"
#include "fs/convert/convert.h"
#include "fs/sample/model.h"
#include "fs/sample/source.h"
#include "fs/source/directory.h"
#include "fs/view/tree.h"

#include <inttypes.h>

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

/* What a plan says for information is about a mount. */
static void print_warnings(const struct notes *notes)
{
    for (size_t i = 0; i < notes->n; i++)
        if (notes->list[i].kind == NOTE_WARNING)
            messages_print_notes(&(struct notes){.list = &notes->list[i], .n = 1});
}

static int write_view(const struct sample_command *options, const struct sample_model *model,
                      struct view *view, struct error *err)
{
    const struct convert_options how = {.sparse = options->sparse};
    const struct plan *plan = &view->plan;
    struct tree tree;

    print_warnings(&plan->notes);
    if (tree_build(view, 1, &tree, err) < 0)
        return -1;
    int result = view_start(view, CACHE_SIZE, err);
    if (result == 0)
        result = convert_tree(&tree, options->directory, &how, err);
    tree_free(&tree);
    if (result == 0)
        messages_printf("%s: %s, %" PRIu32 " tensors of %" PRIu64 " bytes in %" PRIu32 " file%s%s\n",
                        options->directory, model->model_type, plan->n_tensors, plan->total_size,
                        plan->n_weight_files, plan->n_weight_files == 1 ? "" : "s",
                        options->sparse ? ", sparse" : "");
    return result;
}

static int make_sample(const struct sample_command *options, const struct sample_model *model,
                       struct error *err)
{
    const struct plan_options plan_options = {.to = options->layout};
    struct directory directory;
    struct listing listing;
    struct view view;

    struct source *source = source_sample_open(model, options->directory, options->seed, &listing);
    if (directory_read(&listing, source, &directory, err) < 0)
        return -1;
    print_warnings(&directory.notes);
    int result = view_open(&view, &directory, &plan_options, err);
    if (result == 0) {
        result = write_view(options, model, &view, err);
        view_close(&view);
    }
    directory_close(&directory);
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
    int result = make_sample(&options, &model, err);
    sample_model_free(&model);
    return result < 0 ? EXIT_REFUSED : EXIT_OK;
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
