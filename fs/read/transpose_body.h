/* The body of the files that compile transpose.h's tiles for one instruction set. The includer defines LEVEL,
 * the level's name, and VECTOR, the bytes of a vector: 16, 32 or 64.
 *
 * A vector holds 16-byte lanes of VECTOR / 16 source rows that lie B = 16 / S rows apart (S: bytes of an
 * element). log2(B) rounds of interleaving within the lanes transpose B such vectors, and each is then a
 * piece of a target row: no element has to cross from one lane into another, which costs extra where vectors
 * are wider than a lane. */
#include "elements.h"
#include "transpose.h"

#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

typedef uint8_t lane_1 __attribute__((vector_size(16)));
typedef uint16_t lane_2 __attribute__((vector_size(16)));
typedef uint32_t lane_4 __attribute__((vector_size(16)));
typedef uint64_t lane_8 __attribute__((vector_size(16)));

/* The lower and the upper halves of two lanes, interleaved; the even elements of two lanes; the even elements
 * of one and the odd ones of another that begins one element earlier. */
#define LOW_1(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH_1(a, b)                                                                                         \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define EVEN_1(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define LATE_1(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31)
#define LOW_2(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH_2(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define EVEN_2(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14)
#define LATE_2(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 9, 11, 13, 15)
#define LOW_4(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH_4(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define EVEN_4(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6)
#define LATE_4(a, b) __builtin_shufflevector(a, b, 0, 2, 5, 7)
#define LOW_8(a, b) __builtin_shufflevector(a, b, 0, 2)
#define HIGH_8(a, b) __builtin_shufflevector(a, b, 1, 3)
#define EVEN_8(a, b) __builtin_shufflevector(a, b, 0, 2)
#define LATE_8(a, b) __builtin_shufflevector(a, b, 0, 3)

/* A vector of VECTOR / 16 lanes, and the same interleaving within each of them. */
#if VECTOR == 16
typedef lane_8 wide;
#define WIDE_LOW(size, bits, a, b) ((wide)LOW_##size((lane_##size)(a), (lane_##size)(b)))
#define WIDE_HIGH(size, bits, a, b) ((wide)HIGH_##size((lane_##size)(a), (lane_##size)(b)))
#else
#if VECTOR == 32
typedef __m256i wide;
#define WIDE_LOW(size, bits, a, b) _mm256_unpacklo_epi##bits(a, b)
#define WIDE_HIGH(size, bits, a, b) _mm256_unpackhi_epi##bits(a, b)
#else
typedef __m512i wide;
#define WIDE_LOW(size, bits, a, b) _mm512_unpacklo_epi##bits(a, b)
#define WIDE_HIGH(size, bits, a, b) _mm512_unpackhi_epi##bits(a, b)
#endif
#endif

/* A whole line of the target, past the caches where it lies on a line's border. */
static inline void stream_line(unsigned char *to, const wide *line)
{
#ifdef __x86_64__
    if ((uintptr_t)to % TRANSPOSE_LINE == 0) {
        for (unsigned i = 0; i < TRANSPOSE_LINE / VECTOR; i++)
#if VECTOR == 16
            _mm_stream_si128((__m128i *)(void *)to + i, (__m128i)line[i]);
#elif VECTOR == 32
            _mm256_stream_si256((wide *)(void *)to + i, line[i]);
#else
            _mm512_stream_si512((wide *)(void *)to + i, line[i]);
#endif
        return;
    }
#endif
    memcpy(to, line, TRANSPOSE_LINE);
}

/* Lanes from every `apart` bytes. */
static inline wide load_lanes(const unsigned char *from, unsigned apart)
{
#if VECTOR == 16
    wide lanes;
    (void)apart;
    memcpy(&lanes, from, sizeof lanes);
    return lanes;
#elif VECTOR == 32
    const __m128i *low = (const __m128i *)from, *high = (const __m128i *)(from + apart);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(low)), _mm_loadu_si128(high), 1);
#else
    __m512i lanes = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)from));
    lanes = _mm512_inserti32x4(lanes, _mm_loadu_si128((const __m128i *)(from + apart)), 1);
    lanes = _mm512_inserti32x4(lanes, _mm_loadu_si128((const __m128i *)(from + 2 * apart)), 2);
    return _mm512_inserti32x4(lanes, _mm_loadu_si128((const __m128i *)(from + 3 * apart)), 3);
#endif
}

