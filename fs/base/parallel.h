/* A loop over independent units, spread over threads. */
#ifndef MOEFS_FS_PARALLEL_H
#define MOEFS_FS_PARALLEL_H

#include <stdint.h>

/* Does unit `unit` in thread number `thread`; a non-zero result ends the loop early. */
typedef int parallel_work(void *context, unsigned thread, uint64_t unit);

/* Does units 0 to n - 1, each once, in n_threads threads at most (the caller's is one of them). 0, or a
 * result that was not. Units are begun in order. */
int parallel_run(uint64_t n, unsigned n_threads, parallel_work *work, void *context);

/* Processors that this process may run on. */
unsigned parallel_processors(void);

#endif
