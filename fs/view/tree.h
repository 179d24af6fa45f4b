/* The directory tree that a mount shows or a conversion writes: a fixed table of inodes, made of what the
 * views have planned and of what passes through.
 *
 * Inode numbers depend on the set of paths alone: the root is 1, the others follow by depth, then by path
 * (bytes). So the same source and options give the same numbers at every mount, and a directory's children
 * are neighbours. Immutable once built; no FUSE in here. */
#ifndef MOEFS_FS_TREE_H
#define MOEFS_FS_TREE_H

#include "fs/read/reader.h"
#include "layout/base/memory.h"
#include "view.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define TREE_ROOT UINT64_C(1)
#define TREE_BLOCK_SIZE (1 << 20) /* st_blksize: the size in which reading is best */

enum tree_kind {
    TREE_DIRECTORY,
    TREE_PLANNED, /* file: in the view's plan.files */
    TREE_PASSED   /* file: the number of the source's file */
};

struct tree_inode {
    const char *path;        /* relative to the root, "" for the root itself */
    const char *name;        /* its last component */
    const struct view *view; /* that it is of; the root: the first one */
    enum tree_kind kind;
    uint32_t file;
    uint32_t parent; /* inode number; the root's is its own */
    /* Directories: the numbers of the children, by name, are first_child ... first_child + n_children - 1. */
    uint32_t first_child;
    uint32_t n_children;
    struct stat stat; /* as stat() on the mount shows it, but for st_dev */
};

struct tree {
    struct tree_inode *inodes; /* number i is inodes[i - 1] */
    uint32_t n_inodes;
    uint64_t total_size; /* bytes of all files */
    struct arena arena;  /* paths that are neither a plan's nor a directory's */
};

/* The views must outlive the tree, and stay where they are. One view without a name is the whole tree;
 * otherwise each is a directory of its name, and the names differ. Fails where a planned file has the name of
 * one that passes through and does not replace it. */
int tree_build(const struct view *views, unsigned n_views, struct tree *tree, struct error *err);
void tree_free(struct tree *tree);

/* The inode of that number, or NULL. */
const struct tree_inode *tree_get(const struct tree *tree, uint64_t number);

/* The entry `name` of a directory ("." and ".." too), or NULL. O(log n). */
const struct tree_inode *tree_lookup(const struct tree *tree, const struct tree_inode *directory,
                                     const char *name);

/* The number of the source's file that this one is, byte for byte; false: it is none. */
bool tree_source_file(const struct tree_inode *inode, uint32_t *file);

/* Bytes [offset, offset + length) of a file, all of which must lie inside it: in buffer, or lent (reader.h).
 * The whole range or an errno; on failure the cause has been logged and nothing is lent. The inode's view
 * must have been started. Thread-safe. */
int tree_read(const struct tree_inode *inode, uint64_t offset, size_t length, void *buffer,
              struct reader_loan *loan);

#endif
