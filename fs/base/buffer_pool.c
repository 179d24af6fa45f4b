/* The pool of buffers: a stack of those given back. */
#include "buffer_pool.h"
#include "layout/base/checked.h"

#include <pthread.h>
#include <stdlib.h>
#include <utlist.h>

#define ALIGNMENT 4096
/* The largest request of libfuse 3.14, so that any buffer does for any request. */
#define SIZE_MIN ((size_t)1 << 20)

struct buffer_pool {
    pthread_mutex_t lock;
    struct pooled_buffer *free; /* the head was used last */
};

struct buffer_pool *buffer_pool_new(void)
{
    struct buffer_pool *pool = calloc(1, sizeof *pool);

    if (pool)
        pthread_mutex_init(&pool->lock, NULL);
    return pool;
}

static void buffer_free(struct pooled_buffer *buffer)
{
    free(buffer->bytes);
    free(buffer);
}

void buffer_pool_free(struct buffer_pool *pool)
{
    if (!pool)
        return;
    while (pool->free) {
        struct pooled_buffer *buffer = pool->free;
        LL_DELETE(pool->free, buffer);
        buffer_free(buffer);
    }
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static struct pooled_buffer *buffer_new(size_t size)
{
    struct pooled_buffer *buffer = calloc(1, sizeof *buffer);
    void *bytes;

    if (!buffer)
        return NULL;
    buffer->size = max_u64(size, SIZE_MIN);
    if (posix_memalign(&bytes, ALIGNMENT, buffer->size) != 0) {
        free(buffer);
        return NULL;
    }
    buffer->bytes = bytes;
    return buffer;
}

struct pooled_buffer *buffer_pool_take(struct buffer_pool *pool, size_t size)
{
    pthread_mutex_lock(&pool->lock);
    struct pooled_buffer *buffer = pool->free;
    if (buffer)
        LL_DELETE(pool->free, buffer);
    pthread_mutex_unlock(&pool->lock);
    if (buffer && buffer->size < size) {
        buffer_free(buffer);
        buffer = NULL;
    }
    return buffer ? buffer : buffer_new(size);
}

void buffer_pool_give(struct buffer_pool *pool, struct pooled_buffer *buffer)
{
    pthread_mutex_lock(&pool->lock);
    LL_PREPEND(pool->free, buffer);
    pthread_mutex_unlock(&pool->lock);
}
