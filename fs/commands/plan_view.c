/* Collects what `moefs plan` prints. */
#include "plan_view.h"

#include "layout/layouts.h"
#include "layout/base/checked.h"

#include <stdlib.h>
#include <string.h>

static void visit_copy(const struct plan_view *view, const struct extent *extent, plan_piece_visitor *visit,
                       void *context)
{
    uint64_t offset = extent->source, end = extent->source + extent->length;

    while (offset < end) {
        const struct tensor *tensor = checkpoint_find_tensor(view->checkpoint, extent->shard, offset);
        uint64_t stop = tensor->offset + tensor->length;
        struct plan_piece piece = {tensor, offset, min_u64(stop, end) - offset};
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

const struct planned_tensor *plan_view_find(const struct plan_view *view, const char *name)
{
    for (uint32_t t = 0; t < view->plan->n_tensors; t++)
        if (strcmp(view->plan->tensors[t].info.name, name) == 0)
            return &view->plan->tensors[t];
    return NULL;
}

void plan_view_visit_loaders(const struct plan_view *view, plan_loaders_visitor *visit, void *context)
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

struct use_list {
    struct plan_use *uses; /* as they come first */
    uint32_t *place_of;    /* for each of checkpoint.tensors: its place in uses and 1; 0: none */
    uint32_t n, capacity;
};

static void note_use(const struct plan_view *view, const struct plan_piece *piece, void *context)
{
    struct use_list *list = context;
    uint32_t *place = &list->place_of[piece->tensor - view->checkpoint->tensors];

    if (*place == 0) {
        if (list->n == list->capacity) {
            list->capacity = list->capacity > 0 ? 2 * list->capacity : 16;
            list->uses = xreallocarray(list->uses, list->capacity, sizeof *list->uses);
        }
        list->uses[list->n++] = (struct plan_use){
            .tensor = piece->tensor,
            .holds = view->plan->source_holds[piece->tensor - view->checkpoint->tensors],
        };
        *place = list->n;
    }
    struct plan_use *use = &list->uses[*place - 1];
    use->runs += piece->length > 0;
    use->bytes += piece->length;
    use->computed |= piece->length == 0;
}

struct plan_use *plan_view_uses(const struct plan_view *view, const struct planned_tensor *tensor,
                                uint32_t *n)
{
    struct use_list list = {.place_of = xcalloc(view->checkpoint->n_tensors, sizeof *list.place_of)};

    plan_view_visit(view, tensor, note_use, &list);
    free(list.place_of);
    *n = list.n;
    return list.uses;
}
