/* How much memory the daemon takes where its control group has a limit: a daemon that takes too much is killed,
 * and what it populates in the page cache counts as its own. */
#ifndef MOEFS_FS_MEMORY_BUDGET_H
#define MOEFS_FS_MEMORY_BUDGET_H

#include "layout/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct memory_budget {
    size_t cache_size; /* bytes of computed blocks */
    size_t readahead;  /* bytes populated ahead of one reader; 0: off */
    unsigned threads;  /* that answer requests, at most */
};

/* As many threads as are useful: each waits for the source while it reads. */
unsigned memory_budget_threads(void);

/* Makes smaller, or leaves, what does not fit in the limit (bytes; MEMORY_LIMIT_NONE: everything fits), with a note
 * for each. weights: the bytes of all weight files together. */
void memory_budget_fit(struct memory_budget *budget, uint64_t limit, uint64_t weights, struct notes *notes);

#endif
