/* Memory for the contents of blocks. Large ones are mappings of their own: what malloc keeps of freed
 * megabytes, in an arena per thread, is as much again as the cache may hold. */
#ifndef MOEFS_FS_BLOCK_MEMORY_H
#define MOEFS_FS_BLOCK_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* length > 0. NULL when memory is short. */
unsigned char *block_memory_new(size_t length);
/* bytes: NULL, or what has `length` bytes. */
void block_memory_free(unsigned char *bytes, size_t length);

/* Whether the memory of one block can become another's, so that a scan of similar blocks has no memory
 * cleared by the kernel. */
bool block_memory_fits(size_t from, size_t to);
/* Makes it so: the memory, which may have moved; NULL where that fails, and bytes is as it was. Its contents
 * are unspecified. */
unsigned char *block_memory_resize(unsigned char *bytes, size_t from, size_t to);

#endif
