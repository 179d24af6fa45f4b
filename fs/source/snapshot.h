/* Where SRC really is, and where its symbolic links may lead.
 *
 * A Hugging Face cache keeps a model as <repo>/snapshots/<revision>/ with links into <repo>/blobs/;
 * <repo>/refs/main holds the revision of the branch. */
#ifndef MOEFS_FS_SNAPSHOT_H
#define MOEFS_FS_SNAPSHOT_H

#include "layout/base/error.h"
#include "layout/base/memory.h"

#include <stdbool.h>
#include <sys/stat.h>

struct snapshot {
    const char *path;  /* absolute, without links */
    const char *blobs; /* the cache's blobs/, the same way; NULL where SRC is not in a cache */
    struct stat stat;  /* of path */
};

/* Resolves src, which may be a directory, a link to one, or a cache's <repo>: that stands for the snapshot in
 * its refs/main, and is refused with the list of its snapshots where refs/main names none. */
int snapshot_resolve(const char *src, struct arena *arena, struct snapshot *snapshot, struct error *err);

/* Whether an absolute path without links lies in the directory or in its cache's blobs/. */
bool snapshot_contains(const struct snapshot *snapshot, const char *path);

#endif
