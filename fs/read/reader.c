#include "reader.h"
#include "gather.h"
#include "fs/base/log.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* So that several units are in the cache at once, whatever its size; and no more is computed for one small
 * read than takes some milliseconds. */
#define UNIT_MAX ((uint64_t)32 << 20)
#define UNITS_PER_CACHE 8

/* A read of at least this many bytes is taken for one of a sequential reader. Where it has to wait for a unit
 * it computes another one that comes next, at most the cache's capacity / AHEAD_SHARE bytes further on: so
 * that all the threads of a reader ahead work on one tensor. */
#define AHEAD_REQUEST ((uint64_t)64 << 10)
#define AHEAD_SHARE 4

struct reader {
    const struct plan *plan;
    struct source *source;
    struct block_cache *cache;
    uint64_t unit_limit, ahead_limit;
};

/* Where a read is, for the line that is logged when it fails. */
struct position {
    const struct planned_file *file;
    const struct planned_tensor *tensor; /* NULL: a verbatim file */
    uint32_t shard;                      /* PLAN_NO_SHARD: several */
    uint64_t offset, length;             /* bytes in the virtual file */
};

static int log_failure(const struct reader *reader, const struct position *at, int e)
{
    const char *name = at->shard == PLAN_NO_SHARD ? NULL : source_name(reader->source, at->shard);
    char shard[64] = "several source shards";
    if (at->shard != PLAN_NO_SHARD)
        snprintf(shard, sizeof shard, "source shard %" PRIu32 " (%s", at->shard, name ? "" : "unnamed");
    log_failed_read("%s: bytes %" PRIu64 " to %" PRIu64 "%s%s, from %s%s%s: %s", at->file->name, at->offset,
                    at->offset + at->length, at->tensor ? " of tensor " : "",
                    at->tensor ? at->tensor->info.name : "", shard, name ? name : "",
                    at->shard == PLAN_NO_SHARD ? "" : ")", strerror(e));
    return e;
}

/* The shard that the extent's bytes come from; PLAN_NO_SHARD: from several. */
static uint32_t extent_shard(const struct plan *plan, const struct extent *extent)
{
    if (extent->gather != PLAN_NO_GATHER) {
        const struct gather *gather = &plan->gathers[extent->gather];
        for (uint32_t i = 0; i < gather->n_boxes; i++)
            if (plan->boxes[gather->first_box + i].shard != plan->boxes[gather->first_box].shard)
                return PLAN_NO_SHARD;
    }
    return extent->shard;
}

static int fill_unit(void *context, struct block_key key, void *buffer, size_t length, uint32_t part,
                     uint32_t n_parts)
{
    struct reader *reader = context;
    const struct gather *gather = &reader->plan->gathers[key.gather];
    const uint64_t begin = key.unit * gather_unit(reader->plan, gather, reader->unit_limit);

    return gather_compute(reader->plan, gather, begin, begin + length, part, n_parts, reader->source, buffer);
}

/* The bytes of unit k, the last of which may be shorter. */
static uint64_t unit_length(const struct reader *reader, const struct gather *gather, uint64_t k)
{
    const uint64_t unit = gather_unit(reader->plan, gather, reader->unit_limit);

    return gather->length - k * unit < unit ? gather->length - k * unit : unit;
}

/* A unit, as the file's bytes reach it. */
struct unit {
    const struct planned_file *file;
    const struct planned_tensor *tensor;
    const struct extent *extent; /* a gather */
    uint64_t k;
};

/* Goes to the file's next unit; false at its end. */
static bool unit_next(const struct reader *reader, struct unit *at)
{
    const struct plan *plan = reader->plan;
    const struct planned_tensor *end = plan->tensors + at->file->first_tensor + at->file->n_tensors;
    const struct gather *gather = &plan->gathers[at->extent->gather];

    at->k++;
    if (at->k * gather_unit(plan, gather, reader->unit_limit) < gather->length)
        return true;
    at->k = 0;
    for (at->extent++;; at->extent = plan->extents + at->tensor->first_extent) {
        for (; at->extent < plan->extents + at->tensor->first_extent + at->tensor->n_extents; at->extent++)
            if (at->extent->gather != PLAN_NO_GATHER)
                return true;
        if (++at->tensor == end)
            return false;
    }
}

