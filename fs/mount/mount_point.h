/* What a mount needs of its surroundings, checked before anything is mounted, with a message for each thing
 * that can be wrong. */
#ifndef MOEFS_FS_MOUNT_POINT_H
#define MOEFS_FS_MOUNT_POINT_H

#include "layout/base/error.h"

#include <stdbool.h>

/* "/dev/fd/N": the caller has opened /dev/fuse and mounted it. */
bool mount_point_is_descriptor(const char *given);

/* Checks such a descriptor and gives its number; -1 with *err set. */
int mount_point_check_descriptor(const char *given, struct error *err);

/* The resolved path of an existing empty directory that is no mount point yet; nonempty: neither matters.
 * NULL with *err set; owned by the caller. */
char *mount_point_check(const char *given, bool nonempty, struct error *err);

/* Refuses a mount point that is the source directory, lies in it, or holds it. Both are resolved. */
int mount_point_check_apart(const char *mount_point, const char *source, struct error *err);

/* /dev/fuse can be opened; and whoever may not mount has fusermount3. */
int mount_point_check_fuse(struct error *err);

#endif
