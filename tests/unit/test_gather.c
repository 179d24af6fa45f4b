#include "fs/read/gather.h"
#include "fs/read/transpose.h"
#include "layout/base/memory.h"
#include "layout/compile.h"
#include "tests/support/failing_memory.h"
#include "tests/support/random_boxes.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

/* A source in memory that counts the bytes that are read of it. */
struct memory_source {
    struct source source;
    unsigned char *bytes[4];
    size_t size;
    _Atomic uint64_t read; /* bytes */
    _Atomic uint64_t n_reads;
    uint64_t fail_at; /* the number of the read that fails */
};

static int memory_pread(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    struct memory_source *memory = (struct memory_source *)source;

    assert_true(file < 4);
    assert_true(offset <= memory->size && length <= memory->size - offset);
    if (memory->n_reads++ == memory->fail_at)
        return EIO;
    memcpy(buffer, memory->bytes[file] + offset, length);
    memory->read += length;
    return 0;
}

static const struct source_ops memory_ops = {.pread = memory_pread};

static void memory_open(struct memory_source *memory, size_t size)
{
    *memory = (struct memory_source){.source = {.ops = &memory_ops}, .size = size, .fail_at = UINT64_MAX};
    for (int i = 0; i < 4; i++) {
        memory->bytes[i] = xmalloc(size);
        for (size_t k = 0; k < size; k++)
            memory->bytes[i][k] = (unsigned char)random_below(256);
    }
}

static void memory_close(struct memory_source *memory)
{
    for (int i = 0; i < 4; i++)
        free(memory->bytes[i]);
}

/* The definition in plan.h, element by element. */
static void place_naively(const struct plan *plan, const struct gather *gather,
                          const struct memory_source *memory, unsigned char *target, uint8_t *written)
{
    const unsigned size = gather->element_size;

    for (uint32_t b = 0; b < gather->n_boxes; b++) {
        const struct gather_box *box = &plan->boxes[gather->first_box + b];
        uint64_t index[GATHER_DIMS_MAX] = {0};
        for (bool more = true; more;) {
            uint64_t t = box->target, s = box->source;
            for (uint32_t d = 0; d < box->n_dims; d++) {
                t += index[d] * box->dims[d].target * size;
                s += index[d] * box->dims[d].source * size;
            }
            assert_true(t + size <= gather->length && s + size <= memory->size);
            memcpy(target + t, memory->bytes[box->shard] + s, size);
            written[t / size]++;
            more = false;
            for (uint32_t d = box->n_dims; d-- > 0 && !more;) {
                more = ++index[d] < box->dims[d].n;
                if (!more)
                    index[d] = 0;
            }
        }
    }
}

static void *scratch_new(void)
{
    void *scratch = aligned_alloc(4096, GATHER_SCRATCH);

    assert_non_null(scratch);
    return scratch;
}

static void set_row(struct gather *gather, const struct gather_box *boxes)
{
    gather->row = compile_gather_row(boxes + gather->first_box, gather->n_boxes, gather->element_size);
}

/* Computes the whole interval in units of the limit and compares. */
static void check_gather(const struct plan *plan, struct memory_source *memory, uint64_t limit)
{
    const struct gather *gather = &plan->gathers[0];
    const uint64_t unit = gather_unit(gather, limit);
    unsigned char *want = xmalloc(gather->length), *have = xmalloc(gather->length + 2);
    uint8_t *written = xcalloc(gather->length, 1);
    void *scratch = scratch_new();

    place_naively(plan, gather, memory, want, written);
    for (uint64_t i = 0; i < gather->length / gather->element_size; i++)
        assert_int_equal(written[i], 1);
    assert_true(unit > 0 && unit <= gather->length);
    have[0] = have[gather->length + 1] = 0xa5;
    for (uint64_t begin = 0; begin < gather->length; begin += unit) {
        const uint64_t end = begin + unit < gather->length ? begin + unit : gather->length;
        const uint32_t n_parts = 1 + (uint32_t)(begin / unit + limit) % 4;
        for (uint32_t part = n_parts; part-- > 0;)
            assert_int_equal(gather_compute(plan, gather, (struct gather_share){begin, end, part, n_parts},
                                            &memory->source, scratch, have + 1 + begin),
                             0);
    }
    assert_memory_equal(have + 1, want, gather->length);
    assert_int_equal(have[0], 0xa5);
    assert_int_equal(have[gather->length + 1], 0xa5);
    free(scratch);
    free(want);
    free(have);
    free(written);
}

