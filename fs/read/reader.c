/* Reading planned files: a request is cut at headers, tensors, extents and units. */
#include "reader.h"
#include "fs/base/buffer_pool.h"
#include "fs/base/log.h"
#include "gather.h"
#include "layout/base/checked.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Several units fit in the cache, whatever its size; and one small read never computes more than takes some
 * milliseconds. */
#define UNIT_MAX ((uint64_t)32 << 20)
#define UNITS_PER_CACHE 8

/* A read of at least this many bytes is taken for a sequential reader's. Where it would have to wait for a
 * unit it computes one of the next, at most the cache's capacity / AHEAD_SHARE bytes further on: so all
 * threads that read ahead in one tensor have work. */
#define AHEAD_REQUEST ((uint64_t)64 << 10)
#define AHEAD_SHARE 4

struct reader {
    const struct plan *plan;
    struct source *source;
    struct block_cache *cache;
    struct buffer_pool *scratch; /* for gather_compute() */
    uint64_t unit_limit, ahead_limit;
};

/* The shard that the location's bytes come from; PLAN_NO_SHARD: from several. */
static uint32_t find_shard(const struct plan *plan, const struct plan_location *at)
{
    if (!at->extent)
        return at->file->verbatim_shard;
    if (at->extent->gather != PLAN_NO_GATHER) {
        const struct gather *gather = &plan->gathers[at->extent->gather];
        for (uint32_t i = 0; i < gather->n_boxes; i++)
            if (plan->boxes[gather->first_box + i].shard != plan->boxes[gather->first_box].shard)
                return PLAN_NO_SHARD;
    }
    return at->extent->shard;
}

static int log_failure(const struct reader *reader, const struct plan_location *at, uint64_t length, int e)
{
    const uint64_t offset = at->inside + (at->extent ? at->tensor->offset + at->extent->begin : 0);
    const uint32_t number = find_shard(reader->plan, at);
    const char *name = number == PLAN_NO_SHARD ? NULL : source_name(reader->source, number);
    char shard[64] = "several source shards";

    if (number != PLAN_NO_SHARD)
        snprintf(shard, sizeof shard, "source shard %" PRIu32 " (%s", number, name ? "" : "unnamed");
    log_failed_read("%s: bytes %" PRIu64 " to %" PRIu64 "%s%s, from %s%s%s: %s", at->file->name, offset,
                    offset + length, at->tensor ? " of tensor " : "", at->tensor ? at->tensor->info.name : "",
                    shard, name ? name : "", number == PLAN_NO_SHARD ? "" : ")", strerror(e));
    return e;
}

/* A gather is computed and cached in units: a block of the cache is one. */
struct unit {
    struct block_key key;
    uint64_t begin, length; /* bytes, in the gather's interval */
};

static int fill_unit(void *context, struct block_key key, void *buffer, size_t length, uint32_t part,
                     uint32_t n_parts)
{
    struct reader *reader = context;
    const struct gather *gather = &reader->plan->gathers[key.gather];
    const uint64_t begin = key.unit * gather_unit(gather, reader->unit_limit);
    const struct gather_share share = {begin, begin + length, part, n_parts};
    struct pooled_buffer *scratch = buffer_pool_take(reader->scratch, GATHER_SCRATCH);

    if (!scratch)
        return ENOMEM;
    int e = gather_compute(reader->plan, gather, share, reader->source, scratch->bytes, buffer);
    buffer_pool_give(reader->scratch, scratch);
    return e;
}

static bool is_computed(const struct plan_location *at)
{
    return at->extent && at->extent->gather != PLAN_NO_GATHER;
}

/* The unit that holds the location, which is computed. */
static struct unit find_unit(const struct reader *reader, const struct plan_location *at)
{
    const uint32_t number = at->extent->gather;
    const struct gather *gather = &reader->plan->gathers[number];
    const uint64_t length = gather_unit(gather, reader->unit_limit), k = at->inside / length;

    assert(k <= UINT32_MAX);
    return (struct unit){{number, (uint32_t)k}, k * length, min_u64(length, gather->length - k * length)};
}

/* Goes to the beginning of the file's next unit; false where there is none. */
static bool next_unit(const struct reader *reader, struct plan_location *at, const struct unit *unit)
{
    const uint64_t end = unit->begin + unit->length;

    if (end < at->extent->length) {
        at->inside = end;
        at->left = at->extent->length - end;
        return true;
    }
    while (plan_locate_next(reader->plan, at))
        if (is_computed(at))
            return true;
    return false;
}

/* Computes the next unit behind this one that nobody has computed, if it is not far. */
static void compute_ahead(struct reader *reader, struct plan_location at, struct unit unit)
{
    uint64_t ahead = 0;

    while (next_unit(reader, &at, &unit)) {
        unit = find_unit(reader, &at);
        ahead += unit.length;
        if (ahead > reader->ahead_limit ||
            block_cache_fill_ahead(reader->cache, unit.key, unit.length) != BLOCK_AHEAD_THERE)
            return;
    }
}

