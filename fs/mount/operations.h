/* What the kernel asks and how it is answered: libfuse's low-level operations over a tree, a reader and a
 * source. */
#ifndef MOEFS_FS_OPERATIONS_H
#define MOEFS_FS_OPERATIONS_H

#include "fs/base/buffer_pool.h"
#include "fs/read/reader.h"
#include "readahead.h"
#include "fs/source/source.h"
#include "fs/view/tree.h"

/* libfuse 3.14's interface, which 3.17 still offers. */
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

/* The user data of the fuse session. */
struct served {
    const struct tree *tree;
    struct reader *reader;
    struct source *source;
    const struct plan *plan;
    struct buffer_pool *buffers;
    unsigned kernel_read_ahead;      /* bytes; 0: the kernel's own */
    uint32_t generation;             /* of the inodes: another one for each mount, not 0 */
    double timeout;                  /* seconds for which the kernel may keep names and attributes */
    struct passthrough *passthrough; /* NULL: not asked for */
    struct readahead *readahead;     /* NULL: off */
    void (*ready)(void *context);    /* called once, before the kernel's first request is answered */
    void (*refuse)(void *context, const char *why); /* instead of ready: the kernel cannot do it */
    void *context;
};

extern const struct fuse_lowlevel_ops operations;

#endif
