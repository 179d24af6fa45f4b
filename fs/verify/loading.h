/* Whether a loader finds a directory's weights and builds the source's model from it: its index and its
 * config.json. */
#ifndef MOEFS_FS_VERIFY_LOADING_H
#define MOEFS_FS_VERIFY_LOADING_H

#include "report.h"

#include "fs/source/directory.h"

/* Whether the index names every tensor of the directory's files and where it is; and, where `required`,
 * whether there is one if a loader needs it. title: the directory, for messages. Only a failure to read the
 * index is an error. */
int loading_check_index(const char *title, const struct directory *directory, bool required,
                        struct report *report, struct error *err);

/* Whether both directories' config.json build the same model; what cannot be told becomes a note. title: the
 * other one. */
int loading_check_config(const struct directory *source, const char *title, const struct directory *other,
                         struct report *report, struct error *err);

#endif