/* The unit's bytes, until they are given back to the cache. A sequential reader that has to wait while others
 * compute them computes a later unit meanwhile. */
static int borrow_unit(struct reader *reader, const struct plan_location *at, const struct unit *unit,
                       bool sequential, struct block **block, const unsigned char **contents)
{
    int e = block_cache_borrow(reader->cache, unit->key, unit->length, !sequential, block, contents);

    if (e == EAGAIN) {
        compute_ahead(reader, *at, *unit);
        e = block_cache_borrow(reader->cache, unit->key, unit->length, true, block, contents);
    }
    return e;
}

/* The first *n bytes of the range, which are at most `length`: as many as one extent or one unit has of them.
 */
static int read_some(struct reader *reader, const struct plan_location *at, uint64_t length, bool sequential,
                     unsigned char *buffer, uint64_t *n)
{
    const unsigned char *contents;
    struct block *block;

    *n = min_u64(length, at->left);
    if (!at->extent && at->file->verbatim_shard == PLAN_NO_SHARD) {
        memcpy(buffer, at->file->head + at->inside, *n);
        return 0;
    }
    if (!at->extent)
        return source_pread(reader->source, at->file->verbatim_shard, at->inside, buffer, *n);
    if (!is_computed(at))
        return source_pread(reader->source, at->extent->shard, at->extent->source + at->inside, buffer, *n);
    const struct unit unit = find_unit(reader, at);
    *n = min_u64(*n, unit.begin + unit.length - at->inside);
    int e = borrow_unit(reader, at, &unit, sequential, &block, &contents);
    if (e)
        return e;
    memcpy(buffer, contents + (at->inside - unit.begin), *n);
    block_cache_return(reader->cache, block, *n);
    return 0;
}

/* Reads on from the location. */
static int read_from(struct reader *reader, struct plan_location at, uint64_t length, unsigned char *buffer)
{
    const bool sequential = length >= AHEAD_REQUEST;

    while (length > 0) {
        uint64_t n;
        int e = read_some(reader, &at, length, sequential, buffer, &n);
        if (e)
            return log_failure(reader, &at, n, e);
        buffer += n;
        length -= n;
        at.inside += n;
        at.left -= n;
        if (at.left == 0 && length > 0) {
            bool more = plan_locate_next(reader->plan, &at);
            assert(more);
            (void)more;
        }
    }
    return 0;
}

int reader_read(struct reader *reader, uint32_t number, uint64_t offset, size_t length, void *buffer)
{
    const struct planned_file *file = &reader->plan->files[number];

    assert(number < reader->plan->n_files);
    assert(offset <= file->size && length <= file->size - offset);
    return length > 0 ? read_from(reader, plan_locate(reader->plan, file, offset), length, buffer) : 0;
}

int reader_lend(struct reader *reader, uint32_t number, uint64_t offset, size_t length, void *buffer,
                struct reader_loan *loan)
{
    const struct planned_file *file = &reader->plan->files[number];
    const unsigned char *contents;

    assert(number < reader->plan->n_files);
    assert(offset <= file->size && length <= file->size - offset);
    *loan = (struct reader_loan){.bytes = buffer, .length = length};
    if (length == 0)
        return 0;
    const struct plan_location at = plan_locate(reader->plan, file, offset);
    if (!is_computed(&at))
        return read_from(reader, at, length, buffer);
    const struct unit unit = find_unit(reader, &at);
    if (length > unit.begin + unit.length - at.inside)
        return read_from(reader, at, length, buffer);
    int e = borrow_unit(reader, &at, &unit, length >= AHEAD_REQUEST, &loan->block, &contents);
    if (e)
        return log_failure(reader, &at, length, e);
    loan->bytes = contents + (at.inside - unit.begin);
    loan->reader = reader;
    return 0;
}

void reader_take_back(const struct reader_loan *loan)
{
    if (loan->reader)
        block_cache_return(loan->reader->cache, loan->block, loan->length);
}

struct reader *reader_new(const struct plan *plan, struct source *source, size_t cache_size)
{
    struct reader *reader = calloc(1, sizeof *reader);

    if (!reader)
        return NULL;
    reader->plan = plan;
    reader->source = source;
    reader->unit_limit = min_u64(cache_size / UNITS_PER_CACHE, UNIT_MAX);
    reader->ahead_limit = cache_size / AHEAD_SHARE;
    reader->scratch = buffer_pool_new();
    reader->cache = block_cache_new(cache_size, fill_unit, reader);
    if (!reader->scratch || !reader->cache) {
        reader_free(reader);
        return NULL;
    }
    return reader;
}

void reader_free(struct reader *reader)
{
    if (!reader)
        return;
    block_cache_free(reader->cache);
    buffer_pool_free(reader->scratch);
    free(reader);
}
