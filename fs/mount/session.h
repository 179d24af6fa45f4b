/* A mount's life: mounted, served by threads, taken down by a signal or from outside.
 *
 * SIGTERM, SIGINT or SIGHUP unmounts lazily: nothing new can be opened, what is open stays readable, and
 * serving ends when the last of it is closed. A second signal answers the requests in hand and ends at once.
 */
#ifndef MOEFS_FS_SESSION_H
#define MOEFS_FS_SESSION_H

#include "layout/base/error.h"
#include "fs/read/reader.h"
#include "readahead.h"
#include "fs/source/source.h"
#include "fs/view/tree.h"

struct session;

struct session_options {
    const char *fuse; /* the text of fuse's -o */
    bool each_asks;   /* the kernel keeps no names and attributes: libfuse decides who may have them */
    size_t kernel_read_ahead;    /* bytes, at most KERNEL_READ_AHEAD_MAX; 0: left alone */
    struct readahead *readahead; /* the caller's, outlives the session; NULL: off */
    uint32_t passthrough;        /* the number of source files that the kernel may read by itself; 0: none */
};

/* plan, tree, reader and source must outlive the session. NULL with *err set. One session a process:
 * libfuse's messages have no context. */
struct session *session_new(const struct plan *plan, const struct tree *tree, struct reader *reader,
                            struct source *source, const struct session_options *options, struct error *err);

/* mount_point: a path that mounts_resolve() gave, or "/dev/fd/N" of a /dev/fuse that the caller has mounted.
 * Blocks the three signals in the calling thread: they are acted on once serving. -1 with *err set. */
int session_mount(struct session *session, const char *mount_point, struct error *err);

/* Answers the kernel until the mount is gone. ready(context) is called by a thread of the session when the
 * kernel has made contact. 0, or -1 with *err set when it ended in another way; not mounted any more in
 * either case. */
int session_serve(struct session *session, void (*ready)(void *context), void *context, struct error *err);

void session_free(struct session *session);

#endif
