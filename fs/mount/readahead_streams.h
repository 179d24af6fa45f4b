/* Which parts of an open file are read in sequence, and what is to be populated ahead of each reader.
 *
 * Pure: fed with the read requests of one open file, gives ranges. A reader that finds its pages populated
 * sends no requests, so its progress shows only where something was left out: a gap of STREAMS_GAP bytes,
 * half a window ahead of it. Its request for the gap (or for anything behind) orders the next half.
 *
 * All numbers are bytes. Not thread-safe: the caller's lock covers a struct streams. */
#ifndef MOEFS_FS_STREAMS_H
#define MOEFS_FS_STREAMS_H

#include <stddef.h>
#include <stdint.h>

/* Readers of one open file that are told apart: torch copies a mapped tensor with a thread for each core,
 * each a part of it, and a loader has several threads that do so. */
#define STREAMS_MAX 64
#define STREAMS_START ((uint64_t)2 << 20) /* read in sequence before anything is populated */
#define STREAMS_SLACK ((uint64_t)4 << 20) /* requests under way at once may arrive in any order */
#define STREAMS_GAP ((uint64_t)128 << 10) /* a whole request at the kernel's own read-ahead */
#define STREAMS_WINDOW_MIN ((uint64_t)1 << 20)
#define STREAMS_SHARED 4

/* One reader. A stream with used == 0 is free. */
struct stream {
    uint64_t begin, next; /* its requests lie between these; those to come begin near next */
    uint64_t requested;   /* by its requests together */
    unsigned requests;
    uint64_t window;  /* how far is populated ahead of it; 0: nothing yet */
    uint64_t ordered; /* the end of what was ordered for it */
    uint64_t gap;     /* a request that ends behind this orders more; UINT64_MAX: all is ordered */
    uint64_t used;    /* the clock when a request of it came last */
};

struct streams {
    uint64_t size, window;
    uint64_t total; /* what is ahead of all readers together is no more than this */
    /* What a reader of this file has shown to read in one sequence: the first window of the next stream. Each
     * stream that uses it halves it until it has passed a gap, so jumps that lead nowhere cost little. */
    uint64_t credit;
    uint64_t clock;
    struct stream list[STREAMS_MAX];
};

struct streams_range {
    uint64_t offset, length;
};

#define STREAMS_RANGES 2

/* Of a file of `size` bytes, at most `window` bytes (at least STREAMS_WINDOW_MIN) ahead of one reader, and
 * STREAMS_SHARED times that ahead of all. */
void streams_init(struct streams *streams, uint64_t size, uint64_t window);

/* A reader has requested [offset, offset + length), length > 0, inside the file. Gives the number of ranges
 * to populate now: they ascend, and lie inside the file behind what was requested. */
size_t streams_note(struct streams *streams, uint64_t offset, uint64_t length,
                    struct streams_range ranges[STREAMS_RANGES]);

#endif