/* The conversions of the layouts for one expert of I x H, bases in elements; what each reads is known
 * exactly. */
/* clang-format off */
#define DIM(n, t, s) {n, t, s}
/* clang-format on */
enum { I = 24, H = 40, BIG_I = 256, BIG_H = 520 };

struct known {
    const char *name;
    uint64_t length; /* elements */
    uint32_t n_boxes;
    struct gather_box boxes[3]; /* source and target in elements here */
    uint64_t row;               /* elements of the unit when the limit is one byte; 0: cannot be cut */
};

/* clang-format off */
static const struct known known[] = {
    {"in-out to merged", 2 * I * H, 2,
     {{0, 2, 5, 0, {DIM(I, H, 1), DIM(H, 1, 2 * I)}}, {0, 2, 5 + I, I * H, {DIM(I, H, 1), DIM(H, 1, 2 * I)}}}, H},
    {"in-out to merged, large", 2 * BIG_I * BIG_H, 2,
     {{0, 2, 5, 0, {DIM(BIG_I, BIG_H, 1), DIM(BIG_H, 1, 2 * BIG_I)}},
      {0, 2, 5 + BIG_I, BIG_I * BIG_H, {DIM(BIG_I, BIG_H, 1), DIM(BIG_H, 1, 2 * BIG_I)}}}, BIG_H},
    {"merged to in-out", 2 * I * H, 2,
     {{0, 2, 3, 0, {DIM(H, 2 * I, 1), DIM(I, 1, H)}}, {0, 2, 3 + I * H, I, {DIM(H, 2 * I, 1), DIM(I, 1, H)}}}, 2 * I},
    {"per-expert to in-out", 2 * I * H, 2,
     {{0, 2, 7, 0, {DIM(H, 2 * I, 1), DIM(I, 1, H)}}, {1, 2, 9, I, {DIM(H, 2 * I, 1), DIM(I, 1, H)}}}, 2 * I},
    {"interleaved to merged: rows", 2 * I * H, 2,
     {{0, 2, 1, 0, {DIM(I, H, 2 * H), DIM(H, 1, 1)}}, {0, 2, 1 + H, I * H, {DIM(I, H, 2 * H), DIM(H, 1, 1)}}}, H},
    {"merged to interleaved: rows", 2 * I * H, 2,
     {{0, 2, 1, 0, {DIM(I, 2 * H, H), DIM(H, 1, 1)}}, {0, 2, 1 + I * H, H, {DIM(I, 2 * H, H), DIM(H, 1, 1)}}}, 2 * H},
    {"in-out-interleaved to merged", 2 * I * H, 2,
     {{0, 2, 4, 0, {DIM(I, H, 2), DIM(H, 1, 2 * I)}}, {0, 2, 5, I * H, {DIM(I, H, 2), DIM(H, 1, 2 * I)}}}, H},
    {"bias out of in-out-interleaved", 2 * I, 2,
     {{0, 1, 2, 0, {DIM(I, 1, 2)}}, {0, 1, 3, I, {DIM(I, 1, 2)}}}, 1},
    {"bias into in-out-interleaved", 2 * I, 2,
     {{0, 1, 2, 0, {DIM(I, 2, 1)}}, {0, 1, 2 + I, 1, {DIM(I, 2, 1)}}}, 2},
    {"four axes turned round", 3 * 4 * 5 * 6, 1,
     {{0, 4, 0, 0, {DIM(3, 120, 1), DIM(4, 30, 3), DIM(5, 6, 12), DIM(6, 1, 60)}}}, 120},
    {"a transpose and one element", 6 * 4 + 1, 2,
     {{0, 2, 0, 0, {DIM(6, 4, 1), DIM(4, 1, 6)}}, {1, 0, 8, 24, {DIM(0, 0, 0)}}}, 4},
    {"rows that do not agree", 4 * 6 + 3 * 5, 2,
     {{0, 2, 0, 0, {DIM(4, 6, 1), DIM(6, 1, 4)}}, {1, 2, 0, 24, {DIM(3, 5, 1), DIM(5, 1, 3)}}}, 0},
};
/* clang-format on */

