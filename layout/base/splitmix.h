/* SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): random-looking words, the same ones on every machine. Its state
 * is a counter, so any word is had without those before. */
#ifndef MOEFS_LAYOUT_SPLITMIX_H
#define MOEFS_LAYOUT_SPLITMIX_H

#include <stdint.h>

/* Word i of the sequence that begins at `seed`. */
static inline uint64_t splitmix_word(uint64_t seed, uint64_t i)
{
    uint64_t x = seed + i * UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* The next word; *state moves on. */
static inline uint64_t splitmix_next(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    return splitmix_word(*state, 0);
}

#endif
