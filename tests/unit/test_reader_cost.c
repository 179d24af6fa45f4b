/* What reading costs the source: bytes read of it for the bytes asked for, as docs/measurements.md promises;
 * and that a reader that would have to wait computes what comes next. */
#include "fs/read/reader.h"
#include "layout/base/memory.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define PAGE ((uint64_t)4096)
#define MIB ((uint64_t)1 << 20)
#define REQUEST ((size_t)1 << 20)

/* Zeros, counted: bytes, and the bytes of all pages that a read touches, which is what a disk is asked for
 * where the page cache keeps nothing. With `meeting` set, the reads of the first expert wait for one of the
 * second. */
struct counting_source {
    struct source source;
    pthread_mutex_t lock;
    pthread_cond_t met;
    uint64_t bytes, paged;
    uint64_t expert;
    bool meeting, second_came, gave_up;
};

static int counting_pread(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    struct counting_source *counting = (struct counting_source *)source;
    struct timespec limit;

    (void)file;
    memset(buffer, 0, length);
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 20;
    pthread_mutex_lock(&counting->lock);
    counting->bytes += length;
    counting->paged += (offset + length + PAGE - 1) / PAGE * PAGE - offset / PAGE * PAGE;
    if (counting->meeting && offset >= counting->expert) {
        counting->second_came = true;
        pthread_cond_broadcast(&counting->met);
    }
    while (counting->meeting && offset < counting->expert && !counting->second_came && !counting->gave_up)
        counting->gave_up = pthread_cond_timedwait(&counting->met, &counting->lock, &limit) == ETIMEDOUT;
    pthread_mutex_unlock(&counting->lock);
    return 0;
}

static const struct source_ops counting_ops = {.pread = counting_pread};

static struct counting_source counting_new(void)
{
    return (struct counting_source){
        .source = {.ops = &counting_ops}, .lock = PTHREAD_MUTEX_INITIALIZER, .met = PTHREAD_COND_INITIALIZER};
}

/* Experts whose target is the transpose of a source matrix of rows x columns BF16 elements; step 2: its even
 * columns, then its odd ones. Nothing in the source is aligned to a page. */
struct experts {
    uint64_t n, rows, columns, step;
};

#define HEADER 1000

struct tensor_plan {
    struct plan plan;
    struct planned_file file;
    struct planned_tensor tensor;
    struct extent extents[4];
    struct gather gathers[4];
    struct gather_box boxes[8];
};

static void make_plan(struct tensor_plan *made, const struct experts *e)
{
    const uint64_t matrix = e->rows * e->columns * 2;

    assert_true(e->n <= 4 && e->step <= 2);
    *made = (struct tensor_plan){
        .file =
            {.name = "f", .size = e->n * matrix, .verbatim_shard = PLAN_NO_SHARD, .head = "", .n_tensors = 1},
        .tensor = {.info = {.name = "t"}, .length = e->n * matrix, .n_extents = (uint32_t)e->n}};
    made->plan = (struct plan){.files = &made->file,
                               .n_files = 1,
                               .tensors = &made->tensor,
                               .n_tensors = 1,
                               .extents = made->extents,
                               .n_extents = (uint32_t)e->n,
                               .gathers = made->gathers,
                               .n_gathers = (uint32_t)e->n,
                               .boxes = made->boxes,
                               .n_boxes = (uint32_t)(e->n * e->step)};
    for (uint32_t i = 0; i < e->n; i++) {
        made->extents[i] = (struct extent){.begin = i * matrix, .length = matrix, .gather = i};
        made->gathers[i] = (struct gather){matrix, i * (uint32_t)e->step, (uint32_t)e->step, 2, e->rows * 2};
        for (uint64_t k = 0; k < e->step; k++)
            made->boxes[i * e->step + k] = (struct gather_box){
                .n_dims = 2,
                .source = HEADER + i * matrix + k * 2,
                .target = k * matrix / e->step,
                .dims = {{e->columns / e->step, e->rows, e->step}, {e->rows, 1, e->columns}}};
    }
}

/* The bound on what one read costs: the units it touches, each at most an expert's matrix, a share of the
 * cache and a constant, and where the source is interleaved its rows are read with what lies between. */
static const struct {
    const char *name;
    struct experts experts;
    uint64_t cache;
    uint64_t unit;           /* bytes that a small read may cost */
    double sequential;       /* source bytes for each byte of a sequential reader */
    double sequential_pages; /* the same in whole pages, if none stayed in memory */
} costs[] = {
    {"Qwen3 gate_up", {4, 2048, 1536, 1}, 256 * MIB, 2048 * 1536 * 2, 1, 1.01},
    {"Qwen3 gate_up, small cache", {4, 2048, 1536, 1}, 8 * MIB, 2048 * 1536 * 2, 6, 6.1},
    {"Llama 4", {1, 5120, 16384, 1}, 256 * MIB, 32 * MIB, 1, 1.8},
    {"Llama 4, small cache", {1, 5120, 16384, 1}, 64 * MIB, 8 * MIB, 1, 4.2},
    {"gpt_oss", {2, 2880, 5760, 2}, 256 * MIB, 2880 * 5760 * 2, 1, 1.01},
    {"gpt_oss, small cache", {2, 2880, 5760, 2}, 64 * MIB, 2 * 8 * MIB, 2, 3.6},
};
#define N_COSTS (sizeof costs / sizeof costs[0])