static const unsigned element_sizes[] = {1, 2, 4, 8};

static void test_known(void **state)
{
    struct memory_source memory;

    (void)state;
    memory_open(&memory, 3 << 20);
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
        for (int e = 0; e < 4; e++) {
            const unsigned size = element_sizes[e];
            struct gather_box boxes[3];
            struct gather gather = {known[k].length * size, 0, known[k].n_boxes, size, 0};
            struct plan plan = {
                .gathers = &gather, .n_gathers = 1, .boxes = boxes, .n_boxes = known[k].n_boxes};
            for (uint32_t b = 0; b < known[k].n_boxes; b++) {
                boxes[b] = known[k].boxes[b];
                /* Offsets that no alignment fits. */
                boxes[b].source = boxes[b].source * size + 1;
                boxes[b].target *= size;
            }
            set_row(&gather, boxes);
            assert_int_equal(gather_unit(&gather, 1), (known[k].row ? known[k].row : known[k].length) * size);
            assert_int_equal(gather_unit(&gather, gather.length), gather.length);
            for (uint64_t limit = 1; limit < 2 * gather.length; limit = limit * 7 + 3)
                check_gather(&plan, &memory, limit);
            /* Computed whole, as many bytes are read as are needed: and since each is needed, each once. */
            memory.read = 0;
            check_gather(&plan, &memory, gather.length);
            assert_int_equal(memory.read, gather.length);
        }
    }
    memory_close(&memory);
}

/* Axes that are wider than the scratch, or so sparse that each element is read alone. */
/* clang-format off */
static const struct {
    const char *name;
    struct gather_box boxes[2]; /* there may be no second one */
} wide[] = {
    {"rows wider than the scratch", {{0, 2, 10, 0, {DIM(1500000, 2, 1), DIM(2, 1, 1500000)}}}},
    {"row of columns wider than the scratch", {{0, 2, 10, 0, {DIM(700000, 3, 3), DIM(3, 1, 1)}}}},
    {"runs that go directly", {{0, 2, 10, 0, {DIM(6, 100000, 200001), DIM(100000, 1, 1)}}}},
    {"three axes, the outer one wide",
     {{0, 3, 0, 0, {DIM(2, 800000, 1000000), DIM(2, 400000, 1), DIM(400000, 1, 2)}}}},
    {"sparse elements", {{0, 1, 0, 0, {DIM(60, 1, 50000)}}}},
    {"sparse inside sparse", {{0, 2, 0, 0, {DIM(4, 100, 900000), DIM(100, 1, 9000)}}}},
    {"runs far apart", {{0, 2, 0, 0, {DIM(30, 300, 1), DIM(300, 1, 10000)}}}},
    {"a transpose in strips", {{0, 2, 0, 0, {DIM(1000, 1000, 1), DIM(1000, 1, 1000)}}}},
    {"strips with rows of one box, of two, of the other",
     {{0, 2, 0, 0, {DIM(45000, 12, 1), DIM(12, 1, 100000)}},
      {0, 2, 2 * 850000, 2 * 540000, {DIM(45000, 16, 1), DIM(16, 1, 100000)}}}},
};
/* clang-format on */
#define N_WIDE (sizeof wide / sizeof wide[0])

/* Of elements of two bytes. */
static struct gather wide_gather(const struct gather_box *boxes)
{
    struct gather gather = {0, 0, boxes[1].n_dims > 0 ? 2 : 1, 2, 0};

    for (uint32_t b = 0; b < gather.n_boxes; b++) {
        uint64_t length = 2;
        for (uint32_t d = 0; d < boxes[b].n_dims; d++)
            length *= boxes[b].dims[d].n;
        gather.length += length;
    }
    set_row(&gather, boxes);
    return gather;
}

