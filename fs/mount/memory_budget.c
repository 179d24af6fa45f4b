/* Shares of a control group's memory limit. */
#include "memory_budget.h"

#include "fs/read/reader.h"
#include "readahead.h"

#include <inttypes.h>
#include <unistd.h>

/* Shares of the limit; the rest is for the plan and for the pages that are read. */
#define CACHE_SHARE 4
#define THREADS_SHARE 4
#define READAHEAD_SHARE 8

/* What a thread needs while it reads: the reply and scratch memory, 1 MiB each. */
#define THREAD_BYTES ((uint64_t)2 << 20)

#define THREADS_LEAST 4   /* under any limit */
#define THREADS_USEFUL 32 /* docs/measurements.md */

unsigned memory_budget_threads(void)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);

    return cores * 2 > THREADS_USEFUL ? (unsigned)cores * 2 : THREADS_USEFUL;
}

static void fit_cache(struct memory_budget *budget, uint64_t limit, struct notes *notes)
{
    uint64_t most = limit / CACHE_SHARE;

    if (most < READER_CACHE_MIN)
        most = READER_CACHE_MIN;
    if (budget->cache_size <= most)
        return;
    budget->cache_size = (size_t)most;
    notes_add(notes, NOTE_WARNING,
              "--cache-size is reduced to %zu bytes, a quarter of this control group's memory limit",
              budget->cache_size);
}

static void fit_threads(struct memory_budget *budget, uint64_t limit, struct notes *notes)
{
    uint64_t most = limit / THREADS_SHARE / THREAD_BYTES;

    if (most < THREADS_LEAST)
        most = THREADS_LEAST;
    if (budget->threads <= most)
        return;
    notes_add(notes, NOTE_WARNING,
              "%" PRIu64
              " threads answer requests instead of %u: each may need 2 MiB, and all of them together have "
              "a quarter of this control group's memory limit",
              most, budget->threads);
    budget->threads = (unsigned)most;
}

static void fit_readahead(struct memory_budget *budget, uint64_t limit, uint64_t weights, struct notes *notes)
{
    const size_t asked = budget->readahead;

    if (asked > limit / READAHEAD_SHARE)
        budget->readahead = (size_t)(limit / READAHEAD_SHARE);
    if (asked > 0 && (limit < weights || budget->readahead < READAHEAD_MIN)) {
        budget->readahead = 0;
        notes_add(notes, NOTE_WARNING,
                  "read-ahead is off: this control group's memory limit is %" PRIu64
                  " bytes, and the weight files have %" PRIu64,
                  limit, weights);
    } else if (budget->readahead < asked) {
        notes_add(notes, NOTE_WARNING,
                  "--readahead is reduced to %zu bytes, an eighth of this control group's memory limit",
                  budget->readahead);
    }
}

void memory_budget_fit(struct memory_budget *budget, uint64_t limit, uint64_t weights, struct notes *notes)
{
    fit_cache(budget, limit, notes);
    fit_threads(budget, limit, notes);
    fit_readahead(budget, limit, weights, notes);
}
