/* What plan_build() (plan.c) works with: shared by its parts, plan_*.c. */
#ifndef MOEFS_LAYOUT_PLANNING_H
#define MOEFS_LAYOUT_PLANNING_H

#include "compile.h"
#include "plan.h"
#include "recognise.h"

struct planning {
    const struct checkpoint *checkpoint;
    const struct plan_options *options;
    const char *to, *from;
    const struct layouts *layouts;
    const struct architecture *architecture;
    struct recognition *recognition;
    struct compile_target *targets; /* for each group */
    bool *passes;                   /* for each tensor: it is there unchanged, under its own name */
    struct compile_output output;
    struct plan *plan;
    struct error *err;
};

/* ---- plan.c ---- */

/* config.json's model_type, for messages. */
const char *planning_model_type(const struct planning *p);

/* Whether `to` leaves the block as it is, whatever that is. */
bool planning_leaves(const struct planning *p, const char *block);

/* A tensor of the group's weights that is not the weights themselves but codes for them, or NO_TENSOR. */
uint32_t planning_find_codes(const struct planning *p, const struct group *group);

/* The layouts that `to` means for blocks of this rule, whose weights are quantised or not. */
struct layout_list planning_wanted(const struct planning *p, const struct block_rule *rule, bool quantised);

/* ---- plan_refuse.c ---- */

/* Everything that refuses a checkpoint before anything is compiled, all reasons at once. */
int plan_check_groups(struct planning *p);

/* ---- plan_unknown.c ---- */

/* Refuses a model with experts of which none was found. Always returns -1. */
int plan_refuse_unknown(struct planning *p);

/* ---- plan_describe.c ---- */

/* Says, where the architecture is not known and so has no layouts of its own, what each group was read as. */
void plan_describe_inferred(struct planning *p);

/* Fills in plan.groups, plan.source_holds and the notes on what becomes what. */
void plan_describe(struct planning *p);

/* ---- plan_check.c ---- */

/* Recognises the planned names and shapes again: what would be read as something else is said now, and what
 * could not be read at all is refused. */
int plan_check_way_back(struct planning *p);

#endif
