/* The source that reads local files: descriptors opened at mount and held, and checked for change.
 *
 * The rule (docs/design.md): size or mtime changed: EIO. ctime alone changed (a hard link, chmod, rename
 * over, unlink: the held bytes are still right): one log line, the header is read and compared again, and
 * reading goes on. */
#ifndef MOEFS_FS_SOURCE_FILES_H
#define MOEFS_FS_SOURCE_FILES_H

#include "layout/base/error.h"
#include "source.h"

#include <sys/stat.h>

/* One file to open. The texts are copied. */
struct files_target {
    const char *path; /* relative to the directory: source_info's */
    int root;         /* a directory held open meanwhile, and what to open below it (beneath.h) */
    const char *target;
    const char *sha256; /* source_info's, or NULL */
    struct stat stat;   /* target must still be the file that this describes */
};

/* Opens n files of the directory that messages call `directory`. NULL with *err set, and nothing left open,
 * where one of them cannot be opened. */
struct source *source_files_open(const char *directory, const struct files_target *targets, uint32_t n,
                                 struct error *err);

/* From now on the page cache does not keep what is read here: for a reader whose own pages are cached. A part
 * of a file of which little was cached before is dropped once as many bytes have been read from it as it has.
 * Does nothing where the kernel cannot say what is cached (Linux < 6.5). To be called once the opening has
 * ended and before the first read. -1: memory is short. */
int source_files_drop_cache(struct source *source);

#endif
