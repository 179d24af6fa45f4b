/* What the kernel asks and how it is answered: libfuse's low-level operations over a tree. */
#ifndef MOEFS_FS_OPERATIONS_H
#define MOEFS_FS_OPERATIONS_H

#include "libfuse.h"

#include <stdbool.h>
#include <stdint.h>

/* The user data of the fuse session. */
struct operations {
    const struct tree *tree;
    struct buffer_pool *buffers;
    unsigned kernel_read_ahead;      /* bytes; 0: the kernel's own */
    uint32_t generation;             /* of the inodes: another one for each mount, not 0 */
    double timeout;                  /* seconds for which the kernel may keep names and attributes */
    struct passthrough *passthrough; /* NULL: not asked for */
    struct readahead *readahead;     /* NULL: off */
    /* What has come of the kernel's first request: */
    bool accepted;
    const char *refusal; /* what the kernel cannot do that was asked for; or NULL */
};

extern const struct fuse_lowlevel_ops operations_table;

#endif
