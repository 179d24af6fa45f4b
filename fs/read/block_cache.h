/* A bounded cache of computed blocks. One computation per block however many readers (single flight), and a
 * large block is computed in parts by those who wait for it. An error is given to those who waited and never
 * kept. Which blocks go is residents.h's affair. Thread-safe; no lock is held while a block is computed. */
#ifndef MOEFS_FS_BLOCK_CACHE_H
#define MOEFS_FS_BLOCK_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct block;
struct block_cache;

struct block_key {
    uint32_t gather;
    uint32_t unit; /* number of the unit inside the gather */
};

/* Fills part `part` of n_parts, 0 <= part < n_parts, of the block's contents: which bytes that is, is the
 * function's to choose, as long as all parts together are all `length` bytes of buffer. 0 or an errno.
 * Several threads may be filling parts of one block. */
typedef int block_fill(void *context, struct block_key key, void *buffer, size_t length, uint32_t part,
                       uint32_t n_parts);

/* A block of several times this many bytes is filled in as many parts, by the threads that wait for it. */
#define BLOCK_PART ((size_t)4 << 20)

/* capacity: bytes of block contents that are kept at most. Blocks that are being filled or read count too;
 * when they alone fill it, a reader waits until one is released (a single block is always let in, however
 * large). NULL when memory is short. */
struct block_cache *block_cache_new(size_t capacity, block_fill *fill, void *context);
void block_cache_free(struct block_cache *cache);

/* Lends the block of `length` bytes, filling it first where needed: *contents are its bytes until it is given
 * back with block_cache_return(); until then it stays, and counts. With `patient` false EAGAIN where others
 * are filling it and there is nothing to help with. 0, EAGAIN, ENOMEM, or the errno of the fill: then nothing
 * is lent. */
int block_cache_borrow(struct block_cache *cache, struct block_key key, size_t length, bool patient,
                       struct block **block, const unsigned char **contents);
/* n: bytes of the block that the reader took; a block of which all have been taken is given up first. */
void block_cache_return(struct block_cache *cache, struct block *block, size_t n);

enum block_ahead {
    BLOCK_AHEAD_FILLED,  /* by this call, or some of it; or that failed, which is nobody's error */
    BLOCK_AHEAD_THERE,   /* or others are filling all of it: nothing was done */
    BLOCK_AHEAD_NO_ROOM, /* without waiting */
};

/* Fills the block for a later reader: what to do instead of waiting for another one. */
enum block_ahead block_cache_fill_ahead(struct block_cache *cache, struct block_key key, size_t length);

/* What the cache has done: tests hold its promises against it, nothing else shows them. */
struct block_cache_stats {
    uint64_t hits, misses, waits; /* waits: found while somebody else was filling it */
    size_t bytes;                 /* held now */
    size_t peak_bytes;
};
void block_cache_get_stats(struct block_cache *cache, struct block_cache_stats *stats);

#endif
