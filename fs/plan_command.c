/* moefs plan: what a mount would show, without mounting. */
#include "commands.h"
#include "directory.h"
#include "messages.h"
#include "options.h"
#include "tree.h"

#include "layout/json.h"
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

/* Everything the printers need. */
struct view {
    const struct checkpoint *checkpoint;
    const struct plan *plan;
    const struct layouts *layouts;
};

/* A run of one source tensor that goes into a virtual one. */
struct piece {
    const struct tensor *tensor;
    uint64_t offset; /* bytes from the beginning of the shard's file */
    uint64_t length; /* bytes; 0: computed from elements of the tensor that lie apart */
};

typedef void piece_visitor(const struct view *view, const struct piece *piece, void *context);

static void visit_copy(const struct view *view, const struct extent *extent, piece_visitor *visit,
                       void *context)
{
    uint64_t offset = extent->source, end = extent->source + extent->length;

    while (offset < end) {
        const struct tensor *tensor = checkpoint_find_tensor(view->checkpoint, extent->shard, offset);
        uint64_t stop = tensor->offset + tensor->length;
        struct piece piece = {tensor, offset, (stop < end ? stop : end) - offset};
        visit(view, &piece, context);
        offset += piece.length;
    }
}

static void visit_gather(const struct view *view, const struct gather *gather, piece_visitor *visit,
                         void *context)
{
    for (uint32_t b = 0; b < gather->n_boxes; b++) {
        const struct gather_box *box = &view->plan->boxes[gather->first_box + b];
        struct piece piece = {checkpoint_find_tensor(view->checkpoint, box->shard, box->source), box->source,
                              0};
        visit(view, &piece, context);
    }
}

static void visit_pieces(const struct view *view, const struct planned_tensor *tensor, piece_visitor *visit,
                         void *context)
{
    for (uint32_t e = 0; e < tensor->n_extents; e++) {
        const struct extent *extent = &view->plan->extents[tensor->first_extent + e];
        if (extent->gather == PLAN_NO_GATHER)
            visit_copy(view, extent, visit, context);
        else
            visit_gather(view, &view->plan->gathers[extent->gather], visit, context);
    }
}

/* ---- for people ---- */

/* Sources that --explain lists; a merged tensor has hundreds alike. */
#define EXPLAINED_PIECES 8

struct origin {
    const struct tensor *first, *last;
    uint64_t n; /* changes of source tensor along the virtual one */
    bool computed;
};

static void count_origin(const struct view *view, const struct piece *piece, void *context)
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

static void print_shape(const struct tensor_info *info)
{
    putchar('[');
    for (unsigned d = 0; d < info->n_dims; d++)
        printf("%s%" PRIu64, d ? ", " : "", info->shape[d]);
    putchar(']');
}

static void print_tensor(const struct view *view, const struct planned_tensor *tensor)
{
    const struct shard *shards = view->checkpoint->shards;
    struct origin origin = {0};

    printf("%s  %s ", tensor->info.name, dtype_name(tensor->info.dtype));
    print_shape(&tensor->info);
    printf("  %s", view->plan->files[tensor->file].name);
    visit_pieces(view, tensor, count_origin, &origin);
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

static void print_files(const struct view *view)
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
static void visit_loaders(const struct view *view,
                          void (*visit)(const char *layout, const char *const *loaders, unsigned n,
                                        void *context),
                          void *context)
{
    const struct architecture *architecture =
        layouts_architecture(view->layouts, view->checkpoint->config.model_type);

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

static void print_text(const struct view *view)
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

/* ---- one tensor, step by step ---- */

static void explain_piece(const struct view *view, const struct piece *piece, void *context)
{
    uint64_t *n = context;
    const struct tensor_info *info = &piece->tensor->info;

    if (++*n <= EXPLAINED_PIECES) {
        printf("  %s %s ", info->name, dtype_name(info->dtype));
        print_shape(info);
        printf(", %s", view->checkpoint->shards[piece->tensor->shard].name);
        if (piece->length == piece->tensor->length)
            printf(", all of it\n");
        else if (piece->length > 0)
            printf(", %" PRIu64 " bytes at %" PRIu64 " of the file\n", piece->length, piece->offset);
        else
            printf(", element by element from byte %" PRIu64 " of the file\n", piece->offset);
    }
}

static void explain_extents(const struct view *view, const struct planned_tensor *tensor)
{
    uint64_t n = 0, copies = 0, gathers = 0;

    for (uint32_t e = 0; e < tensor->n_extents; e++)
        if (view->plan->extents[tensor->first_extent + e].gather == PLAN_NO_GATHER)
            copies++;
        else
            gathers++;
    printf("bytes: %" PRIu64 " runs are copied, %" PRIu64
           " experts are computed when they are read\nfrom, in the "
           "order of its bytes:\n",
           copies, gathers);
    visit_pieces(view, tensor, explain_piece, &n);
    if (n > EXPLAINED_PIECES)
        printf("  ... and %" PRIu64 " more\n", n - EXPLAINED_PIECES);
}

static int print_explanation(const struct view *view, const char *name, struct error *err)
{
    const struct planned_tensor *tensor = NULL;

    for (uint32_t t = 0; t < view->plan->n_tensors; t++)
        if (strcmp(view->plan->tensors[t].info.name, name) == 0)
            tensor = &view->plan->tensors[t];
    if (!tensor)
        return error_set(err, "--explain %s: the plan has no tensor of this name (moefs plan lists them)",
                         name);
    printf("%s %s ", name, dtype_name(tensor->info.dtype));
    print_shape(&tensor->info);
    printf(", %s, %" PRIu64 " bytes at %" PRIu64 "\n", view->plan->files[tensor->file].name, tensor->length,
           tensor->offset);
    if (tensor->group == UINT32_MAX) {
        printf("is in no group of experts that is converted: it passes through\n");
    } else {
        const struct planned_group *group = &view->plan->groups[tensor->group];
        printf("block %s: %" PRIu64 " experts, inner (I) %" PRIu64 ", hidden (H) %" PRIu64 "\n", group->block,
               group->experts, group->inner, group->hidden);
        printf("stored as %s: %s\nwanted as %s: %s\n", group->from, group->from_axes, group->to,
               group->to_axes);
    }
    explain_extents(view, tensor);
    return 0;
}

/* ---- for programs ---- */

static void json_piece(const struct view *view, const struct piece *piece, void *context)
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

static void json_tensor(const struct view *view, const struct planned_tensor *tensor)
{
    bool first = true;

    printf("{\"name\": ");
    json_write_string(stdout, tensor->info.name);
    printf(", \"dtype\": \"%s\", \"shape\": ", dtype_name(tensor->info.dtype));
    print_shape(&tensor->info);
    printf(", \"file\": ");
    json_write_string(stdout, view->plan->files[tensor->file].name);
    printf(", \"offset\": %" PRIu64 ", \"length\": %" PRIu64 ", \"converted\": %s, \"sources\": [",
           tensor->offset, tensor->length, tensor->group == UINT32_MAX ? "false" : "true");
    visit_pieces(view, tensor, json_piece, &first);
    printf("]}");
}

static void json_file(const struct view *view, const struct planned_file *file)
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

static void print_json(const struct view *view)
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
    struct layouts layouts;

    if (layouts_load(&layouts, NULL, err) < 0)
        return EXIT_REFUSED;
    struct view view = {.checkpoint = &directory->checkpoint, .plan = plan, .layouts = &layouts};
    int result = 0;
    if (options->explain)
        result = print_explanation(&view, options->explain, err);
    else if (options->json)
        print_json(&view);
    else
        print_text(&view);
    layouts_free(&layouts);
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