/* Computes the next unit that nobody has computed, if it is not far. */
static void compute_ahead(struct reader *reader, struct unit at)
{
    uint64_t ahead = 0;

    while (unit_next(reader, &at)) {
        const struct block_key key = {at.extent->gather, (uint32_t)at.k};
        const uint64_t length = unit_length(reader, &reader->plan->gathers[at.extent->gather], at.k);
        ahead += length;
        if (ahead > reader->ahead_limit ||
            block_cache_fill_ahead(reader->cache, key, length) != BLOCK_AHEAD_THERE)
            return;
    }
}

/* The unit's bytes, until they are given back to the cache. Who has to wait for others to compute them, in a
 * sequential read, computes a later unit meanwhile. */
static int borrow_unit(struct reader *reader, struct unit at, bool sequential, struct block **block,
                       const unsigned char **contents)
{
    const uint32_t number = at.extent->gather;
    const uint64_t length = unit_length(reader, &reader->plan->gathers[number], at.k);
    const struct block_key key = {number, (uint32_t)at.k};

    assert(at.k <= UINT32_MAX);
    int e = block_cache_borrow(reader->cache, key, length, !sequential, block, contents);
    if (e == EAGAIN) {
        compute_ahead(reader, at);
        e = block_cache_borrow(reader->cache, key, length, true, block, contents);
    }
    return e;
}

/* Bytes [offset, offset + length) of the extent's gather, through the cache. */
static int read_gather(struct reader *reader, struct unit at, uint64_t offset, uint64_t length,
                       unsigned char *buffer)
{
    const struct gather *gather = &reader->plan->gathers[at.extent->gather];
    const uint64_t unit = gather_unit(reader->plan, gather, reader->unit_limit);
    const bool sequential = length >= AHEAD_REQUEST;

    while (length > 0) {
        const uint64_t inside = offset % unit;
        const uint64_t n = length < unit - inside ? length : unit - inside;
        struct block *block;
        const unsigned char *contents;
        at.k = offset / unit;
        int e = borrow_unit(reader, at, sequential, &block, &contents);
        if (e)
            return e;
        memcpy(buffer, contents + inside, n);
        block_cache_return(reader->cache, block, n);
        buffer += n;
        offset += n;
        length -= n;
    }
    return 0;
}

/* Bytes [offset, offset + length) of the tensor, which must lie inside it. */
static int read_tensor(struct reader *reader, const struct planned_file *file,
                       const struct planned_tensor *tensor, uint64_t offset, uint64_t length,
                       unsigned char *buffer)
{
    const struct extent *extent = plan_find_extent(reader->plan, tensor, offset);

    for (; length > 0; extent++) {
        assert(extent < reader->plan->extents + tensor->first_extent + tensor->n_extents);
        assert(offset >= extent->begin && offset - extent->begin < extent->length);
        const uint64_t inside = offset - extent->begin;
        const uint64_t n = length < extent->length - inside ? length : extent->length - inside;
        int e = extent->gather == PLAN_NO_GATHER
                    ? source_pread(reader->source, extent->shard, extent->source + inside, buffer, n)
                    : read_gather(reader, (struct unit){file, tensor, extent, 0}, inside, n, buffer);
        if (e) {
            const struct position at = {file, tensor, extent_shard(reader->plan, extent),
                                        tensor->offset + offset, n};
            return log_failure(reader, &at, e);
        }
        buffer += n;
        offset += n;
        length -= n;
    }
    return 0;
}

