/* Arithmetic on sizes that come from a file: every sum and product is checked. Units are the caller's. */
#ifndef MOEFS_LAYOUT_CHECKED_H
#define MOEFS_LAYOUT_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

/* Each stores the result and returns true, or returns false on overflow (the result is then unspecified). */
static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *sum)
{
    return !__builtin_add_overflow(a, b, sum);
}

static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

#endif
