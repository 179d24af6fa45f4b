/* The readahead helper: a process that populates the mount's page cache with what it is told to.
 *
 * It is forked before the mount and never holds /dev/fuse, so it can always be killed, and so can the daemon:
 * whoever waits for a page is then answered. What it does is never needed: dead or slow, it changes nothing
 * in what is read. */
#ifndef MOEFS_FS_READAHEAD_HELPER_H
#define MOEFS_FS_READAHEAD_HELPER_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

struct tree;

#define READAHEAD_THREADS 2 /* docs/measurements.md */
#define READAHEAD_SLOTS 256

/* One message from the daemon: a range of a file to populate. */
struct readahead_order {
    uint64_t inode;          /* its number in the tree */
    uint64_t device;         /* st_dev of the mount: a file of another one is left alone */
    uint64_t offset, length; /* bytes */
    uint32_t slot, epoch;    /* the order holds while epochs[slot] == epoch */
};

/* Memory that daemon and helper share. */
struct readahead_shared {
    atomic_int
        threads[READAHEAD_THREADS];      /* the helper's thread ids, by which its opens are known; 0: none */
    atomic_uint epochs[READAHEAD_SLOTS]; /* counted up by the daemon when a reader closes its file */
};

/* In the forked process: takes orders from the socket until the other end is closed, or sends one message
 * that says why it cannot, and ends. It ends with `parent` too, whose threads must not have been started yet.
 * Keeps no descriptor but the socket. */
_Noreturn void readahead_helper_run(int socket, pid_t parent, const char *mount_point,
                                    const struct tree *tree, struct readahead_shared *shared);

#endif
