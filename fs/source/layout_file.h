/* A user's layout file. layout/ opens nothing: what is read here is passed to it as text. */
#ifndef MOEFS_FS_LAYOUT_FILE_H
#define MOEFS_FS_LAYOUT_FILE_H

#include "layout/plan.h"

/* The file's text, malloc'd; NULL with *err set where it cannot be read. Of a file that is too large for a
 * layout only so much is read that layouts_load() refuses it. */
char *layout_file_read(const char *path, size_t *length, struct error *err);

/* plan_build(), with the files read that options->to and options->from name. */
int layout_file_plan(const struct checkpoint *checkpoint, const struct plan_options *options,
                     struct plan *plan, struct error *err);

#endif
