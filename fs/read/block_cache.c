#include "block_cache.h"

/* Without this uthash ends the process where its table cannot grow. */
#define HASH_NONFATAL_OOM 1
/* uthash's own function falls through switch labels, which clang reports wherever the macro is used. */
#define HASH_FUNCTION(key, length, hash) ((hash) = (unsigned)XXH3_64bits(key, length))

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <uthash.h>
#include <utlist.h>
#include <xxhash.h>

/* 2Q's two sizes, as the paper advises. A1in: first-time blocks, first in, first out. A1out: the keys of
 * those that left it, counted with the bytes their blocks had. A block asked for while its key is there goes
 * to Am: least recently used. */
#define A1IN_SHARE 4
#define A1OUT_SHARE 2
/* Keys cost memory too: with tiny blocks the bytes they stand for are no bound. */
#define A1OUT_KEYS_MAX 16384
/* At most this many of the oldest blocks are checked for readers. */
#define LOOKED_AT_MAX 64
/* Contents of at least this many bytes are mappings of their own: what malloc keeps of freed megabytes, in an
 * arena per thread, is as much again as the cache may hold. */
#define MAPPED_MIN ((size_t)128 << 10)

enum block_state { FILLING, READY, FAILED };
enum block_queue { A1IN, AM };

struct block {
    struct block_key key;
    enum block_state state;
    enum block_queue queue; /* while READY */
    int error;              /* of a part; when FAILED, of the block */
    uint32_t users;         /* whoever fills, awaits or reads it: a block with users is never evicted */
    uint32_t n_parts;       /* 0 until there is memory for the contents */
    uint32_t next_part;     /* the first that nobody has begun to fill */
    uint32_t fillers;       /* threads that are filling a part */
    uint64_t read;          /* bytes that readers took, the same ones perhaps several times */
    uint64_t touched;       /* the cache's clock when the last reader came */
    unsigned char *contents;
    size_t length;
    pthread_cond_t changed; /* no longer FILLING, or there are parts to fill */
    struct block *prev, *next;
    UT_hash_handle hh;
};

struct ghost {
    struct block_key key;
    size_t length;
    struct ghost *prev, *next;
    UT_hash_handle hh;
};

/* Somebody whose block does not fit yet. They are let in in the order in which they came. */
struct applicant {
    pthread_cond_t turn;
    struct applicant *prev, *next;
};

struct block_cache {
    pthread_mutex_t lock; /* of everything; not held while a block is filled, allocated, freed or copied */
    size_t capacity;
    block_fill *fill;
    void *context;
    struct block *blocks;      /* by key: FILLING and READY */
    struct block *queues[2];   /* READY; the head is the next to go */
    struct ghost *ghosts;      /* by key */
    struct ghost *ghost_queue; /* A1out; the head is the oldest */
    size_t a1in_bytes, a1out_bytes;
    uint64_t clock; /* bytes entered since the beginning */
    struct applicant *applicants;
    struct block_cache_stats stats;
};

struct block_cache *block_cache_new(size_t capacity, block_fill *fill, void *context)
{
    struct block_cache *cache = calloc(1, sizeof *cache);

    if (!cache)
        return NULL;
    pthread_mutex_init(&cache->lock, NULL);
    cache->capacity = capacity;
    cache->fill = fill;
    cache->context = context;
    return cache;
}

static unsigned char *contents_new(size_t length)
{
    if (length < MAPPED_MIN)
        return malloc(length);
    void *contents = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (contents == MAP_FAILED)
        return NULL;
    (void)madvise(contents, length, MADV_HUGEPAGE);
    return contents;
}

static void contents_free(unsigned char *contents, size_t length)
{
    if (length < MAPPED_MIN)
        free(contents);
    else if (contents)
        munmap(contents, length);
}

static void block_free(struct block *block)
{
    pthread_cond_destroy(&block->changed);
    contents_free(block->contents, block->length);
    free(block);
}

