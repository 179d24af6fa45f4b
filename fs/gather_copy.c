#include "gather.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

/* Elements lie anywhere: a safetensors header's length is arbitrary to readers, and so are buffers. */
typedef uint8_t element_1 __attribute__((may_alias));
typedef uint16_t element_2 __attribute__((aligned(1), may_alias));
typedef uint32_t element_4 __attribute__((aligned(1), may_alias));
typedef uint64_t element_8 __attribute__((aligned(1), may_alias));

typedef uint8_t lanes_1 __attribute__((vector_size(16)));
typedef uint16_t lanes_2 __attribute__((vector_size(16)));
typedef uint32_t lanes_4 __attribute__((vector_size(16)));
typedef uint64_t lanes_8 __attribute__((vector_size(16)));

/* The lower and the upper halves of two vectors, interleaved. */
#define LOW_1(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH_1(a, b)                                                                                         \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define LOW_2(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH_2(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define LOW_4(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH_4(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define LOW_8(a, b) __builtin_shufflevector(a, b, 0, 2)
#define HIGH_8(a, b) __builtin_shufflevector(a, b, 1, 3)

#define LINE 64  /* bytes of a cache line */
#define LANES 16 /* bytes of a vector */

/* The rounds only stay in registers when the loops over them are unrolled, which gcc does not do by itself at
 * -O2. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* transpose_tile_N: a tile is one cache line of elements wide and as many high, so that whatever the strides
 * (in checkpoints mostly multiples of 4096 bytes, which all fall into one cache set) each line of either side
 * is touched once per tile. A block of n vectors of n lanes is transposed by log2(n) rounds of interleaving
 * its halves.
 *
 * copy_strided_N: any strides; tiled where the two sides disagree about which dimension is the inner one. */
