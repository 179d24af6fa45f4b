/* Reading a source's files while opening: with a message instead of an errno, and whole. */
#ifndef MOEFS_FS_LOAD_H
#define MOEFS_FS_LOAD_H

#include "layout/base/error.h"
#include "source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads exactly length bytes, all of which lie inside the file by its size. */
int load_range(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length,
               struct error *err);

/* The whole file, malloc'd; refused above `limit` bytes. */
char *load_file(struct source *source, uint32_t file, uint64_t limit, size_t *length, struct error *err);

/* Whether the file is a git-lfs pointer, which stands where the real one was not fetched. False where it
 * cannot be read: reading it says so. */
bool load_is_lfs_pointer(struct source *source, uint32_t file);

#endif
