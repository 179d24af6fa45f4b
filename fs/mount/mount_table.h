/* The mount table, and unmounting by path. Nothing here touches the file system that is mounted at the path,
 * which may be dead (ENOTCONN) or may never answer. */
#ifndef MOEFS_FS_MOUNTS_H
#define MOEFS_FS_MOUNTS_H

#include "layout/base/error.h"

#include <stdbool.h>

#define MOUNTS_TYPE "fuse.moefs"

struct mount_entry {
    char *type;   /* "fuse.moefs" */
    char *source; /* what is mounted: for moefs the source directory */
    unsigned major, minor;
};

/* The absolute path of a mount point without links: the parent is resolved, the last component is followed
 * only where it is a symbolic link. NULL with *err set where that fails. Owned by the caller. */
char *mounts_resolve(const char *path, struct error *err);

/* Looks in /proc/self/mountinfo for the topmost mount at a resolved path. 1: found, and the entry is the
 * caller's to clear; 0: nothing is mounted there; -1 with *err set. */
int mounts_find(const char *path, struct mount_entry *entry, struct error *err);
void mounts_entry_clear(struct mount_entry *entry);

/* Unmounts a resolved path: by itself where that is permitted, else through fusermount3. lazy: it vanishes at
 * once, and what is open stays readable. What is in use is tried again for half a second. -1 with *err set.
 */
int mounts_unmount(const char *path, bool lazy, struct error *err);

#endif
