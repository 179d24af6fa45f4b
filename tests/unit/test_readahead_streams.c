/* The ranges that are populated ahead of readers. Readers here are as the kernel makes them: a model of the
 * page cache sends a request for what is missing where they read, and never for what is there. */
#include "fs/mount/readahead_streams.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GRAIN (128 * KIB)
#define ENOUGH 4096 /* grains of the largest file here: 512 MiB */

struct model {
    struct streams streams;
    bool cached[ENOUGH];
    uint64_t size, requests, ordered, ranges;
};

static void model_init(struct model *model, uint64_t size, uint64_t window)
{
    *model = (struct model){.size = size};
    assert_true(size <= ENOUGH * GRAIN);
    streams_init(&model->streams, size, window);
}

static void model_request(struct model *model, uint64_t offset, uint64_t length)
{
    struct streams_range ranges[STREAMS_RANGES];
    const size_t n = streams_note(&model->streams, offset, length, ranges);
    uint64_t behind = offset + length;

    model->requests++;
    model->ranges += n;
    for (size_t i = 0; i < n; i++) {
        assert_true(ranges[i].length > 0);
        assert_true(ranges[i].offset >= behind);
        behind = ranges[i].offset + ranges[i].length;
        assert_true(behind <= model->size);
        model->ordered += ranges[i].length;
        for (uint64_t at = ranges[i].offset / GRAIN; at * GRAIN < behind; at++)
            model->cached[at] = true;
    }
}

/* A reader touches the grain at offset: where it is missing, up to `request` bytes are asked for. */
static void model_touch(struct model *model, uint64_t offset, uint64_t request)
{
    uint64_t end = offset;

    while (end < model->size && end - offset < request && !model->cached[end / GRAIN]) {
        model->cached[end / GRAIN] = true;
        end += GRAIN;
    }
    if (end > offset)
        model_request(model, offset, (end < model->size ? end : model->size) - offset);
}

static uint64_t model_lead(const struct model *model, uint64_t offset)
{
    uint64_t lead = 0;

    for (uint64_t at = offset / GRAIN; at * GRAIN < model->size; at++)
        lead += model->cached[at] ? GRAIN : 0;
    return lead;
}

/* Worked out by hand: a window as long as what was read, half of it, a gap, the rest. */
static const struct {
    uint64_t offset, length;
    size_t n;
    struct streams_range ranges[STREAMS_RANGES];
} LITERAL[] = {
    {0, 512 * KIB, 0, {{0}}},
    {512 * KIB, 512 * KIB, 0, {{0}}},
    {MIB, MIB, 2, {{2 * MIB, MIB}, {3 * MIB + 128 * KIB, 896 * KIB}}},
    {3 * MIB, 128 * KIB, 2, {{4 * MIB, 768 * KIB}, {4 * MIB + 896 * KIB, 2176 * KIB}}},
    {4 * MIB, 4 * KIB, 0, {{0}}}, /* evicted again: before the gap it orders nothing */
    {4 * MIB + 768 * KIB, 128 * KIB, 2, {{7 * MIB, 384 * KIB}, {7 * MIB + 512 * KIB, 2560 * KIB}}},
    /* the last gap missed, a request behind it does as well; the window is full now: 8 MiB */
    {9 * MIB, 128 * KIB, 2, {{10 * MIB, 3200 * KIB}, {13 * MIB + 256 * KIB, 4864 * KIB}}},
    {13 * MIB + 128 * KIB, 128 * KIB, 1, {{18 * MIB, 2 * MIB}}}, /* the file ends: no gap */
    {19 * MIB, MIB, 0, {{0}}},
};

static void windows_grow_and_have_one_gap(void **state)
{
    struct streams streams;
    struct streams_range ranges[STREAMS_RANGES];

    (void)state;
    streams_init(&streams, 20 * MIB, 8 * MIB);
    for (size_t i = 0; i < LENGTH(LITERAL); i++) {
        const size_t n = streams_note(&streams, LITERAL[i].offset, LITERAL[i].length, ranges);
        if (n != LITERAL[i].n)
            fail_msg("request %zu: %zu ranges instead of %zu", i, n, LITERAL[i].n);
        for (size_t r = 0; r < n; r++)
            if (ranges[r].offset != LITERAL[i].ranges[r].offset ||
                ranges[r].length != LITERAL[i].ranges[r].length)
                fail_msg("request %zu, range %zu: %llu KiB at %llu", i, r,
                         (unsigned long long)(ranges[r].length / KIB),
                         (unsigned long long)(ranges[r].offset / KIB));
    }
}