int reader_read(struct reader *reader, uint32_t number, uint64_t offset, size_t length, void *buffer)
{
    assert(number < reader->plan->n_files);
    const struct planned_file *file = &reader->plan->files[number];
    unsigned char *to = buffer;

    assert(offset <= file->size && length <= file->size - offset);
    if (file->verbatim_shard != PLAN_NO_SHARD) {
        const struct position at = {file, NULL, file->verbatim_shard, offset, length};
        int e = source_pread(reader->source, file->verbatim_shard, offset, buffer, length);
        return e ? log_failure(reader, &at, e) : 0;
    }
    if (length > 0 && offset < file->head_length) {
        const size_t left = file->head_length - offset;
        const size_t n = length < left ? length : left;
        memcpy(to, file->head + offset, n);
        to += n;
        offset += n;
        length -= n;
    }
    while (length > 0) {
        const struct planned_tensor *tensor = plan_find_tensor(reader->plan, file, offset);
        assert(tensor && offset >= tensor->offset && offset - tensor->offset < tensor->length);
        const uint64_t inside = offset - tensor->offset;
        const size_t n = length < tensor->length - inside ? length : tensor->length - inside;
        int e = read_tensor(reader, file, tensor, inside, n, to);
        if (e)
            return e;
        to += n;
        offset += n;
        length -= n;
    }
    return 0;
}

/* The one unit in which the range lies; false where it is made of anything else. */
static bool find_unit(const struct reader *reader, const struct planned_file *file, uint64_t offset,
                      size_t length, struct unit *unit, uint64_t *inside)
{
    if (file->verbatim_shard != PLAN_NO_SHARD || offset < file->head_length || length == 0)
        return false;
    const struct planned_tensor *tensor = plan_find_tensor(reader->plan, file, offset);
    const struct extent *extent = plan_find_extent(reader->plan, tensor, offset - tensor->offset);
    if (extent->gather == PLAN_NO_GATHER)
        return false;
    const struct gather *gather = &reader->plan->gathers[extent->gather];
    const uint64_t at = offset - tensor->offset - extent->begin;
    const uint64_t k = at / gather_unit(reader->plan, gather, reader->unit_limit);
    *unit = (struct unit){file, tensor, extent, k};
    *inside = at - k * gather_unit(reader->plan, gather, reader->unit_limit);
    return length <= unit_length(reader, gather, k) - *inside;
}

int reader_lend(struct reader *reader, uint32_t number, uint64_t offset, size_t length, void *buffer,
                struct reader_loan *loan)
{
    const struct planned_file *file = &reader->plan->files[number];
    const unsigned char *contents;
    struct unit unit;
    uint64_t inside;

    *loan = (struct reader_loan){.bytes = buffer, .length = length};
    if (!find_unit(reader, file, offset, length, &unit, &inside))
        return reader_read(reader, number, offset, length, buffer);
    int e = borrow_unit(reader, unit, length >= AHEAD_REQUEST, &loan->block, &contents);
    if (e) {
        const struct position at = {file, unit.tensor, extent_shard(reader->plan, unit.extent), offset,
                                    length};
        return log_failure(reader, &at, e);
    }
    loan->bytes = contents + inside;
    return 0;
}

void reader_take_back(struct reader *reader, const struct reader_loan *loan)
{
    if (loan->block)
        block_cache_return(reader->cache, loan->block, loan->length);
}

struct reader *reader_new(const struct plan *plan, struct source *source, size_t cache_size)
{
    struct reader *reader = calloc(1, sizeof *reader);

    if (!reader)
        return NULL;
    reader->plan = plan;
    reader->source = source;
    reader->unit_limit = cache_size / UNITS_PER_CACHE < UNIT_MAX ? cache_size / UNITS_PER_CACHE : UNIT_MAX;
    reader->ahead_limit = cache_size / AHEAD_SHARE;
    reader->cache = block_cache_new(cache_size, fill_unit, reader);
    if (!reader->cache) {
        free(reader);
        return NULL;
    }
    return reader;
}

void reader_free(struct reader *reader)
{
    if (!reader)
        return;
    block_cache_free(reader->cache);
    free(reader);
}

void reader_get_stats(struct reader *reader, struct block_cache_stats *stats)
{
    block_cache_get_stats(reader->cache, stats);
}
