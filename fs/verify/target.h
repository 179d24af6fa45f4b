/* Which `--to` a mount or a converted directory was made with: found from the tensors that are there. */
#ifndef MOEFS_FS_VERIFY_TARGET_H
#define MOEFS_FS_VERIFY_TARGET_H

#include "layout/plan.h"

/* The value of --to with which the source's plan is most like `other`, by names, dtypes and shapes: "v5"
 * where that fits as well as any, and where nothing can be planned. options->to is not looked at. malloc'd;
 * NULL with *err set where the built-in layouts are malformed. */
char *target_find(const struct checkpoint *source, const struct plan_options *options,
                  const struct checkpoint *other, struct error *err);

/* The other layouts that give tensors of the same names, dtypes and shapes as the plan: "up-first,
 * interleaved"; malloc'd, NULL where there are none. What lies in one of them looks like the plan and differs
 * from it in every expert. */
char *target_alike(const struct checkpoint *source, const struct plan_options *options,
                   const struct plan *plan);

#endif
