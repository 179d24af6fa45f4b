/* A view: a source directory shown in one layout. What every front end opens. Immutable and thread-safe once
 * open; it must not be moved while a tree shows it. */
#ifndef MOEFS_FS_VIEW_H
#define MOEFS_FS_VIEW_H

#include "fs/source/directory.h"
#include "layout/plan.h"

#include <stddef.h>

struct view {
    const struct directory *directory; /* the caller's, which must outlive it; several views may share it */
    const char *name;                  /* the directory of the tree that shows it; NULL: the tree's top */
    struct plan plan;
    struct reader *reader; /* of the plan's files; NULL until view_start() */
};

/* Plans what the directory shows. On refusal -1 with *err set, and nothing to close. */
int view_open(struct view *view, const struct directory *directory, const struct plan_options *options,
              struct error *err);

/* Makes its files readable, through the source that the directory has by then. cache_size: bytes of computed
 * blocks that are kept at most. -1 with *err set: memory is short. */
int view_start(struct view *view, size_t cache_size, struct error *err);

/* Also of a view that is all zero. The directory stays open. */
void view_close(struct view *view);

#endif
