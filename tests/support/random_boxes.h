/* Gathers at random, for tests. */
#ifndef MOEFS_TESTS_RANDOM_BOXES_H
#define MOEFS_TESTS_RANDOM_BOXES_H

#include "layout/plan.h"

static uint64_t random_state;

static uint64_t random_below(uint64_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (random_state >> 33) % n;
}

/* Cuts a random shape into boxes at random places along every axis, and lays the sources out in a random
 * order of axes, with gaps. The target is a row-major array, which is what tensors are. */
struct shape {
    uint32_t n_dims;
    uint64_t n[GATHER_DIMS_MAX], target[GATHER_DIMS_MAX];
};

static void source_strides(const struct shape *shape, uint64_t *strides)
{
    uint32_t order[GATHER_DIMS_MAX];
    uint64_t stride = 1 + random_below(3);

    for (uint32_t d = 0; d < shape->n_dims; d++) {
        const uint32_t at = (uint32_t)random_below(d + 1);
        order[d] = order[at];
        order[at] = d;
    }
    for (uint32_t k = 0; k < shape->n_dims; k++) {
        strides[order[k]] = stride;
        stride *= shape->n[order[k]];
        if (random_below(2))
            stride += random_below(20);
    }
}

static uint32_t make_boxes(const struct shape *shape, unsigned size, struct gather_box *boxes)
{
    uint64_t cut[GATHER_DIMS_MAX][3], strides[4][GATHER_DIMS_MAX], shift[4];
    uint32_t n = 0, combinations = 1u << shape->n_dims;

    for (uint32_t d = 0; d < shape->n_dims; d++) {
        cut[d][0] = 0;
        cut[d][1] = random_below(2) ? shape->n[d] : 1 + random_below(shape->n[d]);
        cut[d][2] = shape->n[d];
    }
    for (int file = 0; file < 4; file++) {
        source_strides(shape, strides[file]);
        shift[file] = random_below(1000);
    }
    for (uint32_t c = 0; c < combinations; c++) {
        struct gather_box box = {.shard = (uint32_t)random_below(2) ? 0 : (uint32_t)random_below(4)};
        bool empty = false;
        box.source = shift[box.shard];
        for (uint32_t d = 0; d < shape->n_dims && d < GATHER_DIMS_MAX; d++) {
            const uint64_t first = cut[d][c >> d & 1], extent = cut[d][(c >> d & 1) + 1] - first;
            box.source += first * strides[box.shard][d] * size;
            box.target += first * shape->target[d] * size;
            empty |= extent == 0;
            if (extent > 1)
                box.dims[box.n_dims++] = (struct gather_dim){extent, shape->target[d], strides[box.shard][d]};
        }
        if (!empty)
            boxes[n++] = box;
    }
    return n;
}

#endif
