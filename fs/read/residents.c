/* The order in which blocks are evicted: the queues of 2Q. */
#include "residents.h"

#include <assert.h>
#include <stdlib.h>
#include <utlist.h>

/* 2Q's two sizes, as the paper advises: of A1in, and of the blocks whose keys are in A1out. */
#define A1IN_SHARE 4
#define A1OUT_SHARE 2
/* Keys cost memory too: with tiny blocks the bytes they stand for are no bound. */
#define A1OUT_KEYS_MAX 16384
/* At most this many of the oldest blocks are asked whether anybody is coming back for them. */
#define SCAN_MAX 64

struct ghost {
    struct block_key key;
    size_t length; /* bytes that the block had */
    struct ghost *prev, *next;
    UT_hash_handle hh;
};

static struct ghost *find_ghost(const struct residents *residents, struct block_key key)
{
    struct ghost *ghost;

    HASH_FIND(hh, residents->ghosts, &key, sizeof key, ghost);
    return ghost;
}

static void forget_ghost(struct residents *residents, struct ghost *ghost)
{
    HASH_DEL(residents->ghosts, ghost);
    DL_DELETE(residents->ghost_queue, ghost);
    residents->a1out_bytes -= ghost->length;
    free(ghost);
}

/* Short memory only costs the memory of the key: the block is a first-time one when it comes back. */
static void remember_ghost(struct residents *residents, const struct resident *block)
{
    struct ghost *ghost = malloc(sizeof *ghost);

    if (!ghost)
        return;
    *ghost = (struct ghost){.key = block->key, .length = block->length};
    HASH_ADD(hh, residents->ghosts, key, sizeof ghost->key, ghost);
    if (!ghost->hh.tbl) {
        free(ghost);
        return;
    }
    DL_APPEND(residents->ghost_queue, ghost);
    residents->a1out_bytes += ghost->length;
    while (residents->a1out_bytes > residents->capacity / A1OUT_SHARE ||
           HASH_COUNT(residents->ghosts) > A1OUT_KEYS_MAX)
        forget_ghost(residents, residents->ghost_queue);
}

void residents_clear(struct residents *residents)
{
    assert(!residents->blocks);
    while (residents->ghost_queue)
        forget_ghost(residents, residents->ghost_queue);
}

struct resident *residents_find(const struct residents *residents, struct block_key key)
{
    struct resident *block;

    HASH_FIND(hh, residents->blocks, &key, sizeof key, block);
    return block;
}

bool residents_enter(struct residents *residents, struct resident *block)
{
    block->queue = RESIDENT_UNFILLED;
    HASH_ADD(hh, residents->blocks, key, sizeof block->key, block);
    if (!block->hh.tbl)
        return false;
    residents->clock += block->length;
    block->touched = residents->clock;
    residents->bytes += block->length;
    if (residents->bytes > residents->peak_bytes)
        residents->peak_bytes = residents->bytes;
    return true;
}

void residents_settle(struct residents *residents, struct resident *block)
{
    struct ghost *ghost = find_ghost(residents, block->key);

    block->queue = ghost ? RESIDENT_AM : RESIDENT_A1IN;
    if (ghost)
        forget_ghost(residents, ghost);
    else
        residents->a1in_bytes += block->length;
    DL_APPEND(residents->queues[block->queue], block);
}

/* Takes the block out of everything but its queue. */
static void forget_block(struct residents *residents, struct resident *block)
{
    HASH_DEL(residents->blocks, block);
    residents->bytes -= block->length;
}

void residents_drop(struct residents *residents, struct resident *block)
{
    assert(block->queue == RESIDENT_UNFILLED);
    forget_block(residents, block);
}

static struct resident *first_unused(struct resident *queue)
{
    struct resident *block;

    DL_FOREACH (queue, block)
        if (block->users == 0)
            return block;
    return NULL;
}

/* Nobody is coming back for it: a sequential reader has had all of it, or it lay untouched while the cache
 * could have been filled anew. */
static bool is_done_with(const struct residents *residents, const struct resident *block)
{
    return block->users == 0 &&
           (block->read >= block->length || residents->clock - block->touched > residents->capacity);
}

/* Among the oldest of A1in, one that nobody is coming back for: where many read at once, first in, first out
 * would give up what the slower ones are reading. */
static struct resident *first_done_with(const struct residents *residents)
{
    struct resident *block = residents->queues[RESIDENT_A1IN];

    for (unsigned i = 0; block && i < SCAN_MAX; block = block->next, i++)
        if (is_done_with(residents, block))
            return block;
    return NULL;
}

/* The block that 2Q gives up next; NULL where all are in use. */
static struct resident *find_next(const struct residents *residents)
{
    const bool from_a1in =
        residents->a1in_bytes > residents->capacity / A1IN_SHARE || !residents->queues[RESIDENT_AM];
    struct resident *block = from_a1in ? first_done_with(residents) : NULL;

    if (!block)
        block = first_unused(residents->queues[from_a1in ? RESIDENT_A1IN : RESIDENT_AM]);
    if (!block)
        block = first_unused(residents->queues[from_a1in ? RESIDENT_AM : RESIDENT_A1IN]);
    return block;
}

/* Takes the block out and puts it on *evicted; false where it is NULL. */
static bool evict(struct residents *residents, struct resident *block, struct resident **evicted)
{
    if (!block)
        return false;
    DL_DELETE(residents->queues[block->queue], block);
    forget_block(residents, block);
    if (block->queue == RESIDENT_A1IN) {
        residents->a1in_bytes -= block->length;
        remember_ghost(residents, block);
    }
    LL_PREPEND(*evicted, block);
    return true;
}

bool residents_make_room(struct residents *residents, size_t length, bool ahead, struct resident **evicted)
{
    while (residents->bytes > 0 &&
           (length > residents->capacity || residents->bytes > residents->capacity - length))
        if (!evict(residents, ahead ? first_done_with(residents) : find_next(residents), evicted))
            return false;
    return true;
}

void residents_release(struct residents *residents, struct resident *block, struct resident **evicted)
{
    if (block->queue == RESIDENT_AM) {
        DL_DELETE(residents->queues[RESIDENT_AM], block);
        DL_APPEND(residents->queues[RESIDENT_AM], block);
    }
    while (residents->bytes > residents->capacity && evict(residents, find_next(residents), evicted))
        ;
}

struct resident *residents_pop(struct residents *residents)
{
    struct resident *block = residents->blocks;

    if (!block)
        return NULL;
    if (block->queue != RESIDENT_UNFILLED)
        DL_DELETE(residents->queues[block->queue], block);
    forget_block(residents, block);
    return block;
}
