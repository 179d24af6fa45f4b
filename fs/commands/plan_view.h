/* A plan as `moefs plan` shows it: which source tensors go into which virtual one. */
#ifndef MOEFS_FS_PLAN_VIEW_H
#define MOEFS_FS_PLAN_VIEW_H

#include "layout/plan.h"

struct plan_view {
    const struct checkpoint *checkpoint;
    const struct plan *plan;
};

/* A run of one source tensor that goes into a virtual one. */
struct plan_piece {
    const struct tensor *tensor;
    uint64_t offset; /* bytes from the beginning of the shard's file */
    uint64_t length; /* bytes; 0: computed from elements of the tensor that lie apart */
};

typedef void plan_piece_visitor(const struct plan_view *view, const struct plan_piece *piece, void *context);

/* Every piece of the tensor, in the order of its bytes. */
void plan_view_visit(const struct plan_view *view, const struct planned_tensor *tensor,
                     plan_piece_visitor *visit, void *context);

/* Prints where a virtual tensor comes from: what it holds, and of which source tensors. -1 where the plan has
 * no tensor of this name. */
int plan_view_explain(const struct plan_view *view, const char *name, struct error *err);

#endif
