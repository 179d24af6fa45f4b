#include "fs/read/block_cache.h"
#include "tests/support/block_filler.h"
#include "tests/support/failing_memory.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

/* 64 threads on one block: one fill, whose result, right or wrong, all of them get; and afterwards the cache
 * holds the block if the fill was right and nothing if it was not. */
static void test_single_flight(void **state)
{
    static const int outcomes[] = {0, EIO, ENOMEM};

    (void)state;
    for (size_t k = 0; k < sizeof outcomes / sizeof outcomes[0]; k++) {
        enum { THREADS = 64 };
        struct filler filler = {
            .waits = true, .lock = PTHREAD_MUTEX_INITIALIZER, .gate = PTHREAD_COND_INITIALIZER};
        struct block_cache *cache = block_cache_new(10 * BLOCK, fill, &filler);
        struct reading readings[THREADS];
        struct block_cache_stats stats;
        pthread_t threads[THREADS];

        atomic_store(&filler.error, outcomes[k]);
        for (int i = 0; i < THREADS; i++) {
            readings[i] = (struct reading){cache, {1, 2}, -2, BLOCK};
            assert_int_equal(pthread_create(&threads[i], NULL, read_one, &readings[i]), 0);
        }
        wait_until_waiting(cache, THREADS - 1);
        open_gate(&filler);
        for (int i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(readings[i].result, outcomes[k]);
        }
        assert_int_equal(atomic_load(&filler.fills), 1);
        block_cache_get_stats(cache, &stats);
        assert_int_equal(stats.misses, 1);
        assert_int_equal(stats.waits, THREADS - 1);
        assert_int_equal(stats.bytes, outcomes[k] ? 0 : BLOCK);
        atomic_store(&filler.error, 0);
        assert_int_equal(read_and_check(cache, (struct block_key){1, 2}, BLOCK, 0, BLOCK), 0);
        assert_int_equal(atomic_load(&filler.fills), outcomes[k] ? 2 : 1);
        block_cache_free(cache);
    }
}

static void test_error_is_not_cached(void **state)
{
    struct filler filler = {0};
    struct block_cache *cache = block_cache_new(4 * BLOCK, fill, &filler);
    struct block_cache_stats stats;

    (void)state;
    atomic_store(&filler.error, EIO);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(read_and_check(cache, (struct block_key){1, 1}, BLOCK, 0, 1), EIO);
        assert_int_equal(atomic_load(&filler.fills), i + 1);
    }
    block_cache_get_stats(cache, &stats);
    assert_int_equal(stats.bytes, 0);
    atomic_store(&filler.error, 0);
    assert_false(is_held(cache, &filler, 1));
    assert_true(is_held(cache, &filler, 1));
    block_cache_free(cache);
}

static void test_every_range(void **state)
{
    struct filler filler = {0};
    struct block_cache *cache = block_cache_new(4 * BLOCK, fill, &filler);

    (void)state;
    for (size_t offset = 0; offset <= BLOCK; offset += 37)
        for (size_t n = 0; n <= BLOCK - offset; n += 41)
            assert_int_equal(read_and_check(cache, (struct block_key){5, 6}, BLOCK, offset, n), 0);
    assert_int_equal(atomic_load(&filler.fills), 1);
    block_cache_free(cache);
}

/* A block read again after it left A1in (its key is still in A1out) stays through a scan of any length; a
 * block read twice in short order does not: that is how one sequential reader in small pieces looks. */
static void test_scan(void **state)
{
    struct filler filler = {0};
    struct block_cache *cache = block_cache_new(16 * BLOCK, fill, &filler);

    (void)state;
    assert_false(is_held(cache, &filler, 0));
    for (uint32_t i = 100; i < 118; i++)
        assert_false(is_held(cache, &filler, i));
    assert_false(is_held(cache, &filler, 0)); /* through A1out */
    assert_false(is_held(cache, &filler, 50));
    assert_true(is_held(cache, &filler, 50));
    for (uint32_t i = 1000; i < 2000; i++)
        assert_false(is_held(cache, &filler, i));
    assert_true(is_held(cache, &filler, 0));
    assert_false(is_held(cache, &filler, 50));
    block_cache_free(cache);
}

