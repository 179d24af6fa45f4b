/* A checkpoint's directory, opened: its files, which of them are the weights, and their headers.
 *
 * Opening has two steps that know nothing of each other. Listing (local.h) says which names there are and
 * gives a source that reads the files; reading (here) finds the weights by those names and reads config.json,
 * the index and the headers through the source. */
#ifndef MOEFS_FS_DIRECTORY_H
#define MOEFS_FS_DIRECTORY_H

#include "layout/format/checkpoint.h"
#include "listing.h"
#include "scan.h"
#include "source.h"

#include <stdbool.h>

#define DIRECTORY_NO_FILE UINT32_MAX

/* What passes through unchanged: everything but the weight files and their index. */
struct directory_entry {
    struct source_info info; /* of what a symbolic link leads to; parents come first */
    bool is_directory;
    uint32_t file; /* regular file: its number in the source */
};

struct directory {
    struct arena arena;
    const char *path;       /* SRC resolved: absolute, without links; the snapshot where SRC was an HF cache's
                               model folder */
    struct source_info top; /* of path */
    struct checkpoint checkpoint;
    struct directory_entry *entries; /* sorted by path, bytes; parents before children */
    uint32_t n_entries;
    /* Reads the files: first the checkpoint's shards, in its order, then the regular files among entries,
     * then the index. The directory's; a front end may replace it by a layer over it. */
    struct source *source;
    uint32_t index_file; /* the weights' index, which is not shown; DIRECTORY_NO_FILE: there is none */
    struct notes notes;
};

/* Finds the weights in a listing and parses config.json, index and headers through the source, which it
 * takes, as it takes what the listing holds, also when it fails: -1 with *err set, nothing left open. */
int directory_read(struct listing *listing, struct source *source, struct directory *directory,
                   struct error *err);

/* Lists and reads the local directory SRC. */
int directory_open(const char *src, const struct scan_options *options, struct directory *directory,
                   struct error *err);

void directory_close(struct directory *directory);

#endif
