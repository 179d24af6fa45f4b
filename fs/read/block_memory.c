/* Memory of blocks: mapped where it is large, from malloc where it is not. */
#include "block_memory.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Bytes: less than this comes from malloc. */
#define MAPPED_MIN ((size_t)128 << 10)

unsigned char *block_memory_new(size_t length)
{
    if (length < MAPPED_MIN)
        return malloc(length);
    void *bytes = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED)
        return NULL;
    (void)madvise(bytes, length, MADV_HUGEPAGE);
    return bytes;
}

void block_memory_free(unsigned char *bytes, size_t length)
{
    if (length < MAPPED_MIN)
        free(bytes);
    else if (bytes)
        munmap(bytes, length);
}

bool block_memory_fits(size_t from, size_t to)
{
    return from == to || (from >= MAPPED_MIN && to >= MAPPED_MIN);
}

unsigned char *block_memory_resize(unsigned char *bytes, size_t from, size_t to)
{
    assert(block_memory_fits(from, to));
    if (from == to)
        return bytes;
    void *resized = mremap(bytes, from, to, MREMAP_MAYMOVE);
    return resized == MAP_FAILED ? NULL : resized;
}