/* Of more hot blocks than fit, the most recently used stay. */
static void test_least_recently_used(void **state)
{
    struct filler filler = {0};
    struct block_cache *cache = block_cache_new(16 * BLOCK, fill, &filler);
    unsigned held = 0;

    (void)state;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < 6; i++)
            is_held(cache, &filler, i);
        for (uint32_t i = 0; i < 17; i++)
            is_held(cache, &filler, 100 + 1000 * (uint32_t)pass + i);
    }
    assert_true(is_held(cache, &filler, 3));
    for (uint32_t i = 0; i < 6; i++)
        held += is_held(cache, &filler, i);
    assert_int_equal(held, 6);
    block_cache_free(cache);
}

static void test_larger_than_the_cache(void **state)
{
    struct filler filler = {0};
    struct block_cache *cache = block_cache_new(BLOCK / 2, fill, &filler);
    struct block_cache_stats stats;

    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        assert_false(is_held(cache, &filler, i));
        block_cache_get_stats(cache, &stats);
        assert_int_equal(stats.bytes, 0);
    }
    assert_int_equal(stats.peak_bytes, BLOCK);
    block_cache_free(cache);
}

/* Fills that hold all the room make others wait, in order, and all of them are served in the end. */
static void test_waits_for_room(void **state)
{
    enum { THREADS = 12 };
    struct filler filler = {
        .waits = true, .lock = PTHREAD_MUTEX_INITIALIZER, .gate = PTHREAD_COND_INITIALIZER};
    struct block_cache *cache = block_cache_new(2 * BLOCK, fill, &filler);
    struct reading readings[THREADS];
    struct block_cache_stats stats;
    pthread_t threads[THREADS];

    (void)state;
    for (int i = 0; i < THREADS; i++) {
        /* Twice the same block too, so that some find in their turn what another has brought in. */
        readings[i] = (struct reading){cache, {1, (uint32_t)i / 2}, -2, BLOCK};
        assert_int_equal(pthread_create(&threads[i], NULL, read_one, &readings[i]), 0);
    }
    while (atomic_load(&filler.fills) < 2)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    assert_int_equal(atomic_load(&filler.fills), 2);
    open_gate(&filler);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(readings[i].result, 0);
    }
    block_cache_get_stats(cache, &stats);
    assert_true(stats.peak_bytes <= 2 * BLOCK);
    assert_true(atomic_load(&filler.most_at_once) == 2);
    block_cache_free(cache);
}

/* Blocks that are mappings, of lengths that agree with an evicted block's and that do not. */
static void test_large_blocks(void **state)
{
    static const size_t lengths[] = {200000, 200000, 131072, 131071, 500000, 200000};
    enum { N = sizeof lengths / sizeof lengths[0] };
    struct filler filler = {0};
    struct block_cache *cache = block_cache_new(450000, fill, &filler);
    struct block_cache_stats stats;

    (void)state;
    for (uint32_t i = 0; i < 60; i++) {
        const struct block_key key = {1, i % 20};
        const size_t length = lengths[i % 20 % N];
        for (size_t offset = 0; offset < length; offset += length / 3)
            assert_int_equal(read_and_check(cache, key, length, offset, 1000 < length - offset ? 1000 : 1),
                             0);
        atomic_store(&filler.error, i % 7 == 0 ? EIO : 0);
        read_and_check(cache, (struct block_key){2, i}, 300000, 0, 1);
        atomic_store(&filler.error, 0);
    }
    block_cache_get_stats(cache, &stats);
    assert_true(stats.bytes <= 450000);
    assert_true(stats.peak_bytes <= 500000);
    block_cache_free(cache);
}

/* The memory of a block that goes becomes the next one's only where both come from the same place: what
 * malloc gave is never unmapped, and a mapping never freed. */
static void test_memory_changes_hands(void **state)
{
    static const size_t lengths[] = {1000, 131071, 131072, 131073, 300000};
    enum { N = sizeof lengths / sizeof lengths[0] };

    (void)state;
    for (uint32_t pair = 0; pair < N * N; pair++) {
        const size_t from = lengths[pair / N], to = lengths[pair % N];
        struct filler filler = {0};
        struct block_cache *cache = block_cache_new(from > to ? from : to, fill, &filler);
        struct block_cache_stats stats;
        assert_int_equal(read_and_check(cache, (struct block_key){1, 1}, from, 0, from), 0);
        assert_int_equal(read_and_check(cache, (struct block_key){1, 2}, to, 0, to), 0);
        block_cache_get_stats(cache, &stats);
        assert_true(stats.bytes >= to && stats.bytes <= (from > to ? from : to));
        block_cache_free(cache);
    }
}

