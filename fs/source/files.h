/* The source that reads a directory's files: descriptors opened at mount and held, and checked for change.
 *
 * The rule (docs/design.md): size or mtime changed: EIO. ctime alone changed (a hard link, chmod, rename
 * over, unlink: the held bytes are still right): one log line, the header is read and compared again, and
 * reading goes on. */
#ifndef MOEFS_FS_SOURCE_FILES_H
#define MOEFS_FS_SOURCE_FILES_H

#include "source.h"

#include <sys/stat.h>

/* One file, handed over open. */
struct source_file {
    int fd;           /* owned by the source from then on */
    const char *path; /* for log lines; must outlive the source */
    struct stat stat; /* as it was when the file was checked */
    uint64_t
        head_length; /* bytes at the beginning whose digest is compared when ctime alone changed; 0: none */
    uint64_t head_digest; /* XXH3-64 of them */
};

/* Takes n files (the array is copied). NULL when memory is short; the descriptors are then still the
 * caller's. */
struct source *source_files_open(const struct source_file *files, uint32_t n);

/* From now on the page cache does not keep what is read here: for a reader whose own pages are cached. A part
 * of a file of which little was cached before is dropped once as many bytes have been read from it as it has.
 * Does nothing where the kernel cannot say what is cached (Linux < 6.5). To be called before the first read.
 * -1: memory is short. */
int source_files_drop_cache(struct source *source);

#endif
