/* moefs plan: what a mount would show, without mounting. */
#include "commands.h"
#include "fs/source/directory.h"
#include "messages.h"
#include "options.h"
#include "plan_view.h"
#include "fs/view/tree.h"

#include "layout/format/json.h"
#include "layout/layouts.h"
#include "layout/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct options_command plan_options_command = {
    .name = "plan",
    .operands = "SRC",
    .n_operands = 1,
    .sets = OPTIONS_PLAN | OPTIONS_JSON,
    .purpose = "Prints what a mount of SRC would hold: each virtual tensor's name, dtype, shape and file, "
               "and where\n"
               "its bytes come from; totals; and which known loaders take this layout. Mounts nothing.",
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
    struct origin origin = {0};

    printf("%s  %s ", tensor->info.name, dtype_name(tensor->info.dtype));
    plan_view_print_shape(&tensor->info);
    printf("  %s", view->plan->files[tensor->file].name);
    plan_view_visit(view, tensor, count_origin, &origin);
    if (!origin.first)
        printf("  <- empty\n");
    else if (tensor->group == UINT32_MAX)
        printf("  <- %s, unchanged\n", shards[origin.first->shard].name);
    else if (origin.first == origin.last)
        printf("  <- %s in %s%s\n", origin.first->info.name, shards[origin.first->shard].name,
               origin.computed ? ", transposed or interleaved" : "");
    else
        printf("  <- %" PRIu64 " parts%s, %s in %s to %s in %s\n", origin.n,
               origin.computed ? ", transposed or interleaved" : "", origin.first->info.name,
               shards[origin.first->shard].name, origin.last->info.name, shards[origin.last->shard].name);
}

static void print_files(const struct plan_view *view)
{
    for (uint32_t f = 0; f < view->plan->n_files; f++) {
        const struct planned_file *file = &view->plan->files[f];
        printf("%s  %" PRIu64 " bytes  %u tensors", file->name, file->size, file->n_tensors);
        if (file->verbatim_shard != PLAN_NO_SHARD)
            printf("  = %s, verbatim", view->checkpoint->shards[file->verbatim_shard].name);
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
    printf("%s is read by: ", layout);
    for (unsigned i = 0; i < n; i++)
        printf("%s%s", i ? "; " : "", loaders[i]);
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
    bool *first = context;

    printf("%s{\"tensor\": ", *first ? "" : ", ");
    json_write_string(stdout, piece->tensor->info.name);
    printf(", \"file\": ");
    json_write_string(stdout, view->checkpoint->shards[piece->tensor->shard].name);
    printf(", \"offset\": %" PRIu64, piece->offset);
    if (piece->length > 0)
        printf(", \"length\": %" PRIu64 "}", piece->length);
    else
        printf(", \"computed\": true}");
    *first = false;
}

static void json_tensor(const struct plan_view *view, const struct planned_tensor *tensor)
{
    bool first = true;

    printf("{\"name\": ");
    json_write_string(stdout, tensor->info.name);
    printf(", \"dtype\": \"%s\", \"shape\": ", dtype_name(tensor->info.dtype));
    plan_view_print_shape(&tensor->info);
    printf(", \"file\": ");
    json_write_string(stdout, view->plan->files[tensor->file].name);
    printf(", \"offset\": %" PRIu64 ", \"length\": %" PRIu64 ", \"converted\": %s, \"sources\": [",
           tensor->offset, tensor->length, tensor->group == UINT32_MAX ? "false" : "true");
    plan_view_visit(view, tensor, json_piece, &first);
    printf("]}");
}

static void json_file(const struct plan_view *view, const struct planned_file *file)
{
    printf("{\"name\": ");
    json_write_string(stdout, file->name);
    printf(", \"size\": %" PRIu64 ", \"tensors\": %u, \"verbatim\": ", file->size, file->n_tensors);
    if (file->verbatim_shard != PLAN_NO_SHARD)
        json_write_string(stdout, view->checkpoint->shards[file->verbatim_shard].name);
    else
        printf("null");
    putchar('}');
}

static void json_group(const struct planned_group *group)
{
    printf("{\"block\": ");
    json_write_string(stdout, group->block);
    printf(", \"from\": \"%s\", \"to\": \"%s\", \"experts\": %" PRIu64 ", \"inner\": %" PRIu64
           ", \"hidden\": %" PRIu64 "}",
           group->from, group->to, group->experts, group->inner, group->hidden);
}

static void json_loaders(const char *layout, const char *const *loaders, unsigned n, void *context)
{
    bool *first = context;

    printf("%s\"%s\": [", *first ? "" : ", ", layout);
    for (unsigned i = 0; i < n; i++) {
        printf("%s", i ? ", " : "");
        json_write_string(stdout, loaders[i]);
    }
    putchar(']');
    *first = false;
}

static void print_json(const struct plan_view *view)
{
    const struct plan *plan = view->plan;
    const char *model_type = view->checkpoint->config.model_type;
    bool first = true;

    printf("{\"model_type\": ");
    if (model_type)
        json_write_string(stdout, model_type);
    else
        printf("null");
    printf(",\n \"files\": [");
    for (uint32_t f = 0; f < plan->n_files; f++) {
        printf("%s\n  ", f ? "," : "");
        json_file(view, &plan->files[f]);
    }
    printf("],\n \"tensors\": [");
    for (uint32_t t = 0; t < plan->n_tensors; t++) {
        printf("%s\n  ", t ? "," : "");
        json_tensor(view, &plan->tensors[t]);
    }
    printf("],\n \"groups\": [");
    for (uint32_t g = 0; g < plan->n_groups; g++) {
        printf("%s\n  ", g ? "," : "");
        json_group(&plan->groups[g]);
    }
    printf("],\n \"loaders\": {");
    visit_loaders(view, json_loaders, &first);
    printf("},\n \"totals\": {\"tensors\": %u, \"bytes\": %" PRIu64
           ", \"weight_files\": %u, \"source_tensors\": %u, "
           "\"source_files\": %u}}\n",
           plan->n_tensors, plan->total_size, plan->n_weight_files, view->checkpoint->n_tensors,
           view->checkpoint->n_shards);
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
                      const struct options *options, struct error *err)
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

int command_plan(int argc, char **argv, struct error *err)
{
    struct options options;
    struct directory directory;
    struct plan plan;
    int status = EXIT_REFUSED;

    enum options_result parsed = options_parse(&plan_options_command, argc, argv, &options, err);
    if (parsed != OPTIONS_GO) {
        options_free(&options);
        return parsed == OPTIONS_DONE ? EXIT_OK : EXIT_USAGE;
    }
    if (directory_open(options.operands[0], &options.directory, &directory, err) == 0) {
        messages_print_notes(&directory.notes);
        if (plan_build(&directory.checkpoint, &options.plan, &plan, err) == 0) {
            messages_print_notes(&plan.notes);
            if (check_tree(&directory, &plan, err) == 0)
                status = print_plan(&directory, &plan, &options, err);
            plan_free(&plan);
        }
        directory_close(&directory);
    }
    options_free(&options);
    return status;
}