static const struct {
    uint64_t size, window, request;
} SEQUENTIAL[] = {
    {512 * MIB, 64 * MIB, MIB},
    {512 * MIB, 64 * MIB, 128 * KIB},
    {512 * MIB, 8 * MIB, MIB},
    {512 * MIB - 5000, 64 * MIB, MIB},
    {100 * MIB, MIB, 128 * KIB},
    {512 * MIB, 512 * MIB, MIB},
    {3 * MIB + 4096, 64 * MIB, 128 * KIB},
    {512 * MIB, 3 * MIB, 256 * KIB},
};

static void a_sequential_reader_asks_for_little_more_than_the_gaps(void **state)
{
    struct model *model = malloc(sizeof *model);

    (void)state;
    for (size_t i = 0; i < LENGTH(SEQUENTIAL); i++) {
        const uint64_t window = SEQUENTIAL[i].window, size = SEQUENTIAL[i].size;
        model_init(model, size, window);
        for (uint64_t at = 0; at < size; at += GRAIN) {
            model_touch(model, at, SEQUENTIAL[i].request);
            const uint64_t lead = model_lead(model, at);
            assert_true(lead <= window + SEQUENTIAL[i].request + 2 * MIB);
            if (at >= 2 * window && size - at > window && at >= 3 * MIB)
                assert_true(lead + MIB + 2 * GRAIN >= window / 2); /* a MiB: ends are rounded */
        }
        /* to begin with, then a gap a half window, and some more while the window grows */
        const uint64_t most = STREAMS_START / SEQUENTIAL[i].request + 2 * size / window + 17;
        if (model->requests > most)
            fail_msg("case %zu: %llu requests, at most %llu expected", i, (unsigned long long)model->requests,
                     (unsigned long long)most);
        assert_true(model->ordered > 0);
    }
    free(model);
}

/* Requests that the daemon's threads take out of turn: blocks of n, each in a shuffled order. */
static void order_within_the_slack_does_not_matter(void **state)
{
    (void)state;
    for (unsigned n = 2; n <= 4; n++) {
        struct streams streams;
        struct streams_range ranges[STREAMS_RANGES];
        size_t found = 0;
        srandom(n);
        streams_init(&streams, 1024 * MIB, 64 * MIB);
        for (uint64_t block = 0; block < 8 && found == 0; block++) {
            uint64_t order[4] = {0, 1, 2, 3};
            for (unsigned i = n - 1; i > 0; i--) {
                const unsigned j = (unsigned)random() % (i + 1);
                const uint64_t kept = order[i];
                order[i] = order[j];
                order[j] = kept;
            }
            for (unsigned i = 0; i < n && found == 0; i++)
                found = streams_note(&streams, (block * n + order[i]) * MIB, MIB, ranges);
            assert_true(found > 0 || block < 1);
        }
        assert_true(found > 0);
    }
}

static void readers_side_by_side_are_told_apart(void **state)
{
    struct model *model = malloc(sizeof *model);

    (void)state;
    for (uint64_t readers = 2; readers <= 32; readers += readers < 8 ? 1 : 12) {
        const uint64_t share = 512 / readers / 2 * 2 * MIB;
        model_init(model, 512 * MIB, 16 * MIB);
        for (uint64_t at = 0; at < share; at += GRAIN)
            for (uint64_t reader = 0; reader < readers; reader++)
                model_touch(model, reader * share + at, MIB);
        assert_true(model->ordered >= 512 * MIB / 10 * 9 - readers * (STREAMS_START + MIB));
        const uint64_t window = readers < STREAMS_SHARED ? 16 * MIB : STREAMS_SHARED * 16 * MIB / readers;
        assert_true(model->requests <= readers * (2 * share / window + 16));
    }
    free(model);
}