static void test_wide(void **state)
{
    struct memory_source memory;

    (void)state;
    memory_open(&memory, 8 << 20);
    for (size_t k = 0; k < N_WIDE; k++) {
        struct gather_box boxes[2] = {wide[k].boxes[0], wide[k].boxes[1]};
        struct gather gather = wide_gather(boxes);
        struct plan plan = {.gathers = &gather, .n_gathers = 1, .boxes = boxes, .n_boxes = gather.n_boxes};
        const uint64_t row = gather_unit(&gather, 1);
        check_gather(&plan, &memory, gather.length);
        check_gather(&plan, &memory, gather.length / 3 > row ? gather.length / 3 : row);
    }
    memory_close(&memory);
}

static void test_random(void **state)
{
    const char *given = getenv("MOEFS_TEST_SEED");
    const uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    struct memory_source memory;

    (void)state;
    print_message("seed %llu (MOEFS_TEST_SEED repeats it)\n", (unsigned long long)seed);
    random_state = seed;
    memory_open(&memory, 6 << 20);
    for (int round = 0; round < 300; round++) {
        struct gather_box boxes[16];
        struct shape shape = {.n_dims = 1 + (uint32_t)random_below(GATHER_DIMS_MAX)};
        const unsigned size = element_sizes[random_below(4)];
        uint64_t elements = 1;
        for (uint32_t d = shape.n_dims; d-- > 0;) {
            static const uint64_t most[] = {3000, 250, 30, 16};
            shape.n[d] = 1 + random_below(most[shape.n_dims - 1]);
            shape.target[d] = elements;
            elements *= shape.n[d];
        }
        struct gather gather = {elements * size, 0, make_boxes(&shape, size, boxes), size, 0};
        struct plan plan = {.gathers = &gather, .n_gathers = 1, .boxes = boxes, .n_boxes = gather.n_boxes};
        set_row(&gather, boxes);
        check_gather(&plan, &memory, gather.length);
        check_gather(&plan, &memory, 1 + random_below(gather.length));
        if (elements < 1000)
            check_gather(&plan, &memory, 1);
    }
    memory_close(&memory);
}

/* As threads that wait for one block of the cache share the work. */
struct at_once {
    const struct plan *plan;
    struct source *source;
    unsigned char *target;
    atomic_uint next_part;
    uint32_t n_parts;
    atomic_int error;
};

static void *compute_parts(void *context)
{
    struct at_once *job = context;
    const struct gather *gather = &job->plan->gathers[0];
    void *scratch = scratch_new();
    uint32_t part;

    while ((part = atomic_fetch_add(&job->next_part, 1)) < job->n_parts) {
        const int e =
            gather_compute(job->plan, gather, (struct gather_share){0, gather->length, part, job->n_parts},
                           job->source, scratch, job->target);
        if (e)
            atomic_store(&job->error, e);
    }
    free(scratch);
    return NULL;
}

static void check_at_once(const struct plan *plan, struct memory_source *memory, const unsigned char *want,
                          uint32_t n_parts)
{
    enum { THREADS = 8 };
    const struct gather *gather = &plan->gathers[0];
    struct at_once job = {
        .plan = plan, .source = &memory->source, .target = xmalloc(gather->length), .n_parts = n_parts};
    pthread_t threads[THREADS];

    memset(job.target, 0xee, gather->length);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, compute_parts, &job), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(job.error, 0);
    assert_memory_equal(job.target, want, gather->length);
    free(job.target);
}

/* Neighbours in the target that different parts write: of rows with gaps, of whole rows, of
 * single elements. */
