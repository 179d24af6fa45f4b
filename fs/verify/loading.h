/* Whether a loader finds a directory's weights: its index. */
#ifndef MOEFS_FS_VERIFY_LOADING_H
#define MOEFS_FS_VERIFY_LOADING_H

#include "report.h"

#include "fs/source/directory.h"

/* Whether the index names every tensor of the directory's files and where it is. title: the directory, for
 * messages. Only a failure to read the index is an error. */
int loading_check_index(const char *title, const struct directory *directory, struct report *report,
                        struct error *err);

#endif