#define DEFINE_KERNELS(SIZE)                                                                                 \
    enum { WIDTH_##SIZE = LINE / SIZE, BLOCK_##SIZE = LANES / SIZE };                                        \
                                                                                                             \
    static void transpose_tile_##SIZE(element_##SIZE *target, const element_##SIZE *source,                  \
                                      uint64_t t_stride, uint64_t s_stride, uint64_t s_step)                 \
    {                                                                                                        \
        element_##SIZE in[WIDTH_##SIZE][WIDTH_##SIZE], out[WIDTH_##SIZE][WIDTH_##SIZE];                      \
                                                                                                             \
        for (unsigned i = 0; i < WIDTH_##SIZE; i++) {                                                        \
            if (s_step == 1)                                                                                 \
                memcpy(in[i], source + i * s_stride, LINE);                                                  \
            else                                                                                             \
                for (unsigned k = 0; k < WIDTH_##SIZE; k++)                                                  \
                    in[i][k] = source[i * s_stride + k * s_step];                                            \
        }                                                                                                    \
        for (unsigned a = 0; a < WIDTH_##SIZE; a += BLOCK_##SIZE) {                                          \
            for (unsigned b = 0; b < WIDTH_##SIZE; b += BLOCK_##SIZE) {                                      \
                lanes_##SIZE v[BLOCK_##SIZE], w[BLOCK_##SIZE];                                               \
                UNROLL for (unsigned i = 0; i < BLOCK_##SIZE; i++) memcpy(&v[i], &in[a + i][b], LANES);      \
                UNROLL for (unsigned round = 1; round < BLOCK_##SIZE; round *= 2)                            \
                {                                                                                            \
                    UNROLL for (unsigned i = 0; i < BLOCK_##SIZE / 2; i++)                                   \
                    {                                                                                        \
                        w[2 * i] = LOW_##SIZE(v[i], v[i + BLOCK_##SIZE / 2]);                                \
                        w[2 * i + 1] = HIGH_##SIZE(v[i], v[i + BLOCK_##SIZE / 2]);                           \
                    }                                                                                        \
                    memcpy(v, w, sizeof v);                                                                  \
                }                                                                                            \
                UNROLL for (unsigned i = 0; i < BLOCK_##SIZE; i++) memcpy(&out[b + i][a], &v[i], LANES);     \
            }                                                                                                \
        }                                                                                                    \
        for (unsigned i = 0; i < WIDTH_##SIZE; i++)                                                          \
            memcpy(target + i * t_stride, out[i], LINE);                                                     \
    }                                                                                                        \
                                                                                                             \
    static void copy_plain_##SIZE(element_##SIZE *target, const element_##SIZE *source, uint64_t n_outer,    \
                                  uint64_t n_inner, const struct strides *s)                                 \
    {                                                                                                        \
        for (uint64_t o = 0; o < n_outer; o++)                                                               \
            for (uint64_t i = 0; i < n_inner; i++)                                                           \
                target[o * s->target_outer + i * s->target_inner] =                                          \
                    source[o * s->source_outer + i * s->source_inner];                                       \
    }                                                                                                        \
                                                                                                             \
    static void copy_strided_##SIZE(element_##SIZE *target, const element_##SIZE *source, uint64_t n_outer,  \
                                    uint64_t n_inner, const struct strides *s)                               \
    {                                                                                                        \
        const bool tiles = s->target_inner == 1;                                                             \
                                                                                                             \
        if (s->source_inner <= s->source_outer || n_outer == 1) {                                            \
            copy_plain_##SIZE(target, source, n_outer, n_inner, s);                                          \
            return;                                                                                          \
        }                                                                                                    \
        for (uint64_t o = 0; o < n_outer; o += WIDTH_##SIZE) {                                               \
            const uint64_t high = n_outer - o < WIDTH_##SIZE ? n_outer - o : WIDTH_##SIZE;                   \
            for (uint64_t i = 0; i < n_inner; i += WIDTH_##SIZE) {                                           \
                const uint64_t wide = n_inner - i < WIDTH_##SIZE ? n_inner - i : WIDTH_##SIZE;               \
                element_##SIZE *to = target + o * s->target_outer + i * s->target_inner;                     \
                const element_##SIZE *from = source + o * s->source_outer + i * s->source_inner;             \
                if (tiles && high == WIDTH_##SIZE && wide == WIDTH_##SIZE)                                   \
                    transpose_tile_##SIZE(to, from, s->target_outer, s->source_inner, s->source_outer);      \
                else                                                                                         \
                    copy_plain_##SIZE(to, from, high, wide, s);                                              \
            }                                                                                                \
        }                                                                                                    \
    }

struct strides {
    uint64_t target_outer, target_inner, source_outer, source_inner;
};

DEFINE_KERNELS(1)
DEFINE_KERNELS(2)
DEFINE_KERNELS(4)
DEFINE_KERNELS(8)

void gather_copy_2d(void *target, const void *source, unsigned element_size, uint64_t n_outer,
                    uint64_t n_inner, uint64_t target_outer, uint64_t target_inner, uint64_t source_outer,
                    uint64_t source_inner)
{
    const struct strides strides = {target_outer, target_inner, source_outer, source_inner};

    if (target_inner == 1 && source_inner == 1) {
        for (uint64_t o = 0; o < n_outer; o++)
            memcpy((unsigned char *)target + o * target_outer * element_size,
                   (const unsigned char *)source + o * source_outer * element_size, n_inner * element_size);
        return;
    }
    switch (element_size) {
    case 1:
        copy_strided_1(target, source, n_outer, n_inner, &strides);
        break;
    case 2:
        copy_strided_2(target, source, n_outer, n_inner, &strides);
        break;
    case 4:
        copy_strided_4(target, source, n_outer, n_inner, &strides);
        break;
    case 8:
        copy_strided_8(target, source, n_outer, n_inner, &strides);
        break;
    default:
        assert(!"elements are 1, 2, 4 or 8 bytes");
    }
}
