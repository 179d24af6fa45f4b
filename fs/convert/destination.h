/* Whether a directory can take a tree: what can be known before anything is written. */
#ifndef MOEFS_FS_DESTINATION_H
#define MOEFS_FS_DESTINATION_H

#include "fs/view/tree.h"
#include "layout/base/error.h"

#include <stdint.h>

#define DESTINATION_FREE_UNKNOWN UINT64_MAX

struct destination {
    uint64_t needed; /* bytes, in whole blocks of the filesystem */
    uint64_t free;   /* bytes that this user may write there, or DESTINATION_FREE_UNKNOWN */
};

/* path must be an empty directory, or a name in one that can be written to; neither inside a source nor
 * around one; and its filesystem must hold the tree. sources: absolute paths without links, ended by NULL. Writes
 * nothing. */
int destination_check(const char *path, const char *const *sources, const struct tree *tree,
                      struct destination *destination, struct error *err);

#endif