/* One allocation fails, whichever it is: a read ends with ENOMEM or with the right bytes, nothing is kept
 * that should not be, and the next read succeeds. */
static void test_short_memory(void **state)
{
    static const size_t lengths[] = {1000, 200000, 2000, 300000, 131072, 500};
    enum { N = sizeof lengths / sizeof lengths[0], READS = 4 * N, CAPACITY = 310000 };
    unsigned failures = 0;
    bool failed = true;

    (void)state;
    for (long n = 0; failed; n++) {
        struct filler filler = {0};
        struct block_cache_stats stats;
        atomic_store(&memory_left, n);
        struct block_cache *cache = block_cache_new(CAPACITY, fill, &filler);
        failed = !cache;
        for (uint32_t i = 0; cache && i < READS; i++) {
            const struct block_key key = {1, i % 5 * (i / 7)};
            const size_t length = lengths[key.unit % N];
            int e = read_and_check(cache, key, length, 0, length);
            assert_true(e == 0 || e == ENOMEM);
            failures += e != 0;
            if (e)
                assert_int_equal(read_and_check(cache, key, length, 0, length), 0);
            block_cache_get_stats(cache, &stats);
            assert_true(stats.bytes <= CAPACITY);
            block_cache_fill_ahead(cache, (struct block_key){2, i}, 700);
        }
        failed |= atomic_load(&memory_left) < 0;
        atomic_store(&memory_left, -1);
        block_cache_free(cache);
    }
    assert_true(failures > 10);
}

/* A block filled ahead is found; nothing is done where it is there, is being filled, or has no room; and its
 * failure is forgotten. */
static void test_fill_ahead(void **state)
{
    struct filler filler = {
        .waits = true, .lock = PTHREAD_MUTEX_INITIALIZER, .gate = PTHREAD_COND_INITIALIZER};
    struct block_cache *cache = block_cache_new(2 * BLOCK, fill, &filler);
    struct reading readings[2] = {{cache, {1, 1}, -2, BLOCK}, {cache, {1, 2}, -2, BLOCK}};
    struct block *block;
    const unsigned char *contents;
    pthread_t threads[2];

    (void)state;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_one, &readings[i]), 0);
    while (atomic_load(&filler.fills) < 2)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_int_equal(block_cache_borrow(cache, readings[0].key, BLOCK, false, &block, &contents), EAGAIN);
    assert_int_equal(block_cache_fill_ahead(cache, readings[1].key, BLOCK), BLOCK_AHEAD_THERE);
    assert_int_equal(block_cache_fill_ahead(cache, (struct block_key){1, 3}, BLOCK), BLOCK_AHEAD_NO_ROOM);
    open_gate(&filler);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(readings[i].result, 0);
    }
    assert_int_equal(block_cache_borrow(cache, readings[0].key, BLOCK, false, &block, &contents), 0);
    assert_int_equal(contents[7], byte_at(readings[0].key, 7));
    block_cache_return(cache, block, BLOCK);
    atomic_store(&filler.error, EIO);
    assert_int_equal(block_cache_fill_ahead(cache, (struct block_key){1, 3}, BLOCK), BLOCK_AHEAD_FILLED);
    atomic_store(&filler.error, 0);
    assert_false(is_held(cache, &filler, 3));
    assert_int_equal(block_cache_fill_ahead(cache, (struct block_key){1, 4}, BLOCK), BLOCK_AHEAD_FILLED);
    assert_true(is_held(cache, &filler, 4));
    block_cache_free(cache);
}

static void *fill_one_ahead(void *argument)
{
    struct reading *reading = argument;

    reading->result = (int)block_cache_fill_ahead(reading->cache, reading->key, reading->length);
    return NULL;
}

/* Whoever waits for a large block fills a part of it, each part once, and so does who fills it ahead; and a
 * part that fails fails all. */
static void test_parts(void **state)
{
    enum { N = 5 };
    const size_t length = N * BLOCK_PART + 12345;
    static const int outcomes[] = {0, EIO};

    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct filler filler = {.waits = true,
                                .error = outcomes[k],
                                .lock = PTHREAD_MUTEX_INITIALIZER,
                                .gate = PTHREAD_COND_INITIALIZER};
        struct block_cache *cache = block_cache_new(2 * length, fill, &filler);
        struct reading readings[N];
        pthread_t threads[N];
        for (int i = 0; i < N; i++) {
            readings[i] = (struct reading){cache, {1, 1}, -2, length};
            assert_int_equal(
                pthread_create(&threads[i], NULL, i < N - 1 ? read_one : fill_one_ahead, &readings[i]), 0);
        }
        while (atomic_load(&filler.at_once) < N) /* for ever, if they did not help each other */
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        assert_int_equal(block_cache_fill_ahead(cache, (struct block_key){1, 1}, length), BLOCK_AHEAD_THERE);
        open_gate(&filler);
        for (int i = 0; i < N; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(readings[i].result, i < N - 1 ? outcomes[k] : (int)BLOCK_AHEAD_FILLED);
        }
        assert_int_equal(atomic_load(&filler.fills), N);
        block_cache_free(cache);
    }
}

