#include "plan_view.h"

#include "fs/base/messages.h"
#include "layout/base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Sources that an explanation lists; a merged tensor has hundreds alike. */
#define EXPLAINED_SOURCES 8

static void visit_copy(const struct plan_view *view, const struct extent *extent, plan_piece_visitor *visit,
                       void *context)
{
    uint64_t offset = extent->source, end = extent->source + extent->length;

    while (offset < end) {
        const struct tensor *tensor = checkpoint_find_tensor(view->checkpoint, extent->shard, offset);
        uint64_t stop = tensor->offset + tensor->length;
        struct plan_piece piece = {tensor, offset, (stop < end ? stop : end) - offset};
        visit(view, &piece, context);
        offset += piece.length;
    }
}

static void visit_gather(const struct plan_view *view, const struct gather *gather, plan_piece_visitor *visit,
                         void *context)
{
    for (uint32_t b = 0; b < gather->n_boxes; b++) {
        const struct gather_box *box = &view->plan->boxes[gather->first_box + b];
        struct plan_piece piece = {checkpoint_find_tensor(view->checkpoint, box->shard, box->source),
                                   box->source, 0};
        visit(view, &piece, context);
    }
}

void plan_view_visit(const struct plan_view *view, const struct planned_tensor *tensor,
                     plan_piece_visitor *visit, void *context)
{
    for (uint32_t e = 0; e < tensor->n_extents; e++) {
        const struct extent *extent = &view->plan->extents[tensor->first_extent + e];
        if (extent->gather == PLAN_NO_GATHER)
            visit_copy(view, extent, visit, context);
        else
            visit_gather(view, &view->plan->gathers[extent->gather], visit, context);
    }
}

/* How much of one source tensor goes into a virtual tensor. */
struct source_use {
    uint64_t runs, bytes; /* that are copied */
    bool computed;
};

/* The source tensors of one virtual tensor. */
struct explanation {
    struct source_use *uses; /* for each of checkpoint.tensors */
    uint32_t *order;         /* the tensors that are used, as they come first */
    uint32_t n;
};

static void note_use(const struct plan_view *view, const struct plan_piece *piece, void *context)
{
    struct explanation *explanation = context;
    uint32_t number = (uint32_t)(piece->tensor - view->checkpoint->tensors);
    struct source_use *use = &explanation->uses[number];

    if (use->runs == 0 && !use->computed)
        explanation->order[explanation->n++] = number;
    use->runs += piece->length > 0;
    use->bytes += piece->length;
    use->computed |= piece->length == 0;
}

static void print_use(const struct plan_view *view, uint32_t number, const struct source_use *use)
{
    const struct tensor *tensor = &view->checkpoint->tensors[number];
    const char *holds = view->plan->source_holds[number];

    cleanup_free char *shape = text_of_shape(tensor->info.shape, tensor->info.n_dims);

    messages_printf("  %s %s %s, %s\n", tensor->info.name, dtype_name(tensor->info.dtype), shape,
                    view->checkpoint->shards[tensor->shard].name);
    messages_printf("    %s%s%s", holds ? "holds " : "", holds ? holds : "", holds ? "; " : "");
    if (use->computed)
        printf("its elements are put into their places when they are read\n");
    else if (use->bytes == tensor->length)
        printf("all of it is copied, in %" PRIu64 " %s\n", use->runs, use->runs == 1 ? "run" : "runs");
    else
        printf("%" PRIu64 " of its %" PRIu64 " bytes are copied, in %" PRIu64 " %s\n", use->bytes,
               tensor->length, use->runs, use->runs == 1 ? "run" : "runs");
}

static void print_sources(const struct plan_view *view, const struct planned_tensor *tensor)
{
    uint32_t n = view->checkpoint->n_tensors;
    struct explanation explanation = {.uses = xcalloc(n, sizeof *explanation.uses),
                                      .order = xcalloc(n, sizeof *explanation.order)};

    plan_view_visit(view, tensor, note_use, &explanation);
    printf("made of %u source %s, in the order of its bytes:\n", explanation.n,
           explanation.n == 1 ? "tensor" : "tensors");
    for (uint32_t i = 0; i < explanation.n && i < EXPLAINED_SOURCES; i++)
        print_use(view, explanation.order[i], &explanation.uses[explanation.order[i]]);
    if (explanation.n > EXPLAINED_SOURCES)
        printf("  ... and %u more\n", explanation.n - EXPLAINED_SOURCES);
    free(explanation.uses);
    free(explanation.order);
}

int plan_view_explain(const struct plan_view *view, const char *name, struct error *err)
{
    const struct planned_tensor *tensor = NULL;

    for (uint32_t t = 0; t < view->plan->n_tensors; t++)
        if (strcmp(view->plan->tensors[t].info.name, name) == 0)
            tensor = &view->plan->tensors[t];
    if (!tensor)
        return error_set(err, "--explain %s: the plan has no tensor of this name (moefs plan lists them)",
                         name);
    cleanup_free char *shape = text_of_shape(tensor->info.shape, tensor->info.n_dims);
    messages_printf("%s %s %s, %s, %" PRIu64 " bytes at %" PRIu64 "\n", name, dtype_name(tensor->info.dtype),
                    shape, view->plan->files[tensor->file].name, tensor->length, tensor->offset);
    if (tensor->group == UINT32_MAX) {
        printf("passes through: it is not converted\n");
    } else {
        const struct planned_group *group = &view->plan->groups[tensor->group];
        messages_printf("holds %s\n", tensor->holds);
        messages_printf("of block %s: %" PRIu64 " experts, inner (I) %" PRIu64 ", hidden (H) %" PRIu64
                        ", stored as %s, wanted as %s\n",
                        group->block, group->experts, group->inner, group->hidden, group->from, group->to);
    }
    print_sources(view, tensor);
    return 0;
}
