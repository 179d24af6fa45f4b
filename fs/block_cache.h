/* A bounded cache of computed blocks. One computation per block however many readers (single flight); an
 * error is given to those who waited for it and never cached; eviction (2Q: Johnson and Shasha, VLDB 1994)
 * lets a sequential scan pass without pushing out blocks that are read again. Thread-safe; no lock is held
 * while a block is computed. */
#ifndef MOEFS_FS_BLOCK_CACHE_H
#define MOEFS_FS_BLOCK_CACHE_H

#include <stddef.h>
#include <stdint.h>

struct block_cache;

struct block_key {
    uint32_t gather;
    uint32_t unit; /* number of the unit inside the gather */
};

/* Fills length bytes of buffer with the block's contents. 0 or an errno. */
typedef int block_fill(void *context, struct block_key key, void *buffer, size_t length);

/* capacity: bytes of block contents that are kept at most. Blocks that are being filled or read count too;
 * when they alone fill it, a reader waits until one is released (a single block is always let in, however
 * large). NULL when memory is short. */
struct block_cache *block_cache_new(size_t capacity, block_fill *fill, void *context);
void block_cache_free(struct block_cache *cache);

/* Copies bytes [offset, offset + n) of the block of `length` bytes to buffer, filling it first where needed.
 * 0, ENOMEM, or the errno of the fill. */
int block_cache_read(struct block_cache *cache, struct block_key key, size_t length, size_t offset,
                     void *buffer, size_t n);

/* The same, but EAGAIN where somebody is filling the block now. */
int block_cache_try_read(struct block_cache *cache, struct block_key key, size_t length, size_t offset,
                         void *buffer, size_t n);

enum block_ahead {
    BLOCK_AHEAD_FILLED,  /* by this call; or its fill failed, which is nobody's error */
    BLOCK_AHEAD_THERE,   /* or being filled: nothing was done */
    BLOCK_AHEAD_NO_ROOM, /* without waiting */
};

/* Fills the block for a later reader: what to do instead of waiting for another one. */
enum block_ahead block_cache_fill_ahead(struct block_cache *cache, struct block_key key, size_t length);

struct block_cache_stats {
    uint64_t hits, misses, waits; /* waits: found while somebody else was filling it */
    size_t bytes;                 /* held now */
    size_t peak_bytes;
};
void block_cache_get_stats(struct block_cache *cache, struct block_cache_stats *stats);

#endif
