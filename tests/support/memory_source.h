/* A checkpoint's directory in memory: a listing and a source without a file system, for tests and fuzzing. */
#ifndef MOEFS_TESTS_MEMORY_SOURCE_H
#define MOEFS_TESTS_MEMORY_SOURCE_H

#include "fs/source/listing.h"
#include "fs/source/source.h"

#include <stddef.h>
#include <stdint.h>

struct memory_file {
    const char *path;  /* "config.json", "sub/notes.txt"; directories are listed by themselves */
    const void *bytes; /* of a regular file */
    size_t size;
    enum listed_kind kind;   /* LISTED_FILE, or what stands there instead */
    struct source_info info; /* owner, mode and time; a mode of 0 stands for a regular file with 0644 */
};

/* Lists n files, in any order, of a directory that messages call `name`. All of them must outlive the source.
 */
struct source *memory_source_open(const char *name, const struct memory_file *files, uint32_t n,
                                  struct listing *listing);

#endif
