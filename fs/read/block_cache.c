/* The block cache: single flight, filling in parts, and waiting for room. */
#include "block_cache.h"

#include "block_memory.h"
#include "residents.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <utlist.h>

enum block_state { FILLING, READY, FAILED };

struct block {
    struct resident resident; /* the first member: residents.c knows no more of a block */
    enum block_state state;
    int error;          /* of a part; when FAILED, of the block */
    uint32_t n_parts;   /* 0 until there is memory for the contents */
    uint32_t next_part; /* the first that nobody has begun to fill */
    uint32_t fillers;   /* threads that are filling a part */
    unsigned char *contents;
    pthread_cond_t changed; /* no longer FILLING, or there are parts to fill */
};

/* A reader whose block does not fit yet. Waiters are let in in the order in which they came. */
struct waiter {
    pthread_cond_t turn;
    struct waiter *prev, *next;
};

struct block_cache {
    /* Guards everything; never held while a block is filled, allocated, freed or copied. */
    pthread_mutex_t lock;
    block_fill *fill;
    void *context;
    struct residents residents;
    struct waiter *waiters;
    struct block_cache_stats stats;
};

struct block_cache *block_cache_new(size_t capacity, block_fill *fill, void *context)
{
    struct block_cache *cache = calloc(1, sizeof *cache);

    if (!cache)
        return NULL;
    pthread_mutex_init(&cache->lock, NULL);
    cache->residents.capacity = capacity;
    cache->fill = fill;
    cache->context = context;
    return cache;
}

static void block_free(struct block *block)
{
    pthread_cond_destroy(&block->changed);
    block_memory_free(block->contents, block->resident.length);
    free(block);
}

static void free_evicted(struct resident *evicted)
{
    while (evicted) {
        struct resident *next = evicted->next;
        block_free((struct block *)evicted);
        evicted = next;
    }
}

