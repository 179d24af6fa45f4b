/* The kernel's requests: each has exactly one reply. */
#include "operations.h"

#include "fs/base/buffer_pool.h"
#include "fs/view/tree.h"
#include "passthrough.h"
#include "readahead.h"
#include "layout/base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/statvfs.h>

/* Requests in flight: enough that slow sources are read in parallel (the kernel's default is 12). */
#define MAX_BACKGROUND 64
#define CONGESTION_THRESHOLD 48

#define STATFS_BLOCK 4096

static const struct operations *request_operations(fuse_req_t request)
{
    return fuse_req_userdata(request);
}

/* The inode of a request. A number that is not ours comes from a file handle of an earlier mount (NFS). */
static const struct tree_inode *request_inode(fuse_req_t request, fuse_ino_t number)
{
    const struct tree_inode *inode = tree_get(request_operations(request)->tree, number);

    if (!inode)
        fuse_reply_err(request, ESTALE);
    return inode;
}

static const struct tree_inode *request_directory(fuse_req_t request, fuse_ino_t number)
{
    const struct tree_inode *inode = request_inode(request, number);

    if (inode && inode->kind != TREE_DIRECTORY) {
        fuse_reply_err(request, ENOTDIR);
        return NULL;
    }
    return inode;
}

static void operation_init(void *data, struct fuse_conn_info *connection)
{
    struct operations *operations = data;

    if (operations->passthrough && !passthrough_negotiate(connection)) {
        operations->refusal = "--passthrough: this kernel does not offer it (Linux 6.9 and later do)";
        return;
    }
    /* the kernel takes the smaller of this and what the device has, which was raised before */
    if (operations->kernel_read_ahead > connection->max_readahead)
        connection->max_readahead = operations->kernel_read_ahead;
    connection->max_background = MAX_BACKGROUND;
    connection->congestion_threshold = CONGESTION_THRESHOLD;
    /* Lets the kernel make file handles that outlive its caches: lookups of "." and ".." work here. */
    connection->want |= connection->capable & FUSE_CAP_EXPORT_SUPPORT;
    /* Computed bytes gain nothing from splice: a plain copy is faster. */
    connection->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    operations->accepted = true;
}

/* A file handle (NFS) holds an inode's number and generation, and the numbers of another mount are the same. The
 * kernel gives the root generation 0 by itself, and ends an inode that is looked up with another one. */
static struct fuse_entry_param make_entry(const struct operations *operations, const struct tree_inode *inode)
{
    return (struct fuse_entry_param){.ino = inode->stat.st_ino,
                                     .generation =
                                         inode->stat.st_ino == FUSE_ROOT_ID ? 0 : operations->generation,
                                     .attr = inode->stat,
                                     .attr_timeout = operations->timeout,
                                     .entry_timeout = operations->timeout};
}

static void operation_lookup(fuse_req_t request, fuse_ino_t number, const char *name)
{
    const struct tree_inode *directory = request_inode(request, number);

    if (!directory)
        return;
    if (strlen(name) > NAME_MAX) {
        fuse_reply_err(request, ENAMETOOLONG);
        return;
    }
    /* "." of a file is asked for too: that is how the kernel turns a file handle into an inode */
    const struct tree_inode *inode = tree_lookup(request_operations(request)->tree, directory, name);
    /* without an inode it says that there is none, which is kept as well */
    struct fuse_entry_param entry = {.entry_timeout = request_operations(request)->timeout};
    if (inode)
        entry = make_entry(request_operations(request), inode);
    fuse_reply_entry(request, &entry);
}

static void operation_getattr(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *info)
{
    const struct tree_inode *inode = request_inode(request, number);

    (void)info;
    if (inode)
        fuse_reply_attr(request, &inode->stat, request_operations(request)->timeout);
}

static void operation_open(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *info)
{
    const struct operations *operations = request_operations(request);
    const struct tree_inode *inode = request_inode(request, number);
    uint32_t file;

    if (!inode)
        return;
    /* the kernel sends O_TRUNC along with the open, whatever the access mode is */
    if ((info->flags & O_ACCMODE) != O_RDONLY || (info->flags & O_TRUNC)) {
        fuse_reply_err(request, EROFS);
        return;
    }
    info->keep_cache = 1;
    info->noflush = 1;
    if (operations->passthrough && tree_source_file(inode, &file))
        passthrough_open(operations->passthrough, request, inode->view->directory->source, file, info);
    /* passthrough has cleared keep_cache: the kernel reads by itself; with O_DIRECT nothing is cached */
    if (info->keep_cache && !(info->flags & O_DIRECT) && inode->kind != TREE_DIRECTORY)
        info->fh = readahead_open(operations->readahead, inode, fuse_req_ctx(request)->pid);
    if (fuse_reply_open(request, info) == -ENOENT)
        readahead_release(operations->readahead, info->fh); /* interrupted: nobody will close it */
}