static void forget_ghost(struct block_cache *cache, struct ghost *ghost)
{
    HASH_DEL(cache->ghosts, ghost);
    DL_DELETE(cache->ghost_queue, ghost);
    cache->a1out_bytes -= ghost->length;
    free(ghost);
}

void block_cache_free(struct block_cache *cache)
{
    if (!cache)
        return;
    assert(!cache->applicants);
    while (cache->ghost_queue)
        forget_ghost(cache, cache->ghost_queue);
    while (cache->blocks) {
        struct block *block = cache->blocks;
        assert(block->users == 0);
        HASH_DEL(cache->blocks, block);
        block_free(block);
    }
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

static struct ghost *find_ghost(struct block_cache *cache, struct block_key key)
{
    struct ghost *ghost;

    HASH_FIND(hh, cache->ghosts, &key, sizeof key, ghost);
    return ghost;
}

/* Short memory only costs the memory of the key. */
static void remember_ghost(struct block_cache *cache, const struct block *block)
{
    struct ghost *ghost = malloc(sizeof *ghost);

    if (!ghost)
        return;
    *ghost = (struct ghost){.key = block->key, .length = block->length};
    HASH_ADD(hh, cache->ghosts, key, sizeof ghost->key, ghost);
    if (!ghost->hh.tbl) {
        free(ghost);
        return;
    }
    DL_APPEND(cache->ghost_queue, ghost);
    cache->a1out_bytes += ghost->length;
    while (cache->a1out_bytes > cache->capacity / A1OUT_SHARE || HASH_COUNT(cache->ghosts) > A1OUT_KEYS_MAX)
        forget_ghost(cache, cache->ghost_queue);
}

static struct block *first_unused(struct block *queue)
{
    struct block *block;

    DL_FOREACH (queue, block)
        if (block->users == 0)
            return block;
    return NULL;
}

/* Nobody is coming back for it: a sequential reader has had all of it, or it lay untouched while the cache
 * could have been filled anew. */
static bool is_done_with(const struct block_cache *cache, const struct block *block)
{
    return block->users == 0 &&
           (block->read >= block->length || cache->clock - block->touched > cache->capacity);
}

/* Among the oldest, one that nobody is coming back for: where many read at once, first in, first out would
 * give up what the slower ones are reading. */
static struct block *first_done_with(const struct block_cache *cache, struct block *queue)
{
    unsigned looked_at = 0;

    for (struct block *block = queue; block && looked_at < LOOKED_AT_MAX; block = block->next, looked_at++)
        if (is_done_with(cache, block))
            return block;
    return NULL;
}

static void take_out(struct block_cache *cache, struct block *block, struct block **evicted)
{
    DL_DELETE(cache->queues[block->queue], block);
    HASH_DEL(cache->blocks, block);
    cache->stats.bytes -= block->length;
    if (block->queue == A1IN) {
        cache->a1in_bytes -= block->length;
        remember_ghost(cache, block);
    }
    LL_PREPEND(*evicted, block);
}

/* Takes the block that 2Q gives up next out of the cache and puts it on *evicted; false where all are in use.
 */
static bool evict(struct block_cache *cache, struct block **evicted)
{
    const bool from_a1in = cache->a1in_bytes > cache->capacity / A1IN_SHARE || !cache->queues[AM];
    struct block *block = from_a1in ? first_done_with(cache, cache->queues[A1IN]) : NULL;

    if (!block)
        block = first_unused(cache->queues[from_a1in ? A1IN : AM]);
    if (!block)
        block = first_unused(cache->queues[from_a1in ? AM : A1IN]);
    if (block)
        take_out(cache, block, evicted);
    return block != NULL;
}

/* For a block that nobody has asked for yet: only what nobody is coming back for is given up. */
static bool evict_for_ahead(struct block_cache *cache, struct block **evicted)
{
    struct block *block = first_done_with(cache, cache->queues[A1IN]);

    if (block)
        take_out(cache, block, evicted);
    return block != NULL;
}

static void free_evicted(struct block *evicted)
{
    while (evicted) {
        struct block *next = evicted->next;
        block_free(evicted);
        evicted = next;
    }
}

/* True when `length` more bytes may be held. A single block is let in however large. */
static bool make_room(struct block_cache *cache, size_t length, struct block **evicted,
                      bool (*evict_one)(struct block_cache *, struct block **))
{
    while (cache->stats.bytes > 0 &&
           (length > cache->capacity || cache->stats.bytes > cache->capacity - length))
        if (!evict_one(cache, evicted))
            return false;
    return true;
}

/* Called whenever room may have been made: a block lost its last user, left, or an applicant was served. */
static void call_next(struct block_cache *cache)
{
    if (cache->applicants)
        pthread_cond_signal(&cache->applicants->turn);
}

static struct block *find_block(struct block_cache *cache, struct block_key key)
{
    struct block *block;

    HASH_FIND(hh, cache->blocks, &key, sizeof key, block);
    return block;
}

/* Whether one more thread could help to fill the block. */
static bool has_parts_left(const struct block *block)
{
    return block->state == FILLING && !block->error && block->next_part < block->n_parts;
}

static bool is_left_to_others(struct block_cache *cache, struct block_key key)
{
    const struct block *block = find_block(cache, key);

    return block && block->state == FILLING && !has_parts_left(block);
}

/* Waits behind earlier applicants until there is room for the block, or somebody else has brought it in
 * meanwhile: then that one is returned. */
static struct block *wait_for_room(struct block_cache *cache, struct block_key key, size_t length,
                                   struct block **evicted)
{
    struct applicant self;
    struct block *block = NULL;

    if (!cache->applicants && make_room(cache, length, evicted, evict))
        return NULL;
    pthread_cond_init(&self.turn, NULL);
    DL_APPEND(cache->applicants, &self);
    for (;;) {
        if (cache->applicants == &self) {
            block = find_block(cache, key);
            if (block || make_room(cache, length, evicted, evict))
                break;
        }
        if (*evicted) {
            /* What was given up already must not be held while waiting. The lock is taken anew: look again.
             */
            struct block *gone = *evicted;
            *evicted = NULL;
            pthread_mutex_unlock(&cache->lock);
            free_evicted(gone);
            pthread_mutex_lock(&cache->lock);
            continue;
        }
        pthread_cond_wait(&self.turn, &cache->lock);
    }
    DL_DELETE(cache->applicants, &self);
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
    block->key = key;
    block->length = length;
    block->state = FILLING;
    block->users = 1;
    pthread_cond_init(&block->changed, NULL);
    HASH_ADD(hh, cache->blocks, key, sizeof block->key, block);
    if (!block->hh.tbl) {
        block_free(block);
        return NULL;
    }
    cache->clock += length;
    block->touched = cache->clock;
    cache->stats.bytes += length;
    if (cache->stats.bytes > cache->stats.peak_bytes)
        cache->stats.peak_bytes = cache->stats.bytes;
    return block;
}

/* Memory for a block's contents: an evicted block's, where there is one of the same length or one whose
 * mapping can be resized, so that a scan of similar blocks has no memory cleared by the kernel. NULL: there
 * is none. */
static unsigned char *take_contents(struct block *evicted, size_t length)
{
    struct block *from = NULL;

    for (; evicted && (!from || from->length != length); evicted = evicted->next)
        if (evicted->contents &&
            (evicted->length == length || (evicted->length >= MAPPED_MIN && length >= MAPPED_MIN)))
            from = evicted;
    if (!from)
        return NULL;
    unsigned char *contents = from->contents;
    if (from->length != length) {
        void *resized = mremap(contents, from->length, length, MREMAP_MAYMOVE);
        if (resized == MAP_FAILED)
            return NULL;
        contents = resized;
    }
    from->contents = NULL;
    return contents;
}

/* The last part is filled, or no more will be. */
static void settle(struct block_cache *cache, struct block *block)
{
    if (block->error) {
        block->state = FAILED;
        HASH_DEL(cache->blocks, block);
        cache->stats.bytes -= block->length;
        call_next(cache);
    } else {
        struct ghost *ghost = find_ghost(cache, block->key);
        block->state = READY;
        block->queue = ghost ? AM : A1IN;
        if (ghost)
            forget_ghost(cache, ghost);
        else
            cache->a1in_bytes += block->length;
        DL_APPEND(cache->queues[block->queue], block);
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
        const int e =
            cache->fill(cache->context, block->key, block->contents, block->length, part, block->n_parts);
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
static void fill_block(struct block_cache *cache, struct block *block, struct block *evicted)
{
    pthread_mutex_unlock(&cache->lock);
    unsigned char *contents = take_contents(evicted, block->length);
    free_evicted(evicted);
    if (!contents)
        contents = contents_new(block->length);
    pthread_mutex_lock(&cache->lock);
    block->contents = contents;
    if (contents)
        block->n_parts = block->length > BLOCK_PART ? (uint32_t)(block->length / BLOCK_PART) : 1;
    else
        block->error = ENOMEM;
    if (block->n_parts > 1 && block->users > 1)
        pthread_cond_broadcast(&block->changed);
    fill_parts(cache, block);
    await_block(cache, block);
}

/* Finds or computes the block and becomes one of its users, whatever its state is then. NULL: ENOMEM. */
static struct block *enter(struct block_cache *cache, struct block_key key, size_t length)
{
    struct block *evicted = NULL, *block = find_block(cache, key);

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
    assert(block->length == length);
    block->users++;
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
static void leave(struct block_cache *cache, struct block *block, struct block **evicted)
{
    if (--block->users > 0)
        return;
    if (block->state == FAILED) {
        LL_PREPEND(*evicted, block);
        return;
    }
    if (block->queue == AM) {
        DL_DELETE(cache->queues[AM], block);
        DL_APPEND(cache->queues[AM], block);
    }
    while (cache->stats.bytes > cache->capacity && evict(cache, evicted))
        ;
    call_next(cache);
}

int block_cache_borrow(struct block_cache *cache, struct block_key key, size_t length, bool patient,
                       struct block **lent, const unsigned char **contents)
{
    struct block *evicted = NULL;
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
    struct block *evicted = NULL;

    pthread_mutex_lock(&cache->lock);
    block->read += n;
    block->touched = cache->clock;
    leave(cache, block, &evicted);
    pthread_mutex_unlock(&cache->lock);
    free_evicted(evicted);
}

int block_cache_read(struct block_cache *cache, struct block_key key, size_t length, size_t offset,
                     void *buffer, size_t n)
{
    struct block *block;
    const unsigned char *contents;

    assert(offset <= length && n <= length - offset);
    const int e = block_cache_borrow(cache, key, length, true, &block, &contents);
    if (e)
        return e;
    memcpy(buffer, contents + offset, n);
    block_cache_return(cache, block, n);
    return 0;
}

enum block_ahead block_cache_fill_ahead(struct block_cache *cache, struct block_key key, size_t length)
{
    struct block *evicted = NULL;
    enum block_ahead result = BLOCK_AHEAD_NO_ROOM;

    pthread_mutex_lock(&cache->lock);
    struct block *block = find_block(cache, key);
    if (block) {
        result = BLOCK_AHEAD_THERE;
        if (has_parts_left(block)) {
            block->users++;
            fill_parts(cache, block);
            leave(cache, block, &evicted);
            result = BLOCK_AHEAD_FILLED;
        }
    } else if (!cache->applicants && make_room(cache, length, &evicted, evict_for_ahead)) {
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
    pthread_mutex_unlock(&cache->lock);
}
