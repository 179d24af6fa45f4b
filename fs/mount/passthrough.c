/* Backing files: registered with the kernel at their first open, once each. */
#include "passthrough.h"

#include "libfuse.h"
#include "fs/base/log.h"
#include "fs/source/source.h"

#include <linux/capability.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HAVE_PASSTHROUGH (FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17))

/* A backing file's id in the kernel, which starts from 1. */
#define ID_UNKNOWN 0
#define ID_REFUSED (-1)

struct passthrough {
    pthread_mutex_t lock; /* guards ids */
    uint32_t n;
    int ids[]; /* by file of the source; kept until the kernel drops them with the connection */
};

int passthrough_check(struct error *err)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {0};

    if (!HAVE_PASSTHROUGH)
        return error_set(err,
                         "--passthrough: this moefs was built with libfuse %d.%d, and passthrough needs 3.17",
                         FUSE_MAJOR_VERSION, FUSE_MINOR_VERSION);
    if (syscall(SYS_capget, &header, sets) != 0 || !(sets[0].effective & CAP_TO_MASK(CAP_SYS_ADMIN)))
        return error_set(err,
                         "--passthrough: the kernel allows it only to a process with CAP_SYS_ADMIN (root)");
    return 0;
}

struct passthrough *passthrough_new(uint32_t n)
{
    struct passthrough *passthrough = calloc(1, sizeof *passthrough + n * sizeof passthrough->ids[0]);

    if (!passthrough)
        return NULL;
    passthrough->n = n;
    pthread_mutex_init(&passthrough->lock, NULL);
    return passthrough;
}

void passthrough_free(struct passthrough *passthrough)
{
    if (!passthrough)
        return;
    pthread_mutex_destroy(&passthrough->lock);
    free(passthrough);
}

#if HAVE_PASSTHROUGH

bool passthrough_negotiate(struct fuse_conn_info *connection)
{
    if (!(connection->capable & FUSE_CAP_PASSTHROUGH))
        return false;
    connection->want |= FUSE_CAP_PASSTHROUGH;
    connection->max_backing_stack_depth = 1; /* the source may lie on an overlay, as in containers */
    return true;
}

static int register_file(fuse_req_t request, struct source *source, uint32_t file)
{
    const int fd = source_descriptor(source, file);
    const int id = fd >= 0 ? fuse_passthrough_open(request, fd) : 0;

    if (id > 0)
        return id;
    if (fd >= 0) {
        const char *name = source_name(source, file);
        log_line(LOG_LEVEL_WARNING, "%s: no passthrough, see the line before: read through moefs",
                 name ? name : "a source file");
    }
    return ID_REFUSED;
}

void passthrough_open(struct passthrough *passthrough, fuse_req_t request, struct source *source,
                      uint32_t file, struct fuse_file_info *info)
{
    if (file >= passthrough->n)
        return;
    pthread_mutex_lock(&passthrough->lock);
    if (passthrough->ids[file] == ID_UNKNOWN)
        passthrough->ids[file] = register_file(request, source, file);
    const int id = passthrough->ids[file];
    pthread_mutex_unlock(&passthrough->lock);
    if (id == ID_REFUSED)
        return;
    info->backing_id = id;
    info->keep_cache = 0; /* the mount's own page cache is not used */
}

#else

bool passthrough_negotiate(struct fuse_conn_info *connection)
{
    (void)connection;
    return false;
}

void passthrough_open(struct passthrough *passthrough, fuse_req_t request, struct source *source,
                      uint32_t file, struct fuse_file_info *info)
{
    (void)passthrough;
    (void)request;
    (void)source;
    (void)file;
    (void)info;
}

#endif