static void operation_release(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *info)
{
    (void)number;
    readahead_release(request_operations(request)->readahead, info->fh);
    fuse_reply_err(request, 0);
}

/* A reply shorter than asked for means "the file ends here" to the kernel, which then shrinks it for
 * everybody. So the range is cut at the true end only, and anything but all of it is an error. */
static void operation_read(fuse_req_t request, fuse_ino_t number, size_t size, off_t signed_offset,
                           struct fuse_file_info *info)
{
    const struct tree_inode *inode = request_inode(request, number);

    if (!inode)
        return;
    if (inode->kind == TREE_DIRECTORY || signed_offset < 0) {
        fuse_reply_err(request, inode->kind == TREE_DIRECTORY ? EISDIR : EINVAL);
        return;
    }
    uint64_t offset = (uint64_t)signed_offset, end = (uint64_t)inode->stat.st_size;
    if (offset >= end || size == 0) {
        fuse_reply_buf(request, NULL, 0);
        return;
    }
    size_t length = min_u64(size, end - offset);
    const struct operations *operations = request_operations(request);
    /* before the source is read, so that the pages behind are on their way meanwhile */
    readahead_note(operations->readahead, info->fh, offset, length);
    struct pooled_buffer *buffer = buffer_pool_take(operations->buffers, length);
    struct reader_loan loan;
    int error = buffer ? tree_read(inode, offset, length, buffer->bytes, &loan) : ENOMEM;
    if (error) {
        fuse_reply_err(request, error);
    } else {
        fuse_reply_buf(request, loan.bytes, length);
        reader_take_back(&loan);
    }
    if (buffer)
        buffer_pool_give(operations->buffers, buffer);
}

static void operation_opendir(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *info)
{
    if (!request_directory(request, number))
        return;
    /* the kernel caches a listing only where both are set */
    info->cache_readdir = 1;
    info->keep_cache = 1;
    fuse_reply_open(request, info);
}

/* Entry number `position` of a listing: ".", "..", then the children. NULL behind the last. */
static const struct tree_inode *listing_get(const struct tree *tree, const struct tree_inode *directory,
                                            uint64_t position, const char **name)
{
    const struct tree_inode *inode = NULL;

    if (position < 2) {
        *name = position == 0 ? "." : "..";
        return tree_lookup(tree, directory, *name);
    }
    if (position - 2 < directory->n_children) {
        inode = tree_get(tree, directory->first_child + position - 2);
        *name = inode ? inode->name : NULL;
    }
    return inode;
}

static void list(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset, bool plus)
{
    const struct tree *tree = request_operations(request)->tree;
    const struct tree_inode *directory = request_directory(request, number);
    const struct tree_inode *inode;
    const char *name;
    size_t used = 0;

    if (!directory)
        return;
    struct buffer_pool *buffers = request_operations(request)->buffers;
    struct pooled_buffer *reply = buffer_pool_take(buffers, size);
    if (!reply) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    char *buffer = (char *)reply->bytes;
    for (uint64_t i = (uint64_t)offset; (inode = listing_get(tree, directory, i, &name)); i++) {
        struct fuse_entry_param entry = make_entry(request_operations(request), inode);
        size_t length;
        if (i < 2)
            entry.ino = 0; /* the kernel does not count these two as lookups */
        if (plus)
            length =
                fuse_add_direntry_plus(request, buffer + used, size - used, name, &entry, (off_t)(i + 1));
        else
            length =
                fuse_add_direntry(request, buffer + used, size - used, name, &inode->stat, (off_t)(i + 1));
        if (length > size - used)
            break;
        used += length;
    }
    fuse_reply_buf(request, buffer, used);
    buffer_pool_give(buffers, reply);
}

static void operation_readdir(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                              struct fuse_file_info *info)
{
    (void)info;
    list(request, number, size, offset, false);
}

static void operation_readdirplus(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                                  struct fuse_file_info *info)
{
    (void)info;
    list(request, number, size, offset, true);
}

static void operation_statfs(fuse_req_t request, fuse_ino_t number)
{
    const struct tree *tree = request_operations(request)->tree;
    struct statvfs answer = {.f_bsize = TREE_BLOCK_SIZE,
                             .f_frsize = STATFS_BLOCK,
                             .f_blocks =
                                 tree->total_size / STATFS_BLOCK + (tree->total_size % STATFS_BLOCK != 0),
                             .f_files = tree->n_inodes,
                             .f_namemax = NAME_MAX};

    (void)number;
    fuse_reply_statfs(request, &answer);
}

/* What is not here gets libfuse's answer: forget has nothing to do; for extended attributes and
 * seeking the kernel learns once that it need not ask. */
const struct fuse_lowlevel_ops operations_table = {
    .init = operation_init,
    .lookup = operation_lookup,
    .getattr = operation_getattr,
    .open = operation_open,
    .read = operation_read,
    .release = operation_release,
    .opendir = operation_opendir,
    .readdir = operation_readdir,
    .readdirplus = operation_readdirplus,
    .statfs = operation_statfs,
};
