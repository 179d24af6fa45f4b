/* A tree written to a directory: what `cp -r` of a mount does, without a mount. */
#ifndef MOEFS_FS_CONVERT_H
#define MOEFS_FS_CONVERT_H

#include "fs/base/progress.h"
#include "fs/view/tree.h"
#include "layout/base/error.h"

#include <stdbool.h>

struct convert_options {
    bool sparse; /* of weight files only the headers are written: real names and shapes, all weights zero */
    bool sync;   /* a file has its name only once it is on the disk */
    bool keep_modes;           /* the tree's, less the umask, as `cp -r` does; else a new file's */
    unsigned jobs;             /* threads, each with a buffer of 4 MiB; 0: one */
    struct progress *progress; /* begun and ended by the caller, or NULL */
};

/* Writes every file of the tree, whose views have been started, into the directory at path, which must be
 * absent or empty; the index and config.json last. On failure, or when SIGINT, SIGTERM or SIGHUP comes meanwhile, -1 with *err set, and the
 * directory is as it was. One at a time in a process: signals have no context. */
int convert_tree(const struct tree *tree, const char *path, const struct convert_options *options,
                 struct error *err);

#endif
