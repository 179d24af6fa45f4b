/* moefs plan: what a mount would show, without mounting. */
#include "fs/source/directory.h"
#include "fs/source/layout_file.h"
#include "fs/base/messages.h"
#include "plan_rows.h"
#include "plan_view.h"
#include "fs/view/tree.h"

#include "layout/base/text.h"
#include "layout/format/json_write.h"
#include "layout/layouts.h"
#include "layout/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct plan_command {
    struct plan_arguments plan;
    bool json;
    const char *explain; /* a virtual tensor's name, or NULL */
};

static const struct option_row print_rows[] = {
    {"json", 0, NULL, option_flag, offsetof(struct plan_command, json), "print JSON"},
    {"explain", 0, "TENSOR", option_text, offsetof(struct plan_command, explain),
     "say where this virtual tensor comes from, step by step"},
    {0},
};

/* ---- for people ---- */

struct origin {
    const struct tensor *first, *last;
    uint64_t n; /* changes of source tensor along the virtual one */
    bool computed;
};

static void count_origin(const struct plan_view *view, const struct plan_piece *piece, void *context)
{
    struct origin *origin = context;

    (void)view;
    if (!origin->first)
        origin->first = piece->tensor;
    if (origin->last != piece->tensor)
        origin->n++;
    origin->last = piece->tensor;
    origin->computed |= piece->length == 0;
}

static void print_tensor(const struct plan_view *view, const struct planned_tensor *tensor)
{
    const struct shard *shards = view->checkpoint->shards;
    cleanup_free char *shape = text_of_shape(tensor->info.shape, tensor->info.n_dims);
    struct origin origin = {0};

    messages_printf("%s  %s %s  %s", tensor->info.name, dtype_name(tensor->info.dtype), shape,
                    view->plan->files[tensor->file].name);
    plan_view_visit(view, tensor, count_origin, &origin);
    if (!origin.first)
        printf("  <- empty\n");
    else if (tensor->group == UINT32_MAX)
        messages_printf("  <- %s, unchanged\n", shards[origin.first->shard].name);
    else if (origin.first == origin.last)
        messages_printf("  <- %s in %s%s\n", origin.first->info.name, shards[origin.first->shard].name,
                        origin.computed ? ", transposed or interleaved" : "");
    else
        messages_printf("  <- %" PRIu64 " parts%s, %s in %s to %s in %s\n", origin.n,
                        origin.computed ? ", transposed or interleaved" : "", origin.first->info.name,
                        shards[origin.first->shard].name, origin.last->info.name,
                        shards[origin.last->shard].name);
}

static void print_files(const struct plan_view *view)
{
    for (uint32_t f = 0; f < view->plan->n_files; f++) {
        const struct planned_file *file = &view->plan->files[f];
        messages_printf("%s  %" PRIu64 " bytes  %u tensors", file->name, file->size, file->n_tensors);
        if (file->verbatim_shard != PLAN_NO_SHARD)
            messages_printf("  = %s, verbatim", view->checkpoint->shards[file->verbatim_shard].name);
        else if (f >= view->plan->n_weight_files)
            printf("  (generated index)");
        putchar('\n');
    }
}

/* Which known loaders take the layout: an architecture's own list. */
static void visit_loaders(const struct plan_view *view,
                          void (*visit)(const char *layout, const char *const *loaders, unsigned n,
                                        void *context),
                          void *context)
{
    const struct architecture *architecture = view->plan->architecture;

    for (unsigned l = 0; l < architecture->n_loaders; l++) {
        const char *name = architecture->loaders[l].layout->name;
        bool used = false;
        for (uint32_t g = 0; g < view->plan->n_groups; g++)
            used |= strcmp(view->plan->groups[g].to, name) == 0;
        if (used)
            visit(name, architecture->loaders[l].loaders, architecture->loaders[l].n, context);
    }
}

