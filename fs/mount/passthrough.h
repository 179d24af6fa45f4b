/* Passthrough: files that the mount shows as they are in the source are read by the kernel from the source
 * itself, without the daemon. Needs Linux 6.9, libfuse 3.17 and CAP_SYS_ADMIN in the first user namespace.
 *
 * The daemon's checks for a changed source do not see such reads: the file behaves like the source's own. */
#ifndef MOEFS_FS_PASSTHROUGH_H
#define MOEFS_FS_PASSTHROUGH_H

#include "layout/base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct passthrough;
struct source;
struct fuse_conn_info;
struct fuse_file_info;
struct fuse_req;

/* Whether this build and this process can ask for it. -1 with *err set. */
int passthrough_check(struct error *err);

/* For n files of the source. NULL when memory is short. */
struct passthrough *passthrough_new(uint32_t n);
void passthrough_free(struct passthrough *passthrough);

/* In the init operation. False: the kernel does not offer it. */
bool passthrough_negotiate(struct fuse_conn_info *connection);

/* In the open operation of a file that is the source's file number `file`: has the kernel read it there, or
 * leaves *info as it is where the file has no descriptor or the kernel refuses, which is logged. All opens of
 * a file are answered alike, since the kernel does not take a mixture. Thread-safe. */
void passthrough_open(struct passthrough *passthrough, struct fuse_req *request, struct source *source,
                      uint32_t file, struct fuse_file_info *info);

#endif
