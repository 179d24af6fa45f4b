/* Sorting the requests of an open file into sequential readers. */
#include "readahead_streams.h"

#include "layout/base/checked.h"

#include <stdbool.h>
#include <string.h>

/* Where a range ends unless the file does: whole requests of the usual read-ahead. */
#define ALIGNMENT ((uint64_t)1 << 20)

/* Random readers produce adjacent pairs by chance; three in a row they do not. */
#define START_REQUESTS 3

/* A stream in a file that has been read in sequence before needs no more than this. */
#define PROVEN_START ((uint64_t)256 << 10)
#define PROVEN_REQUESTS 2

/* A stream is active when it had one of the file's last RECENT requests. */
#define RECENT 256

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

void streams_init(struct streams *streams, uint64_t size, uint64_t window)
{
    window = max_u64(window, STREAMS_WINDOW_MIN);
    *streams = (struct streams){.size = size, .window = window, .total = STREAMS_SHARED * window};
}

/* What lies between the place where the stream's next request is expected and offset; UINT64_MAX: it is not
 * one of this stream. Inside the range that was ordered any request may be its reader's. */
static uint64_t stream_distance(const struct stream *stream, uint64_t offset)
{
    const uint64_t end = max_u64(stream->next, stream->ordered);

    if (stream->used == 0 || offset > end + STREAMS_SLACK || offset + STREAMS_SLACK < stream->next)
        return UINT64_MAX;
    return offset < stream->next ? stream->next - offset : offset - stream->next;
}

/* The stream whose request this is; a new one in place of the one that was quiet longest, if there is none.
 */
static struct stream *streams_find(struct streams *streams, uint64_t offset)
{
    struct stream *found = NULL, *oldest = streams->list;
    uint64_t least = UINT64_MAX;

    for (struct stream *stream = streams->list; stream < streams->list + STREAMS_MAX; stream++) {
        const uint64_t distance = stream_distance(stream, offset);
        if (distance < least) {
            least = distance;
            found = stream;
        }
        if (stream->used < oldest->used)
            oldest = stream;
    }
    if (!found) {
        *oldest = (struct stream){.begin = offset, .next = offset};
        found = oldest;
    }
    found->used = ++streams->clock;
    return found;
}

/* Whether the requests so far leave no doubt: enough of them, and hardly a hole between them. */
static bool stream_is_sequential(const struct streams *streams, const struct stream *stream)
{
    const uint64_t span = stream->next - stream->begin;

    if (stream->requested < span / 4 * 3)
        return false;
    return (span >= STREAMS_START && stream->requests >= START_REQUESTS) ||
           (streams->credit >= STREAMS_START && span >= PROVEN_START && stream->requests >= PROVEN_REQUESTS);
}

/* The largest window of one reader, beside the others that are reading now. */
static uint64_t streams_share(const struct streams *streams)
{
    uint64_t active = 1;

    for (const struct stream *stream = streams->list; stream < streams->list + STREAMS_MAX; stream++)
        active += stream->window > 0 && stream->used + RECENT > streams->clock;
    return max_u64(STREAMS_WINDOW_MIN, min_u64(streams->window, streams->total / active));
}

static void stream_start(struct streams *streams, struct stream *stream)
{
    const uint64_t span = stream->next - stream->begin;

    stream->window =
        min_u64(streams_share(streams), max_u64(max_u64(span, streams->credit), STREAMS_WINDOW_MIN));
    if (streams->credit > span)
        streams->credit /= 2;
}

/* The stream's reader is at stream->next: everything up to a window ahead of it that has not been ordered. */
static size_t stream_order(const struct streams *streams, struct stream *stream,
                           struct streams_range ranges[STREAMS_RANGES])
{
    const uint64_t size = streams->size;
    const uint64_t begin = min_u64(size, max_u64(stream->next, stream->ordered));
    const uint64_t end = min_u64(size, round_up(stream->next + stream->window, ALIGNMENT));
    uint64_t gap = max_u64(begin, round_up(stream->next + stream->window / 2, STREAMS_GAP));
    size_t n = 0;

    if (end == size)
        gap = UINT64_MAX;
    if (min_u64(gap, end) > begin)
        ranges[n++] = (struct streams_range){begin, min_u64(gap, end) - begin};
    if (gap < end && end - gap > STREAMS_GAP)
        ranges[n++] = (struct streams_range){gap + STREAMS_GAP, end - gap - STREAMS_GAP};
    stream->gap = gap;
    stream->ordered = max_u64(begin, end);
    return n;
}

size_t streams_note(struct streams *streams, uint64_t offset, uint64_t length,
                    struct streams_range ranges[STREAMS_RANGES])
{
    struct stream *stream = streams_find(streams, offset);

    stream->begin = min_u64(stream->begin, offset);
    stream->next = max_u64(stream->next, offset + length);
    stream->requested += length;
    stream->requests++;
    if (stream->window == 0) {
        if (!stream_is_sequential(streams, stream))
            return 0;
        stream_start(streams, stream);
    } else {
        if (offset + length <= stream->gap)
            return 0;
        const uint64_t span = stream->next - stream->begin;
        streams->credit = min_u64(streams->window, max_u64(streams->credit, span));
        stream->window = min_u64(streams_share(streams), max_u64(stream->window, span));
    }
    return stream_order(streams, stream, ranges);
}
