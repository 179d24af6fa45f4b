/* Where SRC really is, and where its symbolic links may lead.
 *
 * A Hugging Face cache keeps a model as <repo>/snapshots/<revision>/ with links into <repo>/blobs/;
 * <repo>/refs/main holds the revision of the branch. Whoever made SRC may have made the cache around it too, so
 * none of these may be a link itself: <repo>/blobs -> / would let every link lead anywhere. */
#ifndef MOEFS_FS_SNAPSHOT_H
#define MOEFS_FS_SNAPSHOT_H

#include "layout/base/error.h"
#include "layout/base/memory.h"

#include <stdbool.h>
#include <sys/stat.h>

struct snapshot {
    const char *path;         /* absolute, without links */
    const char *blobs;        /* the cache's blobs/, the same way; NULL where SRC is not in a cache */
    struct stat stat;         /* of path */
    int fd, blobs_fd, top_fd; /* path, blobs (or -1) and "/", held open */
};

/* A path without links, as a held directory of the snapshot and what lies below it: for beneath_open(). */
struct snapshot_place {
    int root;
    const char *path; /* the end of the absolute path */
};

/* Resolves src, which may be a directory, a link to one, or a cache's <repo>: that stands for the snapshot in
 * its refs/main, and is refused with the list of its snapshots where refs/main names none. -1 with *err set,
 * and nothing held. */
int snapshot_resolve(const char *src, struct arena *arena, struct snapshot *snapshot, struct error *err);
void snapshot_close(struct snapshot *snapshot);

/* Finds an absolute path without links in the directory or in its cache's blobs/, or with `anywhere` below
 * "/". False where it does not lie there. */
bool snapshot_place(const struct snapshot *snapshot, const char *path, bool anywhere,
                    struct snapshot_place *place);

#endif
