/* Read-ahead from outside of the daemon: tells the readahead helper what to populate, from the requests of
 * each open file. See docs/design.md, "Reading ahead".
 *
 * A handle stands for one open file and is what the kernel gives back with each request (fuse_file_info.fh).
 * Everything but readahead_new, readahead_mounted and readahead_free is thread-safe, takes a NULL readahead
 * for "off", and never waits for the helper. */
#ifndef MOEFS_FS_READAHEAD_H
#define MOEFS_FS_READAHEAD_H

#include "layout/base/error.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The window kept ahead of one reader, in bytes: docs/measurements.md has how the default was chosen. */
#define READAHEAD_DEFAULT ((size_t)64 << 20)
#define READAHEAD_MIN ((size_t)1 << 20)
#define READAHEAD_MAX ((size_t)4 << 30)

struct readahead;
struct tree;
struct tree_inode;

/* Forks the helper: to be called before the mount, and before any thread is started. The mount point is an
 * absolute path; it and the tree must outlive the readahead. NULL with *err set. */
struct readahead *readahead_new(const struct tree *tree, const char *mount_point, size_t window,
                                struct error *err);

/* The mount is there, with this st_dev. Nothing is populated before. */
void readahead_mounted(struct readahead *readahead, dev_t device);

/* A file is opened, by this thread. 0: nothing is to be read ahead for it. */
uint64_t readahead_open(struct readahead *readahead, const struct tree_inode *inode, pid_t thread);

/* Bytes [offset, offset + length) inside the file are read through the handle, length > 0. */
void readahead_note(struct readahead *readahead, uint64_t handle, uint64_t offset, uint64_t length);

/* The file is closed: the handle is freed, and what is still to be populated for it is not. */
void readahead_release(struct readahead *readahead, uint64_t handle);

/* Ends the helper. No other call may be under way. */
void readahead_free(struct readahead *readahead);

#endif