static void print_loaders(const char *layout, const char *const *loaders, unsigned n, void *context)
{
    (void)context;
    messages_printf("%s is read by: ", layout);
    for (unsigned i = 0; i < n; i++)
        messages_printf("%s%s", i ? "; " : "", loaders[i]);
    putchar('\n');
}

static void print_text(const struct plan_view *view)
{
    const struct plan *plan = view->plan;

    for (uint32_t t = 0; t < plan->n_tensors; t++)
        print_tensor(view, &plan->tensors[t]);
    putchar('\n');
    print_files(view);
    printf("\ntotal: %u tensors, %" PRIu64 " bytes in %u weight files (source: %u tensors in %u files)\n",
           plan->n_tensors, plan->total_size, plan->n_weight_files, view->checkpoint->n_tensors,
           view->checkpoint->n_shards);
    visit_loaders(view, print_loaders, NULL);
}

/* ---- for programs ---- */

static void json_piece(const struct plan_view *view, const struct plan_piece *piece, void *context)
{
    struct json_writer *w = context;

    json_write_object(w, JSON_ONE_LINE);
    json_write_text_of(w, "tensor", piece->tensor->info.name);
    json_write_text_of(w, "file", view->checkpoint->shards[piece->tensor->shard].name);
    json_write_number_of(w, "offset", piece->offset);
    if (piece->length > 0)
        json_write_number_of(w, "length", piece->length);
    else
        json_write_bool_of(w, "computed", true);
    json_write_end(w);
}

static void json_tensor(struct json_writer *w, const struct plan_view *view,
                        const struct planned_tensor *tensor)
{
    json_write_object(w, JSON_ONE_LINE);
    json_write_text_of(w, "name", tensor->info.name);
    json_write_text_of(w, "dtype", dtype_name(tensor->info.dtype));
    json_write_key(w, "shape");
    json_write_numbers(w, tensor->info.shape, tensor->info.n_dims);
    json_write_text_of(w, "file", view->plan->files[tensor->file].name);
    json_write_number_of(w, "offset", tensor->offset);
    json_write_number_of(w, "length", tensor->length);
    json_write_bool_of(w, "converted", tensor->group != UINT32_MAX);
    json_write_key(w, "sources");
    json_write_array(w, JSON_ONE_LINE);
    plan_view_visit(view, tensor, json_piece, w);
    json_write_end(w);
    json_write_end(w);
}

static void json_file(struct json_writer *w, const struct plan_view *view, const struct planned_file *file)
{
    bool verbatim = file->verbatim_shard != PLAN_NO_SHARD;

    json_write_object(w, JSON_ONE_LINE);
    json_write_text_of(w, "name", file->name);
    json_write_number_of(w, "size", file->size);
    json_write_number_of(w, "tensors", file->n_tensors);
    json_write_text_of(w, "verbatim", verbatim ? view->checkpoint->shards[file->verbatim_shard].name : NULL);
    json_write_end(w);
}

static void json_group(struct json_writer *w, const struct planned_group *group)
{
    json_write_object(w, JSON_ONE_LINE);
    json_write_text_of(w, "block", group->block);
    json_write_text_of(w, "from", group->from);
    json_write_text_of(w, "to", group->to);
    json_write_number_of(w, "experts", group->experts);
    json_write_number_of(w, "inner", group->inner);
    json_write_number_of(w, "hidden", group->hidden);
    json_write_end(w);
}

static void json_loaders(const char *layout, const char *const *loaders, unsigned n, void *context)
{
    struct json_writer *w = context;

    json_write_key(w, layout);
    json_write_array(w, JSON_ONE_LINE);
    for (unsigned i = 0; i < n; i++)
        json_write_text(w, loaders[i]);
    json_write_end(w);
}

static void json_totals(struct json_writer *w, const struct plan_view *view)
{
    json_write_key(w, "totals");
    json_write_object(w, JSON_ONE_LINE);
    json_write_number_of(w, "tensors", view->plan->n_tensors);
    json_write_number_of(w, "bytes", view->plan->total_size);
    json_write_number_of(w, "weight_files", view->plan->n_weight_files);
    json_write_number_of(w, "source_tensors", view->checkpoint->n_tensors);
    json_write_number_of(w, "source_files", view->checkpoint->n_shards);
    json_write_end(w);
}

