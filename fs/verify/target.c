/* Plans the source in every layout until one gives what is there. */
#include "target.h"

#include "sides.h"

#include "fs/source/layout_file.h"

#include "layout/layouts.h"

#include <string.h>

static bool same_text(const char *a, const char *b)
{
    return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

/* Whether the layout can be planned; a refusal is no failure here. FP8 is planned without being asked for:
 * what is there may have been. */
static bool can_plan(const struct checkpoint *source, const struct plan_options *options, const char *to,
                     struct plan *plan)
{
    struct plan_options with = *options;
    struct error refusal = {0};

    with.to = to;
    with.fp8_keep = true;
    const bool planned = layout_file_plan(source, &with, plan, &refusal) == 0;
    error_free(&refusal);
    return planned;
}

/* How many tensors are on one of both sides only, or are there with another dtype or shape. */
static uint64_t count_mismatches(const struct plan *plan, const struct side *other)
{
    uint64_t same = 0;

    for (uint32_t t = 0; t < plan->n_tensors; t++) {
        const struct tensor_info *want = &plan->tensors[t].info;
        const struct side_tensor *tensor = side_find(other, want->name);
        same += tensor && tensor->info.dtype == want->dtype && tensor->info.n_dims == want->n_dims &&
                memcmp(tensor->info.shape, want->shape, want->n_dims * sizeof *want->shape) == 0;
    }
    return plan->n_tensors - same + (other->n_tensors - same);
}

/* The best layout so far. */
struct choice {
    const char *to;
    uint64_t mismatches;
};

static void try_layout(const struct checkpoint *source, const struct plan_options *options, const char *to,
                       const struct side *other, struct choice *best)
{
    struct plan plan;

    if (best->mismatches == 0 || !can_plan(source, options, to, &plan))
        return;
    const uint64_t mismatches = count_mismatches(&plan, other);
    if (mismatches < best->mismatches)
        *best = (struct choice){to, mismatches};
    plan_free(&plan);
}

char *target_find(const struct checkpoint *source, const struct plan_options *options,
                  const struct checkpoint *other, struct error *err)
{
    const struct layout_text none[LAYOUTS_USER_MAX] = {{0}};
    struct choice best = {"v5", UINT64_MAX};
    struct layouts layouts;
    struct side side;

    if (layouts_load(&layouts, none, err) < 0)
        return NULL;
    side_of_checkpoint(&side, "", other, NULL);
    try_layout(source, options, "v5", &side, &best);
    try_layout(source, options, "original", &side, &best);
    for (unsigned l = 0; l < layouts.n_layouts; l++)
        try_layout(source, options, layouts.layouts[l].name, &side, &best);
    side_free(&side);
    char *to = xstrdup(best.to);
    layouts_free(&layouts);
    return to;
}

/* Whether some of the plan's tensors hold their elements in another order than the side's tensors of these
 * names. */
static bool has_other_order(const struct plan *plan, const struct side *other)
{
    for (uint32_t t = 0; t < plan->n_tensors; t++) {
        const struct side_tensor *tensor = side_find(other, plan->tensors[t].info.name);
        if (tensor && !same_text(plan->tensors[t].holds, other->plan->tensors[tensor - other->tensors].holds))
            return true;
    }
    return false;
}

char *target_alike(const struct checkpoint *source, const struct plan_options *options,
                   const struct plan *plan)
{
    struct side side;
    char *names = NULL;

    side_of_plan(&side, "", plan, NULL);
    for (unsigned l = 0; l < plan->layouts->n_layouts; l++) {
        const char *to = plan->layouts->layouts[l].name;
        struct plan alike;
        if (!can_plan(source, options, to, &alike))
            continue;
        if (count_mismatches(&alike, &side) == 0 && has_other_order(&alike, &side)) {
            char *longer = xasprintf("%s%s%s", names ? names : "", names ? ", " : "", to);
            free(names);
            names = longer;
        }
        plan_free(&alike);
    }
    side_free(&side);
    return names;
}
