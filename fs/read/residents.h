/* The blocks that the cache holds, and which of them goes next: 2Q (Johnson and Shasha, VLDB 1994), which
 * lets a sequential scan pass without pushing out blocks that are read again.
 *
 * Nothing here fills a block, waits or locks: whoever calls holds the cache's lock (block_cache.c). */
#ifndef MOEFS_FS_RESIDENTS_H
#define MOEFS_FS_RESIDENTS_H

/* Without this uthash ends the process where its table cannot grow. */
#define HASH_NONFATAL_OOM 1

#include "block_cache.h"
#include "layout/base/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A1in: blocks read for the first time, first in, first out. Am: blocks asked for again after they had left
 * A1in, least recently used. */
enum resident_queue { RESIDENT_UNFILLED, RESIDENT_A1IN, RESIDENT_AM, RESIDENT_QUEUES };

struct resident {
    struct block_key key;
    size_t length;
    enum resident_queue queue; /* RESIDENT_UNFILLED: in none, it never goes */
    uint32_t users;            /* whoever fills, awaits or reads it: a block with users is never evicted */
    uint64_t read;             /* bytes that readers took, the same ones perhaps several times */
    uint64_t touched;          /* the clock when the last reader came */
    struct resident *prev, *next;
    UT_hash_handle hh;
};

struct ghost;

struct residents {
    size_t capacity;                          /* bytes */
    struct resident *blocks;                  /* by key */
    struct resident *queues[RESIDENT_QUEUES]; /* the head is the next to go */
    struct ghost *ghosts;                     /* A1out, by key: what left A1in lately */
    struct ghost *ghost_queue;                /* the same; the head is the oldest */
    size_t bytes, peak_bytes;                 /* of all blocks */
    size_t a1in_bytes, a1out_bytes;
    uint64_t clock; /* bytes entered since the beginning */
};

/* Forgets the ghosts; no block may be left. */
void residents_clear(struct residents *residents);

struct resident *residents_find(const struct residents *residents, struct block_key key);

/* Enters an unfilled block, whose key and length are set. False when memory is short. */
bool residents_enter(struct residents *residents, struct resident *block);
/* It is filled: from now on it may be evicted. */
void residents_settle(struct residents *residents, struct resident *block);
/* Takes out a block that is not filled and will not be. */
void residents_drop(struct residents *residents, struct resident *block);
/* Its last user has left: what is beyond the capacity goes to *evicted. */
void residents_release(struct residents *residents, struct resident *block, struct resident **evicted);
/* Takes any block out; NULL: there is none. */
struct resident *residents_pop(struct residents *residents);

/* Makes room for `length` more bytes: true where that has succeeded, or nothing is held (a single block is
 * let in however large). What had to go is on *evicted, linked by next, in either case. ahead: the room is
 * for a block that nobody has asked for yet, so only what nobody is coming back for goes. */
bool residents_make_room(struct residents *residents, size_t length, bool ahead, struct resident **evicted);

#endif