static void print_json(const struct plan_view *view)
{
    const struct plan *plan = view->plan;
    struct json_writer w;

    json_writer_init(&w, stdout);
    json_write_object(&w, JSON_LINES);
    json_write_text_of(&w, "model_type", view->checkpoint->config.model_type);
    json_write_key(&w, "files");
    json_write_array(&w, JSON_LINES);
    for (uint32_t f = 0; f < plan->n_files; f++)
        json_file(&w, view, &plan->files[f]);
    json_write_end(&w);
    json_write_key(&w, "tensors");
    json_write_array(&w, JSON_LINES);
    for (uint32_t t = 0; t < plan->n_tensors; t++)
        json_tensor(&w, view, &plan->tensors[t]);
    json_write_end(&w);
    json_write_key(&w, "groups");
    json_write_array(&w, JSON_LINES);
    for (uint32_t g = 0; g < plan->n_groups; g++)
        json_group(&w, &plan->groups[g]);
    json_write_end(&w);
    json_write_key(&w, "loaders");
    json_write_object(&w, JSON_ONE_LINE);
    visit_loaders(view, json_loaders, &w);
    json_write_end(&w);
    json_totals(&w, view);
    json_write_end(&w);
    putchar('\n');
}

/* What a mount would refuse for its names is refused here too. */
static int check_tree(const struct directory *directory, const struct plan *plan, struct error *err)
{
    struct tree tree;

    if (tree_build(directory, plan, &tree, err) < 0)
        return -1;
    tree_free(&tree);
    return 0;
}

static int print_plan(const struct directory *directory, const struct plan *plan,
                      const struct plan_command *options, struct error *err)
{
    struct plan_view view = {.checkpoint = &directory->checkpoint, .plan = plan};
    int result = 0;

    if (options->explain)
        result = plan_view_explain(&view, options->explain, err);
    else if (options->json)
        print_json(&view);
    else
        print_text(&view);
    if (result < 0)
        return EXIT_REFUSED;
    if (fflush(stdout) != 0)
        return error_set(err, "plan: writing the result: %m"), EXIT_REFUSED;
    return EXIT_OK;
}

static int plan_source(const struct plan_command *options, const char *src, struct error *err)
{
    struct directory directory;
    struct plan plan;
    int status = EXIT_REFUSED;

    if (directory_open(src, &options->plan.directory, &directory, err) < 0)
        return EXIT_REFUSED;
    messages_print_notes(&directory.notes);
    if (layout_file_plan(&directory.checkpoint, &options->plan.plan, &plan, err) == 0) {
        messages_print_notes(&plan.notes);
        if (check_tree(&directory, &plan, err) == 0)
            status = print_plan(&directory, &plan, options, err);
        plan_free(&plan);
    }
    directory_close(&directory);
    return status;
}

static int run_plan(int argc, char **argv, struct error *err)
{
    struct plan_command options = {0};
    struct operands operands;
    int status = options_parse(&command_plan, argc, argv, &options, &operands, err);

    if (status == OPTIONS_GO)
        status = plan_source(&options, operands.list[0], err);
    plan_arguments_free(&options.plan);
    return status;
}

const struct command command_plan = {
    .name = "plan",
    .purpose = "show what would be mounted: tensors, files, where the bytes come from",
    .operands = "SRC",
    .n_operands = 1,
    .description =
        "Prints what a mount of SRC would hold: each virtual tensor's name, dtype, shape and file, "
        "and where its bytes come from; totals; and which known loaders take this layout. Mounts "
        "nothing.",
    .options =
        (const struct option_set[]){{plan_rows, offsetof(struct plan_command, plan)}, {print_rows, 0}, {0}},
    .run = run_plan,
};
