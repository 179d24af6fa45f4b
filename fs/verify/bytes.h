/* Level 1: every logical tensor is read from the source and from each exposed side, and its bytes are
 * compared. */
#ifndef MOEFS_FS_VERIFY_BYTES_H
#define MOEFS_FS_VERIFY_BYTES_H

#include "digests.h"
#include "logical.h"
#include "fs/base/progress.h"
#include "slabs.h"

/* Who else looks at an expert's weights while they are in memory: level 2. For each expert, in one thread:
 * open, then rows [first, first + n) of each form as they come, then close. Biases and scales come whole,
 * before the weights, and stay in the slabs. */
struct bytes_watcher {
    void *context;
    void (*open)(void *context, unsigned thread, uint64_t expert);
    void (*rows)(void *context, unsigned thread, const struct logical_form *form, const struct slabs *slabs,
                 uint64_t first, uint64_t n);
    void (*close)(void *context, unsigned thread);
};

/* A run's comparison: what it reads, and where it tells what it found. */
struct bytes {
    const struct side *sides; /* sides[0]: the source */
    unsigned n_sides, n_threads;
    bool hashes; /* every digest is wanted, not only those of what differs */
    struct digests *digests;
    struct report *report;
    struct progress *progress;
    struct slabs *slabs; /* one a thread; owned */
};

void bytes_begin(struct bytes *bytes);
void bytes_end(struct bytes *bytes);

/* Compares all of the group's logical tensors. watcher may be NULL. 0, or -1 with the failure reported. */
int bytes_compare(struct bytes *bytes, const struct logical_group *group,
                  const struct bytes_watcher *watcher);
/* Only the digests of the source's logical tensors: to tell whose bytes it is that lie in another one's
 * place. */
int bytes_hash(struct bytes *bytes, const struct logical_group *group);

#endif
