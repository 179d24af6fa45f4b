/* The mount table, and unmounting by path. Nothing here touches the file system that is mounted at the path,
 * which may be dead (ENOTCONN) or may never answer. */
#ifndef MOEFS_FS_MOUNT_TABLE_H
#define MOEFS_FS_MOUNT_TABLE_H

#include "layout/base/error.h"

#include <stdbool.h>

#define MOUNT_TABLE_MOEFS "fuse.moefs" /* the type of our mounts */

/* A line of /proc/self/mountinfo. The texts are without its escapes, and end with the visit. */
struct mount_line {
    const char *root;  /* which directory of the file system is mounted */
    const char *point; /* where */
    const char *type;
    const char *source;  /* what is mounted: for moefs the source directory */
    const char *options; /* the file system's own, separated by commas */
    unsigned major, minor;
};

typedef void mount_table_visit(void *context, const struct mount_line *mount);

/* Visits every mount. Of two at one point, the later lies on top. 0, or an errno. Allocates no memory, since a
 * mount must be taken down when there is none. root: "", or a directory that holds /proc/self/mountinfo, for
 * tests. */
int mount_table_read(const char *root, mount_table_visit *visit, void *context);

struct mount_entry {
    char *type;
    char *source;
};

/* The topmost mount at a resolved path. 1: found, and the entry is the caller's to clear; 0: nothing is mounted
 * there; -1 with *err set. */
int mount_table_find(const char *path, struct mount_entry *entry, struct error *err);
void mount_entry_clear(struct mount_entry *entry);

/* The absolute path of a mount point without links: the parent is resolved, the last component is followed
 * only where it is a symbolic link. NULL with *err set where that fails. Owned by the caller. */
char *mount_table_resolve(const char *path, struct error *err);

/* Unmounts a resolved path: by itself where that is permitted, else through fusermount3. lazy: it vanishes at
 * once, and what is open stays readable. What is in use is tried again for half a second. -1 with *err set. */
int mount_table_unmount(const char *path, bool lazy, struct error *err);

#endif
