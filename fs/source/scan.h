/* The names in a local directory: every one, with what it is and where it leads. Nothing but directories is
 * opened. */
#ifndef MOEFS_FS_SCAN_H
#define MOEFS_FS_SCAN_H

#include "listing.h"
#include "snapshot.h"

#include "layout/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

struct scan_options {
    bool follow_symlinks; /* links may leave SRC and its HF cache's blobs/ */
    /* Globs of names relative to SRC that are not shown; NULL-terminated, or NULL. */
    const char *const *exclude;
};

/* Where a name leads. */
struct found {
    const char *path;   /* relative to SRC */
    const char *target; /* what to open: absolute, without links. NULL unless a file or a directory */
    struct stat stat;   /* of the target; of the link itself where the target was not reached */
    enum listed_kind kind;
};

struct scan {
    struct found *list; /* by path, bytes ascending */
    size_t n;
};

#define SCAN_NAMES_MAX ((size_t)1 << 20)
#define SCAN_DEPTH_MAX 64

/* Paths are taken from the arena. */
int scan_read(const struct snapshot *snapshot, const struct scan_options *options, struct arena *arena,
              struct scan *scan, struct notes *notes, struct error *err);
void scan_free(struct scan *scan);

#endif
