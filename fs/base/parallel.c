/* Threads that take the units of a loop one after the other. */
#include "parallel.h"

#include "layout/base/memory.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

struct loop {
    uint64_t n;
    parallel_work *work;
    void *context;
    atomic_uint_least64_t next;
    atomic_int result;
};

struct worker {
    struct loop *loop;
    unsigned number;
    pthread_t thread;
};

static void *run_units(void *argument)
{
    const struct worker *worker = argument;
    struct loop *loop = worker->loop;

    while (atomic_load(&loop->result) == 0) {
        const uint64_t unit = atomic_fetch_add(&loop->next, 1);
        if (unit >= loop->n)
            break;
        const int result = loop->work(loop->context, worker->number, unit);
        if (result != 0)
            atomic_store(&loop->result, result);
    }
    return NULL;
}

int parallel_run(uint64_t n, unsigned n_threads, parallel_work *work, void *context)
{
    struct loop loop = {.n = n, .work = work, .context = context};
    unsigned started = 0;

    if (n_threads > n)
        n_threads = n > 0 ? (unsigned)n : 1;
    cleanup_free struct worker *workers = xcalloc(n_threads, sizeof *workers);
    for (unsigned i = 0; i < n_threads; i++)
        workers[i] = (struct worker){.loop = &loop, .number = i};
    /* fewer threads than wanted do it too */
    while (started + 1 < n_threads &&
           pthread_create(&workers[started + 1].thread, NULL, run_units, &workers[started + 1]) == 0)
        started++;
    run_units(&workers[0]);
    for (unsigned i = 1; i <= started; i++)
        pthread_join(workers[i].thread, NULL);
    return atomic_load(&loop.result);
}

unsigned parallel_processors(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return (unsigned)CPU_COUNT(&set);
}
