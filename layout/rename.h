/* Renaming of tensors that are in no group: a layout's pairs of templates. */
#ifndef MOEFS_LAYOUT_RENAME_H
#define MOEFS_LAYOUT_RENAME_H

#include "layout/base/error.h"
#include "layouts.h"

/* The pairs of one layout, compiled. */
struct renames;

/* Compiles layout.rename. In a pair both templates have the same holes: {block} is any text, any other hole a
 * decimal integer; text stands between two holes. -1 with *err set where that is not so. */
int renames_compile(const struct layout *layout, struct renames **renames, struct error *err);
/* The way back: from the names that the layout gives to those that they were given for. Where a pair would
 * give a name that the layout names otherwise, it does not fit. */
int renames_compile_back(const struct layout *layout, struct renames **renames, struct error *err);
void renames_free(struct renames *renames);

/* The name by the first pair that fits, in the arena; the name itself where none does. renames may
 * be NULL. */
const char *renames_apply(const struct renames *renames, const char *name, struct arena *arena);

#endif
