/* What a checkpoint's directory holds, from wherever it was listed: a local directory, memory. Nothing in
 * here has been read yet, and no name has been interpreted. */
#ifndef MOEFS_FS_LISTING_H
#define MOEFS_FS_LISTING_H

#include "layout/base/error.h"
#include "layout/base/memory.h"
#include "source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum listed_kind {
    LISTED_FILE,
    LISTED_DIRECTORY,
    LISTED_EXCLUDED, /* by --exclude; what lies below it is not listed */
    LISTED_PRIVATE,  /* .git and .cache at the top */
    LISTED_SPECIAL,  /* fifo, socket or device */
    LISTED_LOOP,     /* a link that leads to itself, or to a directory above it */
    LISTED_DANGLING,
    LISTED_OUTSIDE, /* a link to where it may not lead */
    LISTED_DENIED   /* a link that may not be followed to its end */
};

struct listed {
    struct source_info info; /* of what a link leads to; of the link itself where that was not reached */
    enum listed_kind kind;
    uint32_t file; /* LISTED_FILE: its number in the source */
};

struct listing {
    struct arena arena;     /* paths */
    struct source_info top; /* the directory itself; path: what messages call it */
    struct listed *list;    /* by path, bytes ascending; parents before children. Owned */
    size_t n;
    struct notes notes; /* what is not shown, and why */
};

void listing_free(struct listing *listing);

/* NULL when the listing has no such path. */
const struct listed *listing_find(const struct listing *listing, const char *path);

/* "fifo", "directory", ...: for messages. */
const char *listing_kind_name(const struct listed *listed);

/* The paths of those for which `wanted` holds, as "a, b, c and 4 more"; malloc'd, NULL when there is none. */
char *listing_names(const struct listing *listing, bool (*wanted)(const struct listed *listed));
/* The same of those whose mark is set: marks[i] belongs to list[i]. */
char *listing_marked_names(const struct listing *listing, const bool *marks);

/* Whether the path lies directly in the directory. */
bool listing_is_top(const struct listed *listed);
bool listing_ends_with(const char *path, const char *end);

#endif