/* What is lent is neither evicted nor changed, and others may read it. */
static void test_lending(void **state)
{
    struct filler filler = {0};
    struct block_cache *cache = block_cache_new(2 * BLOCK, fill, &filler);
    const struct block_key key = {3, 0};
    struct block *block;
    const unsigned char *contents;

    (void)state;
    assert_int_equal(block_cache_borrow(cache, key, BLOCK, true, &block, &contents), 0);
    for (uint32_t i = 1; i < 10; i++)
        assert_int_equal(read_and_check(cache, (struct block_key){3, i}, BLOCK, 0, BLOCK), 0);
    for (size_t i = 0; i < BLOCK; i++)
        assert_int_equal(contents[i], byte_at(key, i));
    assert_int_equal(atomic_load(&filler.fills), 10);
    assert_int_equal(read_and_check(cache, key, BLOCK, 0, BLOCK), 0);
    assert_int_equal(atomic_load(&filler.fills), 10);
    block_cache_return(cache, block, BLOCK);
    block_cache_free(cache);
}

struct load {
    struct block_cache *cache;
    struct filler *filler;
    uint64_t seed;
    unsigned wrong, failed;
};

static void *random_load(void *argument)
{
    struct load *load = argument;
    uint64_t x = load->seed;

    for (int i = 0; i < 3000; i++) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        const uint32_t unit = (uint32_t)(x >> 33) % 60;
        const size_t length = 100 + unit * 15, offset = (size_t)(x >> 40) % length;
        int e =
            read_and_check(load->cache, (struct block_key){unit % 3, unit}, length, offset, length - offset);
        load->wrong += e < 0;
        load->failed += e > 0;
        if (load->seed == 1)
            atomic_store(&load->filler->error, i % 50 == 0 ? EIO : 0);
    }
    return NULL;
}

/* Whatever happens, no more than the capacity is held. Every case is a capacity. */
static void test_bound(void **state)
{
    static const size_t capacities[] = {1000, 2500, 9000, 100000};

    (void)state;
    for (size_t k = 0; k < sizeof capacities / sizeof capacities[0]; k++) {
        enum { THREADS = 8 };
        struct filler filler = {.sleep_us = 5};
        struct block_cache *cache = block_cache_new(capacities[k], fill, &filler);
        struct load loads[THREADS];
        struct block_cache_stats stats;
        pthread_t threads[THREADS];
        unsigned wrong = 0, failed = 0;

        for (unsigned i = 0; i < THREADS; i++) {
            loads[i] = (struct load){cache, &filler, i + 1, 0, 0};
            assert_int_equal(pthread_create(&threads[i], NULL, random_load, &loads[i]), 0);
        }
        for (int i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
            wrong += loads[i].wrong;
            failed += loads[i].failed;
        }
        block_cache_get_stats(cache, &stats);
        assert_int_equal(wrong, 0);
        assert_int_equal(stats.hits + stats.misses + stats.waits, THREADS * 3000);
        assert_int_equal(stats.misses, atomic_load(&filler.fills));
        assert_true(stats.bytes <= capacities[k]);
        assert_true(stats.peak_bytes <= capacities[k]);
        assert_true(failed < THREADS * 3000 / 2);
        block_cache_free(cache);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_flight),
        cmocka_unit_test(test_error_is_not_cached),
        cmocka_unit_test(test_every_range),
        cmocka_unit_test(test_scan),
        cmocka_unit_test(test_least_recently_used),
        cmocka_unit_test(test_larger_than_the_cache),
        cmocka_unit_test(test_waits_for_room),
        cmocka_unit_test(test_large_blocks),
        cmocka_unit_test(test_memory_changes_hands),
        cmocka_unit_test(test_short_memory),
        cmocka_unit_test(test_fill_ahead),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_lending),
        cmocka_unit_test(test_bound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
