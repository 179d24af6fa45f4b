/* The options that change a plan: mount, convert, plan and verify take them. */
#ifndef MOEFS_FS_PLAN_ROWS_H
#define MOEFS_FS_PLAN_ROWS_H

#include "options.h"
#include "fs/source/directory.h"
#include "layout/plan.h"

struct plan_arguments {
    struct plan_options plan;
    struct scan_options directory;
    const char **exclude; /* what directory.exclude points to; owned */
};

extern const struct option_row plan_rows[]; /* they fill a struct plan_arguments */

/* A layout's name, "v5", "original" or a file: a name that is unknown is refused with the nearest one. Its field
 * is a const char *. */
option_parser option_layout;

/* Memory for computed blocks. Its field is a size_t: bytes. */
option_parser option_cache_size;

void plan_arguments_free(struct plan_arguments *arguments);

#endif
