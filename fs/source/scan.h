/* The names in a local directory: every path, with what it is and where it leads. Nothing but directories is
 * opened. */
#ifndef MOEFS_FS_SCAN_H
#define MOEFS_FS_SCAN_H

#include "listing.h"
#include "snapshot.h"

#include "layout/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* Bounds, because links inside SRC can make many paths of few files. */
#define SCAN_PATHS_MAX ((size_t)1 << 18)
#define SCAN_PATH_BYTES_MAX ((size_t)64 << 20)
#define SCAN_DEPTH_MAX 64

struct scan_options {
    bool follow_symlinks; /* links may leave SRC and its HF cache's blobs/ */
    /* Globs of names relative to SRC that are not shown; NULL-terminated, or NULL. */
    const char *const *exclude;
};

/* A name in a directory, however many paths lead to it. */
struct scan_name {
    const char *name;
    struct stat stat; /* of what it leads to; of the link itself where that was not reached */
    const char *real; /* where it leads: absolute, without links; the link where that was not reached */
    struct snapshot_place place; /* the same for beneath_open(), unless it is outside */
    enum listed_kind kind;       /* where no --exclude matches the path and no link leads back to it */
    int error;                   /* of following it, when kind cannot say it */
    bool is_resolved, is_link_to_directory;
};

struct found {
    const char *path; /* relative to SRC */
    const struct scan_name *name;
    enum listed_kind kind;
};

struct scan {
    struct arena arena; /* names */
    struct found *list; /* by path, bytes ascending */
    size_t n;
};

/* Paths are taken from the arena. The snapshot must outlive the scan. */
int scan_read(const struct snapshot *snapshot, const struct scan_options *options, struct arena *arena,
              struct scan *scan, struct notes *notes, struct error *err);
void scan_free(struct scan *scan);

#endif