static void test_sequential(void **state)
{
    unsigned char *buffer = xmalloc(REQUEST);

    (void)state;
    for (size_t i = 0; i < N_COSTS; i++) {
        struct counting_source source = counting_new();
        struct tensor_plan made;
        make_plan(&made, &costs[i].experts);
        struct reader *reader = reader_new(&made.plan, &source.source, costs[i].cache);
        assert_non_null(reader);
        for (uint64_t at = 0; at < made.file.size; at += REQUEST) {
            const uint64_t left = made.file.size - at;
            assert_int_equal(reader_read(reader, 0, at, left < REQUEST ? left : REQUEST, buffer), 0);
        }
        const double once = (double)source.bytes / (double)made.file.size;
        const double paged = (double)source.paged / (double)made.file.size;
        print_message("%s: %.2f bytes of the source for each byte, %.2f in pages\n", costs[i].name, once,
                      paged);
        assert_true(once <= costs[i].sequential + 0.001);
        assert_true(paged <= costs[i].sequential_pages);
        reader_free(reader);
    }
    free(buffer);
}

/* 4 KiB at places all over the file, each with nothing in the cache; some straddle two units. */
static void test_random(void **state)
{
    unsigned char buffer[PAGE];
    bool two = false;

    (void)state;
    for (size_t i = 0; i < N_COSTS; i++) {
        struct counting_source source = counting_new();
        struct tensor_plan made;
        make_plan(&made, &costs[i].experts);
        for (uint64_t k = 0; k < 8; k++) {
            const uint64_t matrix = made.gathers[0].length;
            const uint64_t at = k == 0 && costs[i].experts.n > 1
                                    ? matrix - PAGE / 2
                                    : (made.file.size - PAGE) / 8 * k / PAGE * PAGE;
            const bool straddles = at / matrix != (at + PAGE - 1) / matrix;
            struct reader *reader = reader_new(&made.plan, &source.source, costs[i].cache);
            assert_non_null(reader);
            source.bytes = 0;
            assert_int_equal(reader_read(reader, 0, at, PAGE, buffer), 0);
            assert_true(source.bytes >= PAGE);
            /* Pages need not agree with bands: a read may touch two of them. */
            assert_true(source.bytes <= 2 * costs[i].unit);
            two |= straddles;
            reader_free(reader);
        }
    }
    assert_true(two);
}

struct reading {
    struct reader *reader;
    uint64_t offset;
    size_t length;
    int result;
};

static void *read_one(void *argument)
{
    struct reading *reading = argument;
    void *buffer = xmalloc(reading->length);

    reading->result = reader_read(reading->reader, 0, reading->offset, reading->length, buffer);
    free(buffer);
    return NULL;
}

/* Two threads ask for two places of the first expert. Its computation only goes on when the second expert's
 * has begun: which nobody has asked for, so it is the waiting thread that computes ahead. Readers of a page
 * do not. */
static void test_computing_ahead(void **state)
{
    static const struct {
        size_t length;
        uint64_t experts; /* that are computed */
    } cases[] = {{REQUEST, 2}, {PAGE, 1}};
    static const struct experts experts = {2, 2048, 1536, 1};
    struct tensor_plan made;

    (void)state;
    make_plan(&made, &experts);
    for (size_t i = 0; i < 2; i++) {
        struct counting_source source = counting_new();
        pthread_t threads[2];
        struct reading readings[2];
        source.expert = HEADER + made.gathers[0].length;
        source.meeting = cases[i].experts == 2;
        struct reader *reader = reader_new(&made.plan, &source.source, READER_CACHE_DEFAULT);
        assert_non_null(reader);
        for (size_t k = 0; k < 2; k++) {
            readings[k] = (struct reading){reader, k * REQUEST, cases[i].length, -1};
            assert_int_equal(pthread_create(&threads[k], NULL, read_one, &readings[k]), 0);
        }
        for (size_t k = 0; k < 2; k++) {
            pthread_join(threads[k], NULL);
            assert_int_equal(readings[k].result, 0);
        }
        assert_false(source.gave_up);
        assert_int_equal(source.bytes, cases[i].experts * made.gathers[0].length);
        reader_free(reader);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sequential),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_computing_ahead),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
