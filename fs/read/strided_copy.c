/* Strided copies: rows where they are contiguous, tiles of a transpose where they are not. */
#include "strided_copy.h"

#include "layout/base/checked.h"
#include "elements.h"
#include "transpose.h"

#include <assert.h>
#include <string.h>

/* A target of at least this many bytes, of which this may be a strip, will not be in the caches: its lines,
 * far apart, would be fetched one by one only to be overwritten. */
#ifndef STREAM_MIN
#define STREAM_MIN ((uint64_t)256 << 10)
#endif

/* n_outer x n_inner elements of `size` bytes; strides in elements. */
struct rectangle {
    unsigned char *target;
    const unsigned char *source;
    unsigned size;
    uint64_t n_outer, n_inner;
    uint64_t target_outer, target_inner, source_outer, source_inner;
};

#define COPY_PLAIN(SIZE)                                                                                     \
    static void copy_plain_##SIZE(const struct rectangle *r)                                                 \
    {                                                                                                        \
        element_##SIZE *target = (element_##SIZE *)r->target;                                                \
        const element_##SIZE *source = (const element_##SIZE *)r->source;                                    \
        for (uint64_t o = 0; o < r->n_outer; o++)                                                            \
            for (uint64_t i = 0; i < r->n_inner; i++)                                                        \
                target[o * r->target_outer + i * r->target_inner] =                                          \
                    source[o * r->source_outer + i * r->source_inner];                                       \
    }

COPY_PLAIN(1)
COPY_PLAIN(2)
COPY_PLAIN(4)
COPY_PLAIN(8)

static void copy_plain(const struct rectangle *r)
{
    switch (r->size) {
    case 1:
        copy_plain_1(r);
        break;
    case 2:
        copy_plain_2(r);
        break;
    case 4:
        copy_plain_4(r);
        break;
    case 8:
        copy_plain_8(r);
        break;
    default:
        assert(!"elements are 1, 2, 4 or 8 bytes");
    }
}

/* The part of a rectangle from (o, i). */
static struct rectangle part(const struct rectangle *r, uint64_t o, uint64_t n_outer, uint64_t i,
                             uint64_t n_inner)
{
    struct rectangle p = *r;

    p.target += (o * r->target_outer + i * r->target_inner) * r->size;
    p.source += (o * r->source_outer + i * r->source_inner) * r->size;
    p.n_outer = n_outer;
    p.n_inner = n_inner;
    return p;
}

/* The two sides disagree about which dimension is the inner one. */
static void copy_tiles(const struct rectangle *r)
{
    const uint64_t edge = TRANSPOSE_LINE / r->size;
    const bool stream = r->n_outer * r->n_inner * r->size >= STREAM_MIN;
    transpose_tile *tile = transpose_level_in_use()->tile[__builtin_ctz(r->size)];

    for (uint64_t o = 0; o < r->n_outer; o += edge) {
        const uint64_t high = min_u64(r->n_outer - o, edge);
        for (uint64_t i = 0; i < r->n_inner; i += edge) {
            const uint64_t wide = min_u64(r->n_inner - i, edge);
            const struct rectangle p = part(r, o, high, i, wide);
            /* A tile with gaps in its target rows touches the element behind them: what may be missing. */
            const bool last = o + high == r->n_outer && i + wide == r->n_inner;
            if (high == edge && wide == edge && (r->target_inner == 1 || !last))
                tile(p.target, p.source, r->target_outer, r->source_inner, r->target_inner, r->source_outer,
                     stream);
            else
                copy_plain(&p);
        }
    }
    if (stream)
        transpose_fence();
}

void strided_copy_2d(void *target, const void *source, unsigned element_size, uint64_t n_outer,
                     uint64_t n_inner, uint64_t target_outer, uint64_t target_inner, uint64_t source_outer,
                     uint64_t source_inner)
{
    const struct rectangle r = {target,       source,       element_size, n_outer,     n_inner,
                                target_outer, target_inner, source_outer, source_inner};

    if (target_inner == 1 && source_inner == 1)
        for (uint64_t o = 0; o < n_outer; o++)
            memcpy(r.target + o * target_outer * element_size, r.source + o * source_outer * element_size,
                   n_inner * element_size);
    else if (source_inner > source_outer && n_outer > 1 && target_inner <= TRANSPOSE_STEP_MAX)
        copy_tiles(&r);
    else
        copy_plain(&r);
}
