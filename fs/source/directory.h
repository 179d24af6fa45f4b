/* The source directory: what is in it, which of its files are the weights, and their headers.
 *
 * Everything is looked at once, before mounting: names, types, symbolic links, descriptors. What is not a
 * regular file or a directory is never opened. */
#ifndef MOEFS_FS_DIRECTORY_H
#define MOEFS_FS_DIRECTORY_H

#include "layout/format/checkpoint.h"
#include "files.h"

#include <stdbool.h>
#include <sys/stat.h>

struct directory_options {
    bool follow_symlinks; /* links may leave SRC and its HF cache's blobs/ */
    const char *const
        *exclude; /* globs of names relative to SRC that are not shown; NULL-terminated, or NULL */
};

/* What passes through unchanged: everything but the weight files and their index. */
struct directory_entry {
    const char *path; /* relative to SRC: "tokenizer.json", "original/params.json"; parents come first */
    bool is_directory;
    struct stat stat; /* of what a symbolic link leads to */
    uint32_t file;    /* regular file: its number in the source */
};

struct directory {
    struct arena arena;
    const char *path; /* SRC resolved: absolute, without links; the snapshot where SRC was an HF cache's model
                         folder */
    struct stat stat; /* of path */
    struct checkpoint checkpoint;
    struct directory_entry *entries; /* sorted by path, bytes; parents before children */
    uint32_t n_entries;
    /* Open files: first the checkpoint's shards, in its order, then the regular files among entries. */
    struct source_file *files;
    uint32_t n_files;
    struct notes notes;
};

/* Scans SRC, opens its files (raising the soft RLIMIT_NOFILE to the hard one first), parses config.json,
 * index and headers. On failure -1 with *err set, nothing left open. */
int directory_open(const char *src, const struct directory_options *options, struct directory *directory,
                   struct error *err);

/* Closes the descriptors that no source has taken (those that are not -1) and frees the rest. */
void directory_close(struct directory *directory);

/* Makes the source that reads its files: file i of the source is files[i]; the descriptors are the source's
 * then. */
struct source *directory_source(struct directory *directory, struct error *err);

#endif
