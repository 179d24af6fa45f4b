/* Chooses the instruction set of the transposes, once, when the program first needs one. */
#include "transpose.h"
#include "fs/base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define LEVELS_MAX 3

static _Atomic(const struct transpose_level *) in_use;
static pthread_once_t once = PTHREAD_ONCE_INIT;

unsigned transpose_levels(const struct transpose_level **levels, unsigned most)
{
    const struct transpose_level *all[LEVELS_MAX] = {&transpose_portable};
    unsigned n = 1;

#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2"))
        all[n++] = &transpose_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
        all[n++] = &transpose_avx512;
#endif
    for (unsigned i = 0; i < n && i < most; i++)
        levels[i] = all[i];
    return n < most ? n : most;
}

static void choose(void)
{
    const struct transpose_level *levels[LEVELS_MAX];
    const unsigned n = transpose_levels(levels, LEVELS_MAX);
    const struct transpose_level *chosen = levels[n - 1];
    const char *name = getenv("MOEFS_SIMD");
    bool found = !name;

    for (unsigned i = 0; i < n && !found; i++)
        if (strcmp(levels[i]->name, name) == 0) {
            chosen = levels[i];
            found = true;
        }
    if (!found)
        log_line(LOG_LEVEL_WARNING, "MOEFS_SIMD=%s: this processor has no such level; using %s", name,
                 chosen->name);
    atomic_store(&in_use, chosen);
}

const struct transpose_level *transpose_level_in_use(void)
{
    pthread_once(&once, choose);
    return atomic_load_explicit(&in_use, memory_order_relaxed);
}

void transpose_force(const struct transpose_level *level)
{
    pthread_once(&once, choose);
    if (level)
        atomic_store(&in_use, level);
    else
        choose();
}
