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

/* The tensor of that name, or NULL. */
const struct planned_tensor *plan_view_find(const struct plan_view *view, const char *name);

/* How much of one source tensor goes into a virtual tensor. */
struct plan_use {
    const struct tensor *tensor;
    const char *holds;    /* of a converted one, in words; else NULL */
    uint64_t runs, bytes; /* that are copied */
    bool computed;        /* elements are put into their places one by one */
};

/* The source tensors of a virtual tensor, in the order of its bytes; free() them. */
struct plan_use *plan_view_uses(const struct plan_view *view, const struct planned_tensor *tensor,
                                uint32_t *n);

typedef void plan_loaders_visitor(const char *layout, const char *const *loaders, unsigned n, void *context);

/* Which known loaders take the layouts that the plan makes: the architecture's own lists. */
void plan_view_visit_loaders(const struct plan_view *view, plan_loaders_visitor *visit, void *context);

/* ---- what is printed to stdout: for people, and as JSON for programs ---- */

void plan_text_print(const struct plan_view *view);
void plan_json_print(const struct plan_view *view);
/* One tensor: what it holds, and of which source tensors. */
void plan_text_print_tensor(const struct plan_view *view, const struct planned_tensor *tensor);
void plan_json_print_tensor(const struct plan_view *view, const struct planned_tensor *tensor);

#endif