/* The rounds only stay in registers when the loops over them are unrolled, which gcc does not do by itself at
 * -O2. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define DEFINE_TILE(SIZE, BITS)                                                                              \
    enum { WIDTH_##SIZE = TRANSPOSE_LINE / SIZE, BLOCK_##SIZE = 16 / SIZE, ROWS_##SIZE = VECTOR / SIZE };    \
                                                                                                             \
    /* A source row of every second element: of the last one nothing behind it is touched. */                \
    static inline void load_spread_##SIZE(unsigned char *row, const element_##SIZE *source)                  \
    {                                                                                                        \
        const unsigned char *from = (const unsigned char *)source;                                           \
        for (unsigned at = 0; at < TRANSPOSE_LINE; at += 16) {                                               \
            const bool last = at == TRANSPOSE_LINE - 16;                                                     \
            lane_##SIZE a, b;                                                                                \
            memcpy(&a, from + 2 * at, sizeof a);                                                             \
            memcpy(&b, from + 2 * at + 16 - (last ? SIZE : 0), sizeof b);                                    \
            a = last ? LATE_##SIZE(a, b) : EVEN_##SIZE(a, b);                                                \
            memcpy(row + at, &a, sizeof a);                                                                  \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    /* A line of a target row whose elements lie two apart: what lies between them stays. */                 \
    static inline void store_spread_##SIZE(element_##SIZE *target, const wide *line)                         \
    {                                                                                                        \
        const lane_##SIZE zero = {0}, ones = ~zero, mask = LOW_##SIZE(ones, zero);                           \
        unsigned char *to = (unsigned char *)target;                                                         \
        for (unsigned at = 0; at < TRANSPOSE_LINE; at += 16) {                                               \
            lane_##SIZE lane, low, high;                                                                     \
            memcpy(&lane, (const unsigned char *)line + at, sizeof lane);                                    \
            memcpy(&low, to + 2 * at, sizeof low);                                                           \
            memcpy(&high, to + 2 * at + 16, sizeof high);                                                    \
            low = (low & ~mask) | LOW_##SIZE(lane, zero);                                                    \
            high = (high & ~mask) | HIGH_##SIZE(lane, zero);                                                 \
            memcpy(to + 2 * at, &low, sizeof low);                                                           \
            memcpy(to + 2 * at + 16, &high, sizeof high);                                                    \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    static void tile_##SIZE(void *target, const void *source, uint64_t target_row, uint64_t source_row,      \
                            uint64_t target_step, uint64_t source_step, bool stream)                         \
    {                                                                                                        \
        const element_##SIZE *from = source;                                                                 \
        element_##SIZE *to = target;                                                                         \
        unsigned char in[WIDTH_##SIZE][TRANSPOSE_LINE] __attribute__((aligned(TRANSPOSE_LINE)));             \
                                                                                                             \
        for (unsigned i = 0; i < WIDTH_##SIZE; i++, from += source_row) {                                    \
            if (source_step == 1)                                                                            \
                memcpy(in[i], from, TRANSPOSE_LINE);                                                         \
            else if (source_step == 2)                                                                       \
                load_spread_##SIZE(in[i], from);                                                             \
            else                                                                                             \
                for (unsigned k = 0; k < WIDTH_##SIZE; k++)                                                  \
                    memcpy(in[i] + k * SIZE, &from[k * source_step], SIZE);                                  \
        }                                                                                                    \
        for (unsigned c = 0; c < WIDTH_##SIZE; c += BLOCK_##SIZE) {                                          \
            wide out[BLOCK_##SIZE][TRANSPOSE_LINE / VECTOR];                                                 \
            for (unsigned r = 0; r < TRANSPOSE_LINE / VECTOR; r++) {                                         \
                wide v[BLOCK_##SIZE], w[BLOCK_##SIZE];                                                       \
                UNROLL for (unsigned i = 0; i < BLOCK_##SIZE; i++) v[i] =                                    \
                    load_lanes(in[r * ROWS_##SIZE + i] + c * SIZE, BLOCK_##SIZE * TRANSPOSE_LINE);           \
                UNROLL for (unsigned round = 1; round < BLOCK_##SIZE; round *= 2)                            \
                {                                                                                            \
                    UNROLL for (unsigned i = 0; i < BLOCK_##SIZE / 2; i++)                                   \
                    {                                                                                        \
                        w[2 * i] = WIDE_LOW(SIZE, BITS, v[i], v[i + BLOCK_##SIZE / 2]);                      \
                        w[2 * i + 1] = WIDE_HIGH(SIZE, BITS, v[i], v[i + BLOCK_##SIZE / 2]);                 \
                    }                                                                                        \
                    memcpy(v, w, sizeof v);                                                                  \
                }                                                                                            \
                UNROLL for (unsigned i = 0; i < BLOCK_##SIZE; i++) out[i][r] = v[i];                         \
            }                                                                                                \
            for (unsigned i = 0; i < BLOCK_##SIZE; i++) {                                                    \
                element_##SIZE *row = to + (c + i) * target_row;                                             \
                if (target_step == 1 && stream)                                                              \
                    stream_line((unsigned char *)row, out[i]);                                               \
                else if (target_step == 1)                                                                   \
                    memcpy(row, out[i], TRANSPOSE_LINE);                                                     \
                else                                                                                         \
                    store_spread_##SIZE(row, out[i]);                                                        \
            }                                                                                                \
        }                                                                                                    \
    }

DEFINE_TILE(1, 8)
DEFINE_TILE(2, 16)
DEFINE_TILE(4, 32)
DEFINE_TILE(8, 64)

#define STRING(text) #text
#define NAME(level) STRING(level)
#define JOIN(left, right) left##right
#define SYMBOL(level) JOIN(transpose_, level)

const struct transpose_level SYMBOL(LEVEL) = {NAME(LEVEL), {tile_1, tile_2, tile_4, tile_8}};
