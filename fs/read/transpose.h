/* The transpose of one tile, compiled for several instruction sets, and the choice among them.
 *
 * A tile is one cache line of elements wide and as many high, so that whatever the strides (in checkpoints
 * mostly multiples of 4096 bytes, which all fall into one cache set) each line of either side is touched once
 * per tile. */
#ifndef MOEFS_FS_TRANSPOSE_H
#define MOEFS_FS_TRANSPOSE_H

#include <stdbool.h>
#include <stdint.h>

#define TRANSPOSE_LINE 64    /* bytes: a tile of elements of S bytes has 64 / S rows and columns */
#define TRANSPOSE_STEP_MAX 2 /* the largest target_step of a tile */

/* Element (row, column) of the source, at row * source_row + column * source_step, goes to
 * column * target_row + row * target_step. All strides are in elements. source_step is any; target_step is 1,
 * or 2: what lies between the elements, and one element behind each target row's last, is then read and
 * written back unchanged, so nobody else may write there meanwhile. Nothing need be aligned.
 * stream: where the target's rows are whole lines, write them past the caches; the caller calls
 * transpose_fence() before another thread may read them. */
typedef void transpose_tile(void *target, const void *source, uint64_t target_row, uint64_t source_row,
                            uint64_t target_step, uint64_t source_step, bool stream);

static inline void transpose_fence(void)
{
#ifdef __x86_64__
    __builtin_ia32_sfence();
#endif
}

struct transpose_level {
    const char *name;
    transpose_tile *tile[4]; /* elements of 1, 2, 4 and 8 bytes */
};

extern const struct transpose_level transpose_portable; /* vectors of 16 bytes: SSE2, NEON */
#ifdef __x86_64__
extern const struct transpose_level transpose_avx2, transpose_avx512;
#endif

/* The level that strided_copy_2d() uses. At first it is the best that the processor has, or the one that the
 * environment variable MOEFS_SIMD names (portable, avx2, avx512) where the processor has that. */
const struct transpose_level *transpose_level_in_use(void);

/* The levels that this processor can run, the best one last. Returns how many. */
unsigned transpose_levels(const struct transpose_level **levels, unsigned most);

/* For tests. The processor must have the level. NULL: the one that would be used at first. */
void transpose_force(const struct transpose_level *level);

#endif
