/* The directory tree that a mount shows: a fixed table of inodes made from the plan and from what passes
 * through.
 *
 * Inode numbers depend on the set of paths alone: the root is 1, the others follow by depth, then by path
 * (bytes). So the same source and options give the same numbers at every mount, and a directory's children
 * are neighbours. Immutable once built; no FUSE in here. */
#ifndef MOEFS_FS_TREE_H
#define MOEFS_FS_TREE_H

#include "fs/source/directory.h"
#include "layout/plan.h"

#include <stdint.h>
#include <sys/stat.h>

#define TREE_ROOT UINT64_C(1)
#define TREE_BLOCK_SIZE (1 << 20) /* st_blksize: the size in which reading is best */

enum tree_kind {
    TREE_DIRECTORY,
    TREE_PLANNED, /* file: in plan.files, read through the reader */
    TREE_PASSED   /* file: the source's file number */
};

struct tree_inode {
    const char *path; /* relative to the root, "" for the root itself; the plan's or the directory's text */
    const char *name; /* its last component */
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
};

/* The directory and the plan must outlive the tree. Fails where a virtual file and a file that passes through
 * have the same name. */
int tree_build(const struct directory *directory, const struct plan *plan, struct tree *tree,
               struct error *err);
void tree_free(struct tree *tree);

/* The inode of that number, or NULL. */
const struct tree_inode *tree_get(const struct tree *tree, uint64_t number);

/* The entry `name` of a directory ("." and ".." too), or NULL. O(log n). */
const struct tree_inode *tree_lookup(const struct tree *tree, const struct tree_inode *directory,
                                     const char *name);

#endif