static void test_parts_at_once(void **state)
{
    enum { N = 1440, BEHIND = N * N, ROUNDS = 4 };
    static const struct {
        const char *name;
        uint32_t n_boxes;
        struct gather_box boxes[2];
    } cases[] = {
        {"merged to in-out-interleaved",
         2,
         {{0, 2, 0, 0, {DIM(N, 2 * N, 1), DIM(N, 2, N)}},
          {0, 2, BEHIND, 1, {DIM(N, 2 * N, 1), DIM(N, 2, N)}}}},
        {"per-expert to in-out-interleaved",
         2,
         {{0, 2, 0, 0, {DIM(N, 2 * N, 1), DIM(N, 2, N)}}, {1, 2, 7, 1, {DIM(N, 2 * N, 1), DIM(N, 2, N)}}}},
        {"merged to in-out-interleaved, as one box",
         1,
         {{0, 3, 0, 0, {DIM(N, 2 * N, 1), DIM(N, 2, N), DIM(2, 1, BEHIND)}}}},
        {"merged to in-out",
         2,
         {{0, 2, 0, 0, {DIM(N, 2 * N, 1), DIM(N, 1, N)}},
          {0, 2, BEHIND, N, {DIM(N, 2 * N, 1), DIM(N, 1, N)}}}},
        {"in-out-interleaved to merged",
         2,
         {{0, 2, 0, 0, {DIM(N, N, 2), DIM(N, 1, 2 * N)}},
          {0, 2, 1, BEHIND, {DIM(N, N, 2), DIM(N, 1, 2 * N)}}}},
        {"in-out to merged",
         2,
         {{0, 2, 0, 0, {DIM(N, N, 1), DIM(N, 1, 2 * N)}},
          {0, 2, N, BEHIND, {DIM(N, N, 1), DIM(N, 1, 2 * N)}}}},
    };
    struct memory_source memory;

    (void)state;
    memory_open(&memory, 2 * BEHIND * 2 + 16);
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        struct gather_box boxes[2];
        struct gather gather = {2 * BEHIND * 2, 0, cases[k].n_boxes, 2, 0};
        struct plan plan = {.gathers = &gather, .n_gathers = 1, .boxes = boxes, .n_boxes = cases[k].n_boxes};
        for (uint32_t b = 0; b < cases[k].n_boxes; b++) {
            boxes[b] = cases[k].boxes[b];
            boxes[b].source *= 2;
            boxes[b].target *= 2;
        }
        set_row(&gather, boxes);
        unsigned char *want = xmalloc(gather.length);
        uint8_t *written = xcalloc(gather.length, 1);
        place_naively(&plan, &gather, &memory, want, written);
        for (int round = 0; round < ROUNDS; round++)
            check_at_once(&plan, &memory, want, 2 + (uint32_t)round);
        free(want);
        free(written);
    }
    memory_close(&memory);
}

/* However a gather reads its source: the first read fails, the second, the last. */
static void test_failure_is_returned(void **state)
{
    struct memory_source memory;
    void *scratch = scratch_new();

    (void)state;
    memory_open(&memory, 8 << 20);
    for (size_t k = 0; k < N_WIDE; k++) {
        struct gather_box boxes[2] = {wide[k].boxes[0], wide[k].boxes[1]};
        struct gather gather = wide_gather(boxes);
        struct plan plan = {.gathers = &gather, .n_gathers = 1, .boxes = boxes, .n_boxes = gather.n_boxes};
        const struct gather_share all = {0, gather.length, 0, 1};
        unsigned char *buffer = xmalloc(gather.length);
        memory.n_reads = 0;
        memory.fail_at = UINT64_MAX;
        assert_int_equal(gather_compute(&plan, &gather, all, &memory.source, scratch, buffer), 0);
        const uint64_t n = memory.n_reads, failing[] = {0, 1, n - 1};
        for (int i = 0; i < 3; i++) {
            memory.n_reads = 0;
            memory.fail_at = failing[i];
            const int e = gather_compute(&plan, &gather, all, &memory.source, scratch, buffer);
            if (e != (failing[i] < n ? EIO : 0) || memory.n_reads != (failing[i] < n ? failing[i] + 1 : n))
                fail_msg("%s: read %llu of %llu: %d", wide[k].name, (unsigned long long)failing[i],
                         (unsigned long long)n, e);
        }
        memory_left = 0;
        assert_int_equal(gather_compute(&plan, &gather, all, &memory.source, scratch, buffer), ENOMEM);
        assert_int_equal(memory_left, -1);
        free(buffer);
    }
    memory_close(&memory);
    free(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_wide),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_parts_at_once),
        cmocka_unit_test(test_failure_is_returned),
    };
    const struct transpose_level *levels[3];
    const unsigned n = transpose_levels(levels, 3);
    int failed = 0;

    /* Whatever the processor has; the best one last. */
    for (unsigned i = 0; i < n; i++) {
        transpose_force(levels[i]);
        failed += cmocka_run_group_tests_name(levels[i]->name, tests, NULL, NULL);
    }
    return failed;
}
