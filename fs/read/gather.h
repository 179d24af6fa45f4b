/* Computes what a plan's gathers describe: bytes that lie in another order than in the source. Reads of the
 * source are exact and few; strided copies (strided_copy.h) bring the elements to their places. */
#ifndef MOEFS_FS_GATHER_H
#define MOEFS_FS_GATHER_H

#include "layout/plan.h"
#include "fs/source/source.h"

/* The length in bytes of the unit in which a gather is computed and cached: the whole interval where it is at
 * most `limit` bytes, otherwise as many whole rows of the outermost target dimension as fit in `limit` (at
 * least one), so that a large matrix costs a band and not all of it. Units begin at multiples of it; the last
 * may be shorter. */
uint64_t gather_unit(const struct gather *gather, uint64_t limit);

/* What one call computes: of the steps (strips of the source) in which bytes [begin, end) of the gather's
 * interval are computed, those of part `part` of n_parts. begin is a multiple of gather_unit(), and end is
 * begin + unit or the interval's end. */
struct gather_share {
    uint64_t begin, end;
    uint32_t part, n_parts;
};

#define GATHER_SCRATCH ((size_t)1 << 20)

/* Computes the share into buffer, which is the place of byte `begin`. n_parts calls compute all of it, in any
 * order or at once. Where elements of one step lie between those of another (gate and up interleaved), part 0
 * is all of it. scratch: GATHER_SCRATCH bytes that begin at a page and are this call's alone. 0 or an errno.
 * Thread-safe. */
int gather_compute(const struct plan *plan, const struct gather *gather, struct gather_share share,
                   struct source *source, void *scratch, void *buffer);

#endif
