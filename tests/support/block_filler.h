/* What fills the blocks of a cache under test, and readers that check them. */
#ifndef MOEFS_TESTS_BLOCK_FILLER_H
#define MOEFS_TESTS_BLOCK_FILLER_H

#include "fs/read/block_cache.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

/* Blocks whose contents follow from their keys, filled at a speed and with failures that the test decides. */
struct filler {
    atomic_uint fills;
    atomic_uint at_once, most_at_once;
    unsigned sleep_us;
    atomic_int error; /* what fills end with */
    bool waits;       /* until gate opens */
    pthread_mutex_t lock;
    pthread_cond_t gate;
    bool open;
};

static unsigned char byte_at(struct block_key key, size_t i)
{
    return (unsigned char)(key.gather * 31 + key.unit * 7 + i * 13 + (i >> 8));
}

static int fill(void *context, struct block_key key, void *buffer, size_t length, uint32_t part,
                uint32_t n_parts)
{
    struct filler *filler = context;
    const unsigned now = atomic_fetch_add(&filler->at_once, 1) + 1;
    unsigned most = atomic_load(&filler->most_at_once);

    atomic_fetch_add(&filler->fills, 1);
    while (now > most && !atomic_compare_exchange_weak(&filler->most_at_once, &most, now))
        ;
    if (filler->sleep_us)
        nanosleep(&(struct timespec){.tv_nsec = filler->sleep_us * 1000L}, NULL);
    if (filler->waits) {
        pthread_mutex_lock(&filler->lock);
        while (!filler->open)
            pthread_cond_wait(&filler->gate, &filler->lock);
        pthread_mutex_unlock(&filler->lock);
    }
    for (size_t i = part; i < length; i += n_parts)
        ((unsigned char *)buffer)[i] = byte_at(key, i);
    atomic_fetch_sub(&filler->at_once, 1);
    return atomic_load(&filler->error);
}

static void open_gate(struct filler *filler)
{
    pthread_mutex_lock(&filler->lock);
    filler->open = true;
    pthread_cond_broadcast(&filler->gate);
    pthread_mutex_unlock(&filler->lock);
}

static int read_and_check(struct block_cache *cache, struct block_key key, size_t length, size_t offset,
                          size_t n)
{
    const unsigned char *contents;
    struct block *block;
    int e = block_cache_borrow(cache, key, length, true, &block, &contents);

    if (e)
        return e;
    for (size_t i = 0; i < n && !e; i++)
        if (contents[offset + i] != byte_at(key, offset + i))
            e = -1;
    block_cache_return(cache, block, n);
    return e;
}

#define BLOCK ((size_t)1000)

/* True when the block was there. */
static bool is_held(struct block_cache *cache, struct filler *filler, uint32_t unit)
{
    const unsigned before = atomic_load(&filler->fills);

    assert_int_equal(read_and_check(cache, (struct block_key){1, unit}, BLOCK, 0, BLOCK), 0);
    return atomic_load(&filler->fills) == before;
}

struct reading {
    struct block_cache *cache;
    struct block_key key;
    int result;
    size_t length;
};

static void *read_one(void *argument)
{
    struct reading *reading = argument;

    reading->result = read_and_check(reading->cache, reading->key, reading->length, 10, 100);
    return NULL;
}

static void wait_until_waiting(struct block_cache *cache, uint64_t waits)
{
    struct block_cache_stats stats;

    do {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        block_cache_get_stats(cache, &stats);
    } while (stats.waits < waits);
}

#endif
