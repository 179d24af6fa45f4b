/* Where a mount goes, and what it needs of its surroundings: checked before anything is mounted, with a message
 * for each thing that can be wrong. */
#ifndef MOEFS_FS_MOUNT_POINT_H
#define MOEFS_FS_MOUNT_POINT_H

#include "layout/base/error.h"

#include <stdbool.h>

struct mount_point {
    char *name;     /* a path without links; or "/dev/fd/N" */
    int descriptor; /* N: a /dev/fuse that the caller has opened and mounted; -1: the name is a path */
};

/* The mount point that the user gave. As a path it is an existing empty directory that is no mount point yet
 * (nonempty: neither matters), and is neither one of the resolved paths of the source, nor lies in one, nor holds
 * one; and /dev/fuse can be opened. sources ends with NULL. -1 with *err set; *point is mount_point_clear's in
 * either case. */
int mount_point_choose(const char *given, const char *const *sources, bool nonempty,
                       struct mount_point *point, struct error *err);
void mount_point_clear(struct mount_point *point);

#endif