void block_cache_free(struct block_cache *cache)
{
    struct resident *block;

    if (!cache)
        return;
    assert(!cache->waiters);
    while ((block = residents_pop(&cache->residents))) {
        assert(block->users == 0);
        block_free((struct block *)block);
    }
    residents_clear(&cache->residents);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

/* Called whenever room may have been made: a block lost its last user, left, or a waiter was served. */
static void call_next(struct block_cache *cache)
{
    if (cache->waiters)
        pthread_cond_signal(&cache->waiters->turn);
}

static struct block *find_block(const struct block_cache *cache, struct block_key key)
{
    return (struct block *)residents_find(&cache->residents, key);
}

/* Whether one more thread could help to fill the block. */
static bool has_parts_left(const struct block *block)
{
    return block->state == FILLING && !block->error && block->next_part < block->n_parts;
}

static bool is_left_to_others(const struct block_cache *cache, struct block_key key)
{
    const struct block *block = find_block(cache, key);

    return block && block->state == FILLING && !has_parts_left(block);
}

/* Waits behind earlier readers until there is room for the block, or somebody else has brought it in
 * meanwhile: then that one is returned. */
static struct block *wait_for_room(struct block_cache *cache, struct block_key key, size_t length,
                                   struct resident **evicted)
{
    struct waiter self;
    struct block *block = NULL;

    if (!cache->waiters && residents_make_room(&cache->residents, length, false, evicted))
        return NULL;
    pthread_cond_init(&self.turn, NULL);
    DL_APPEND(cache->waiters, &self);
    for (;;) {
        if (cache->waiters == &self) {
            block = find_block(cache, key);
            if (block || residents_make_room(&cache->residents, length, false, evicted))
                break;
        }
        if (*evicted) {
            /* What was given up already must not be held while waiting. The lock is taken anew: look again.
             */
            struct resident *gone = *evicted;
            *evicted = NULL;
            pthread_mutex_unlock(&cache->lock);
            free_evicted(gone);
            pthread_mutex_lock(&cache->lock);
            continue;
        }
        pthread_cond_wait(&self.turn, &cache->lock);
    }
    DL_DELETE(cache->waiters, &self);
    pthread_cond_destroy(&self.turn);
    call_next(cache);
    return block;
}

/* Enters an empty block, FILLING, with one user. NULL when memory is short. */
static struct block *add_block(struct block_cache *cache, struct block_key key, size_t length)
{
    struct block *block = calloc(1, sizeof *block);

    if (!block)
        return NULL;
    block->resident.key = key;
    block->resident.length = length;
    block->resident.users = 1;
    block->state = FILLING;
    pthread_cond_init(&block->changed, NULL);
    if (!residents_enter(&cache->residents, &block->resident)) {
        block_free(block);
        return NULL;
    }
    return block;
}

/* An evicted block's memory, best of one of the same length; NULL: none is of use. */
static unsigned char *take_contents(struct resident *evicted, size_t length)
{
    struct block *from = NULL;

    for (; evicted && (!from || from->resident.length != length); evicted = evicted->next) {
        struct block *block = (struct block *)evicted;
        if (block->contents && block_memory_fits(evicted->length, length))
            from = block;
    }
    if (!from)
        return NULL;
    unsigned char *contents = block_memory_resize(from->contents, from->resident.length, length);
    if (contents)
        from->contents = NULL;
    return contents;
}

/* The last part is filled, or no more will be. */
static void settle(struct block_cache *cache, struct block *block)
{
    if (block->error) {
        block->state = FAILED;
        residents_drop(&cache->residents, &block->resident);
        call_next(cache);
    } else {
        block->state = READY;
        residents_settle(&cache->residents, &block->resident);
    }
    pthread_cond_broadcast(&block->changed);
}

/* Fills parts as long as there are any. The lock is given up meanwhile. */
static void fill_parts(struct block_cache *cache, struct block *block)
{
    block->fillers++;
    while (has_parts_left(block)) {
        const uint32_t part = block->next_part++;
        pthread_mutex_unlock(&cache->lock);
        const int e = cache->fill(cache->context, block->resident.key, block->contents,
                                  block->resident.length, part, block->n_parts);
        pthread_mutex_lock(&cache->lock);
        if (e && !block->error)
            block->error = e;
    }
    if (--block->fillers == 0)
        settle(cache, block);
}

/* Waits until the block is filled, and helps with it. */
static void await_block(struct block_cache *cache, struct block *block)
{
    while (block->state == FILLING) {
        if (has_parts_left(block))
            fill_parts(cache, block);
        else
            pthread_cond_wait(&block->changed, &cache->lock);
    }
}

/* Computes a block that add_block() made. The lock is given up meanwhile. */
static void fill_block(struct block_cache *cache, struct block *block, struct resident *evicted)
{
    pthread_mutex_unlock(&cache->lock);
    unsigned char *contents = take_contents(evicted, block->resident.length);
    free_evicted(evicted);
    if (!contents)
        contents = block_memory_new(block->resident.length);
    pthread_mutex_lock(&cache->lock);
    block->contents = contents;
    if (contents)
        block->n_parts =
            block->resident.length > BLOCK_PART ? (uint32_t)(block->resident.length / BLOCK_PART) : 1;
    else
        block->error = ENOMEM;
    if (block->n_parts > 1 && block->resident.users > 1)
        pthread_cond_broadcast(&block->changed);
    fill_parts(cache, block);
    await_block(cache, block);
}

/* Finds or computes the block and becomes one of its users, whatever its state is then. NULL: ENOMEM. */
static struct block *enter(struct block_cache *cache, struct block_key key, size_t length)
{
    struct resident *evicted = NULL;
    struct block *block = find_block(cache, key);

    if (!block)
        block = wait_for_room(cache, key, length, &evicted);
    if (!block) {
        cache->stats.misses++;
        block = add_block(cache, key, length);
        if (!block) {
            call_next(cache); /* the room that was made is another's */
            free_evicted(evicted);
            return NULL;
        }
        fill_block(cache, block, evicted);
        return block;
    }
    assert(block->resident.length == length);
    block->resident.users++;
    free_evicted(evicted);
    if (block->state == READY) {
        cache->stats.hits++;
        return block;
    }
    cache->stats.waits++;
    await_block(cache, block);
    return block;
}

/* Stops using the block. What remains to be freed outside the lock goes to *evicted. */
static void leave(struct block_cache *cache, struct block *block, struct resident **evicted)
{
    if (--block->resident.users > 0)
        return;
    if (block->state == FAILED) {
        struct resident *failed = &block->resident;
        LL_PREPEND(*evicted, failed);
        return;
    }
    residents_release(&cache->residents, &block->resident, evicted);
    call_next(cache);
}

int block_cache_borrow(struct block_cache *cache, struct block_key key, size_t length, bool patient,
                       struct block **lent, const unsigned char **contents)
{
    struct resident *evicted = NULL;
    int e = 0;

    pthread_mutex_lock(&cache->lock);
    struct block *block = NULL;
    if (!patient && is_left_to_others(cache, key))
        e = EAGAIN;
    else if (!(block = enter(cache, key, length)))
        e = ENOMEM;
    else if (block->state == FAILED)
        e = block->error;
    if (e && block)
        leave(cache, block, &evicted);
    pthread_mutex_unlock(&cache->lock);
    free_evicted(evicted);
    *lent = e ? NULL : block;
    *contents = e ? NULL : block->contents;
    return e;
}

void block_cache_return(struct block_cache *cache, struct block *block, size_t n)
{
    struct resident *evicted = NULL;

    pthread_mutex_lock(&cache->lock);
    block->resident.read += n;
    block->resident.touched = cache->residents.clock;
    leave(cache, block, &evicted);
    pthread_mutex_unlock(&cache->lock);
    free_evicted(evicted);
}

enum block_ahead block_cache_fill_ahead(struct block_cache *cache, struct block_key key, size_t length)
{
    struct resident *evicted = NULL;
    enum block_ahead result = BLOCK_AHEAD_NO_ROOM;

    pthread_mutex_lock(&cache->lock);
    struct block *block = find_block(cache, key);
    if (block) {
        result = BLOCK_AHEAD_THERE;
        if (has_parts_left(block)) {
            block->resident.users++;
            fill_parts(cache, block);
            leave(cache, block, &evicted);
            result = BLOCK_AHEAD_FILLED;
        }
    } else if (!cache->waiters && residents_make_room(&cache->residents, length, true, &evicted)) {
        block = add_block(cache, key, length);
        if (block) {
            cache->stats.misses++;
            fill_block(cache, block, evicted);
            evicted = NULL;
            leave(cache, block, &evicted);
            result = BLOCK_AHEAD_FILLED;
        }
    }
    pthread_mutex_unlock(&cache->lock);
    free_evicted(evicted);
    return result;
}

void block_cache_get_stats(struct block_cache *cache, struct block_cache_stats *stats)
{
    pthread_mutex_lock(&cache->lock);
    *stats = cache->stats;
    stats->bytes = cache->residents.bytes;
    stats->peak_bytes = cache->residents.peak_bytes;
    pthread_mutex_unlock(&cache->lock);
}
