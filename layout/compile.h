/* The compile step: one group of experts, from the layout it is stored in to another, as extents.
 *
 * For each (expert, projection) the weight is a matrix with an offset and strides in the stored tensor, and
 * the same in the target. Where both are contiguous it is copied; otherwise a box says which element goes
 * where. No pair of layouts is coded anywhere. */
#ifndef MOEFS_LAYOUT_COMPILE_H
#define MOEFS_LAYOUT_COMPILE_H

#include "layout/format/checkpoint.h"
#include "plan.h"
#include "recognise.h"

#include <utarray.h>

/* What is being built: growing arrays of the plan's parts. */
struct compile_output {
    struct arena *arena; /* names and shapes */
    UT_array *tensors;   /* struct planned_tensor; file, offset are not set yet */
    UT_array *extents;   /* struct extent */
    UT_array *gathers;   /* struct gather */
    UT_array *boxes;     /* struct gather_box */
};

void compile_output_init(struct compile_output *output, struct arena *arena);
void compile_output_free(struct compile_output *output);

/* What a group becomes. */
struct compile_target {
    const struct bound_layout *bound; /* NULL: nothing, it passes through */
    const char *block;                /* its block's name there */
};

/* Adds the target's tensors for one group. Refuses parts that the target does not describe or whose
 * coordinates it cuts otherwise, mixed dtypes, dtypes that do not fill whole bytes, and sizes
 * that overflow. */
int compile_group(const struct layouts *layouts, const struct checkpoint *checkpoint,
                  const struct group *group, uint32_t group_number, const struct compile_target *target,
                  struct compile_output *output, struct error *err);

/* What struct gather's `row` is for these boxes. */
uint64_t compile_gather_row(const struct gather_box *boxes, uint32_t n, unsigned element_size);

#endif
