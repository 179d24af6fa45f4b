/* A mount's life: mounted, served by threads, taken down by a signal or from outside.
 *
 * SIGTERM, SIGINT or SIGHUP unmounts lazily: nothing new can be opened, what is open stays readable, and
 * serving ends when the last of it is closed. A second signal answers the requests in hand and ends at once.
 *
 * From session_mount on no lack of memory ends the process, which would leave a dead mount. */
#ifndef MOEFS_FS_SESSION_H
#define MOEFS_FS_SESSION_H

#include "layout/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fuse_options;
struct mount_point;
struct readahead;
struct session;
struct tree;

struct session_options {
    const struct fuse_options *fuse;
    unsigned threads;            /* that answer requests, at most */
    size_t kernel_read_ahead;    /* bytes, at most BDI_READ_AHEAD_MAX; 0: left alone */
    struct readahead *readahead; /* the caller's, outlives the session; NULL: off */
    uint32_t passthrough;        /* how many source files the kernel may read by itself; 0: none */
};

/* The tree, whose views have been started, must outlive the session. NULL with *err set. One session a process:
 * libfuse's messages have no context. */
struct session *session_new(const struct tree *tree, const struct session_options *options,
                            struct error *err);

/* The mount point must outlive the session. Blocks the three signals in the calling thread: they are acted on once
 * serving. -1 with *err set. */
int session_mount(struct session *session, const struct mount_point *mount_point, struct error *err);

/* Answers the kernel until the mount is gone. ready(context) is called when the kernel has made contact. 0, or -1
 * with *err set when it ended in another way; not mounted any more in either case. */
int session_serve(struct session *session, void (*ready)(void *context), void *context, struct error *err);

void session_free(struct session *session);

#endif