/* A reader that was sequential in one tensor and goes on in another. */
static void a_proven_reader_has_its_window_at_once(void **state)
{
    struct streams streams;
    struct streams_range ranges[STREAMS_RANGES];
    uint64_t ordered = 0;

    (void)state;
    streams_init(&streams, 4096 * MIB, 64 * MIB);
    for (uint64_t at = 0; at < 128; at++)
        streams_note(&streams, at * MIB, MIB, ranges);
    assert_int_equal(streams_note(&streams, 2000 * MIB, 128 * KIB, ranges), 0);
    const size_t n = streams_note(&streams, 2000 * MIB + 128 * KIB, 128 * KIB, ranges);
    for (size_t i = 0; i < n; i++)
        ordered += ranges[i].length;
    assert_true(ordered > 60 * MIB);

    /* jumps that end after two requests use the credit up: what they waste together is bounded */
    ordered = 0;
    for (uint64_t jump = 0; jump < 100; jump++)
        for (uint64_t i = 0; i < 2; i++) {
            const size_t m =
                streams_note(&streams, 3900 * MIB - jump * 15 * MIB + i * 128 * KIB, 128 * KIB, ranges);
            for (size_t r = 0; r < m; r++)
                ordered += ranges[r].length;
        }
    assert_true(ordered < 3 * 64 * MIB);
}

static const struct {
    uint64_t size, request, n;
    uint64_t most; /* of a thousand requests, how many may order something */
} RANDOM[] = {
    {8192 * MIB, 4 * KIB, 100000, 0}, {512 * MIB, 4 * KIB, 10000, 0},    {16 * MIB, 4 * KIB, 1000, 0},
    {8192 * MIB, MIB, 1000, 5},       {8192 * MIB, 128 * KIB, 10000, 0},
};

static void random_access_orders_next_to_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(RANDOM); i++) {
        struct streams streams;
        struct streams_range ranges[STREAMS_RANGES];
        uint64_t orders = 0;
        srandom(1);
        streams_init(&streams, RANDOM[i].size, 64 * MIB);
        for (uint64_t k = 0; k < RANDOM[i].n; k++) {
            const uint64_t place = (uint64_t)random() % (RANDOM[i].size / RANDOM[i].request);
            orders += streams_note(&streams, place * RANDOM[i].request, RANDOM[i].request, ranges) > 0;
        }
        if (orders * 1000 > RANDOM[i].most * RANDOM[i].n)
            fail_msg("case %zu: %llu of %llu requests ordered something", i, (unsigned long long)orders,
                     (unsigned long long)RANDOM[i].n);
    }
}

/* Every other grain, or one in each 2 MiB: rows of a matrix. */
static void strided_access_orders_nothing(void **state)
{
    const uint64_t strides[] = {256 * KIB, 512 * KIB, 2 * MIB};
    struct streams_range ranges[STREAMS_RANGES];

    (void)state;
    for (size_t i = 0; i < LENGTH(strides); i++) {
        struct streams streams;
        streams_init(&streams, 1024 * MIB, 64 * MIB);
        for (uint64_t at = 0; at < 1024 * MIB; at += strides[i])
            assert_int_equal(streams_note(&streams, at, 128 * KIB, ranges), 0);
    }
}

/* Any requests at all: whatever is ordered lies in the file and behind the request (asserted by
 * the model). */
static void ranges_are_always_inside_the_file(void **state)
{
    struct model *model = malloc(sizeof *model);

    (void)state;
    srandom(7);
    for (unsigned round = 0; round < 200; round++) {
        const uint64_t size = 1 + (uint64_t)random() % (64 * MIB);
        uint64_t at = 0;
        model_init(model, size, MIB << random() % 8);
        for (unsigned i = 0; i < 300; i++) {
            if (random() % 20 == 0 || at >= size)
                at = (uint64_t)random() % size;
            uint64_t length = 1 + (uint64_t)random() % MIB;
            if (length > size - at)
                length = size - at;
            model_request(model, at, length);
            at += length;
        }
    }
    free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_grow_and_have_one_gap),
        cmocka_unit_test(a_sequential_reader_asks_for_little_more_than_the_gaps),
        cmocka_unit_test(order_within_the_slack_does_not_matter),
        cmocka_unit_test(readers_side_by_side_are_told_apart),
        cmocka_unit_test(a_proven_reader_has_its_window_at_once),
        cmocka_unit_test(random_access_orders_next_to_nothing),
        cmocka_unit_test(strided_access_orders_nothing),
        cmocka_unit_test(ranges_are_always_inside_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
