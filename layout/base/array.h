/* Access to utarray's elements where the index is known to be good: utarray_eltptr() answers a bad one with
 * NULL, which no caller here could do anything about. */
#ifndef MOEFS_LAYOUT_ARRAY_H
#define MOEFS_LAYOUT_ARRAY_H

#include "memory.h"

#include <assert.h>
#include <stdint.h>
#include <utarray.h>

static inline void *array_at(const UT_array *array, size_t i)
{
    assert(i < array->i);
    return array->d + i * array->icd.sz;
}

/* A copy of all elements in the arena, and their number. */
static inline void *array_take(const UT_array *array, struct arena *arena, uint32_t *n)
{
    *n = array->i;
    return arena_memdup(arena, array->d, array->i * array->icd.sz);
}

#endif
