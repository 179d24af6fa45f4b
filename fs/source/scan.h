/* The names in the source directory: every one, with what it is and where it leads. Nothing but directories
 * is opened. */
#ifndef MOEFS_FS_SCAN_H
#define MOEFS_FS_SCAN_H

#include "directory.h"
#include "snapshot.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

enum found_kind {
    FOUND_FILE,
    FOUND_DIRECTORY,
    FOUND_EXCLUDED, /* by --exclude; what lies below it is not listed */
    FOUND_PRIVATE,  /* .git and .cache at the top */
    FOUND_SPECIAL,  /* fifo, socket or device */
    FOUND_LOOP,     /* a link that leads to itself, or to a directory above it */
    FOUND_DANGLING,
    FOUND_OUTSIDE, /* a link to where it may not lead */
    FOUND_DENIED   /* a link that may not be followed to its end */
};

/* What becomes of a file in the mount. */
enum found_role { ROLE_PASS, ROLE_WEIGHT, ROLE_HIDDEN };

struct found {
    const char *path;   /* relative to SRC */
    const char *target; /* what to open: absolute, without links. NULL unless a file or a directory */
    struct stat stat;   /* of the target; of the link itself where the target was not reached */
    enum found_kind kind;
    enum found_role role;
    bool marked; /* scratch, for lists */
};

struct scan {
    struct found *list; /* by path, bytes ascending */
    size_t n;
};

#define SCAN_NAMES_MAX ((size_t)1 << 20)
#define SCAN_DEPTH_MAX 64

/* Paths are taken from the arena. Refused: a link that dangles or leads out, an unfinished download, a
 * directory that cannot be read. Notes say what is not shown. */
int scan_read(const struct snapshot *snapshot, const struct directory_options *options, struct arena *arena,
              struct scan *scan, struct notes *notes, struct error *err);
void scan_free(struct scan *scan);

/* NULL when the scan met no such path. */
struct found *scan_find(const struct scan *scan, const char *path);

/* "fifo", "directory", ...: for messages. */
const char *scan_kind_name(const struct found *found);

/* The paths among the scan's names for which `wanted` holds, as "a, b, c and 4 more"; malloc'd, NULL when
 * there is none. */
char *scan_list(const struct scan *scan, bool (*wanted)(const struct found *found));

/* Whether the path lies directly in SRC. */
bool scan_is_top(const struct found *found);
bool scan_ends_with(const char *path, const char *end);

#endif
