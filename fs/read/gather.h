/* Gather kernels: strided copies that compute shuffled bytes, fed by exact preads of the source. */
#ifndef MOEFS_FS_GATHER_H
#define MOEFS_FS_GATHER_H

#include "layout/plan.h"
#include "fs/source/source.h"

/* The length in bytes of the unit in which a gather is computed and cached: the whole interval where it is at
 * most `limit` bytes, otherwise as many whole rows of the outermost target dimension as fit in `limit` (at
 * least one), so that a large matrix costs a band and not all of it. Units begin at multiples of it; the last
 * may be shorter. */
uint64_t gather_unit(const struct plan *plan, const struct gather *gather, uint64_t limit);

/* Computes bytes [begin, end) of the gather's interval into buffer, where begin is a multiple of
 * gather_unit() and end is begin + unit or the interval's end: of the steps in which this is done (strips of
 * the source), those of part `part` of n_parts, so that n_parts calls compute all of it, in any order or at
 * once. Where elements of one step lie between those of another (gate and up interleaved), part 0 is all of
 * it. Reads what it needs from the source, through the calling thread's scratch buffer of GATHER_SCRATCH
 * bytes. 0 or an errno. Thread-safe. */
#define GATHER_SCRATCH ((size_t)1 << 20)
int gather_compute(const struct plan *plan, const struct gather *gather, uint64_t begin, uint64_t end,
                   uint32_t part, uint32_t n_parts, struct source *source, void *buffer);

/* The strided copy itself: n_outer x n_inner elements of element_size bytes (1, 2, 4 or 8); strides in
 * elements. */
void gather_copy_2d(void *target, const void *source, unsigned element_size, uint64_t n_outer,
                    uint64_t n_inner, uint64_t target_outer, uint64_t target_inner, uint64_t source_outer,
                    uint64_t source_inner);

#endif
