/* Large buffers for replies and for scratch memory, each used by one thread at a time. The buffer given back
 * last is taken first: it is still in the processor's caches, which a buffer for each thread is not, since
 * the kernel wakes a daemon's threads in turn. Thread-safe. */
#ifndef MOEFS_FS_BUFFER_POOL_H
#define MOEFS_FS_BUFFER_POOL_H

#include <stddef.h>

struct pooled_buffer {
    unsigned char *bytes; /* begins at a page */
    size_t size;
    struct pooled_buffer *next; /* the pool's */
};

/* NULL when memory is short. */
struct buffer_pool *buffer_pool_new(void);
/* All buffers must have been given back. */
void buffer_pool_free(struct buffer_pool *pool);

/* A buffer of at least `size` bytes, whose contents are unspecified; NULL when memory is short. */
struct pooled_buffer *buffer_pool_take(struct buffer_pool *pool, size_t size);
void buffer_pool_give(struct buffer_pool *pool, struct pooled_buffer *buffer);

#endif
