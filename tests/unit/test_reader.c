#include "fs/base/log.h"
#include "fs/read/reader.h"
#include "fs/source/fault.h"
#include "fs/source/files.h"
#include "layout/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* A plan made by hand. Shard 0 (the file "s0") holds at 17: gate_up of two experts, in-out [2, H, 2I] of 2
 * bytes; then 300 bytes of "norm". Shard 1 is verbatim. The virtual file 0 has a header of 13 bytes, then
 * norm, an empty tensor, and gate_up merged, [2, 2I, H]; file 1 is shard 1; file 2 is an index, all head. */
enum {
    I = 300,
    H = 520,
    E = 2,
    SLAB = 2 * I * H * 2,
    NORM = 300,
    SHARD_0 = 17 + E * SLAB + NORM,
    SHARD_1 = 5000
};

static const char head[] = "a header here";
static const char index_text[] = "{\"weight_map\": {}}";

/* clang-format off */
static struct extent extents[] = {
    {0, 100, 17 + E * SLAB, 0, PLAN_NO_GATHER},
    {100, 200, 17 + E * SLAB + 100, 0, PLAN_NO_GATHER},
    {0, SLAB, 0, 0, 0},
    {SLAB, SLAB, 0, 0, 1},
};

/* The two boxes of expert e, gate and up. */
/* clang-format off */
static struct gather_box boxes[] = {
    /* shard, n_dims, source, target, dims */
    {0, 2, 17,               0,         {{I, H, 1}, {H, 1, 2 * I}}},
    {0, 2, 17 + I * 2,       I * H * 2, {{I, H, 1}, {H, 1, 2 * I}}},
    {0, 2, 17 + SLAB,        0,         {{I, H, 1}, {H, 1, 2 * I}}},
    {0, 2, 17 + SLAB + I * 2, I * H * 2, {{I, H, 1}, {H, 1, 2 * I}}},
};
static struct gather gathers[] = {{SLAB, 0, 2, 2, H * 2}, {SLAB, 2, 2, 2, H * 2}};
/* clang-format on */
static struct planned_tensor tensors[] = {
    {.info = {.name = "norm"}, .length = NORM, .offset = 13, .first_extent = 0, .n_extents = 2},
    {.info = {.name = "empty"}, .length = 0, .offset = 13 + NORM, .first_extent = 2, .n_extents = 0},
    {.info = {.name = "gate_up"}, .length = E * SLAB, .offset = 13 + NORM, .first_extent = 2, .n_extents = 2},
};
static struct planned_file files[] = {
    {.name = "model-00001-of-00002.safetensors",
     .size = 13 + NORM + E * SLAB,
     .verbatim_shard = PLAN_NO_SHARD,
     .head = head,
     .head_length = 13,
     .n_tensors = 3},
    {.name = "model-00002-of-00002.safetensors", .size = SHARD_1, .verbatim_shard = 1},
    {.name = "model.safetensors.index.json",
     .size = sizeof index_text - 1,
     .verbatim_shard = PLAN_NO_SHARD,
     .head = index_text,
     .head_length = sizeof index_text - 1},
};
/* clang-format on */
static const struct plan plan = {.files = files,
                                 .n_files = 3,
                                 .n_weight_files = 2,
                                 .tensors = tensors,
                                 .n_tensors = 3,
                                 .extents = extents,
                                 .n_extents = 4,
                                 .gathers = gathers,
                                 .n_gathers = 2,
                                 .boxes = boxes,
                                 .n_boxes = 4};

struct fixture {
    char folder[64], path[2][96], log[96], trigger[96];
    unsigned char *shards[2], *want[3];
    struct source *source;
    int log_fd;
};

/* What the files should hold, by the meaning of the layouts: merged[e][p * I + i][h] = in_out[e][h][p * I +
 * i]. */
static void expect(struct fixture *f)
{
    const unsigned char *in_out = f->shards[0] + 17;

    f->want[0] = xmalloc(files[0].size);
    memcpy(f->want[0], head, 13);
    memcpy(f->want[0] + 13, f->shards[0] + 17 + E * SLAB, NORM);
    unsigned char *merged = f->want[0] + 13 + NORM;
    for (size_t e = 0; e < E; e++)
        for (size_t row = 0; row < 2 * I; row++)
            for (size_t h = 0; h < H; h++)
                memcpy(merged + ((e * 2 * I + row) * H + h) * 2, in_out + ((e * H + h) * 2 * I + row) * 2, 2);
    f->want[1] = f->shards[1];
    f->want[2] = (unsigned char *)xstrdup(index_text);
}

static int set_up(void **state)
{
    static const size_t sizes[] = {SHARD_0, SHARD_1};
    struct fixture *f = xcalloc(1, sizeof *f);
    struct files_target targets[2] = {0};
    struct error err = {0};

    strcpy(f->folder, "/tmp/moefs-test-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    const int folder = open(f->folder, O_PATH | O_DIRECTORY);
    snprintf(f->log, sizeof f->log, "%s/log", f->folder);
    snprintf(f->trigger, sizeof f->trigger, "%s/trigger", f->folder);
    for (int i = 0; i < 2; i++) {
        snprintf(f->path[i], sizeof f->path[i], "%s/s%d", f->folder, i);
        f->shards[i] = xmalloc(sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++)
            f->shards[i][k] = (unsigned char)((k * 2654435761u + (unsigned)i) >> 13);
        int fd = open(f->path[i], O_CREAT | O_RDWR, 0600);
        assert_int_equal(write(fd, f->shards[i], sizes[i]), sizes[i]);
        targets[i] = (struct files_target){
            .path = strrchr(f->path[i], '/') + 1, .root = folder, .target = strrchr(f->path[i], '/') + 1};
        fstat(fd, &targets[i].stat);
        close(fd);
    }
    expect(f);
    f->source = source_files_open(f->folder, targets, 2, &err);
    close(folder);
    assert_non_null(f->source);
    assert_int_equal(source_keep(f->source, (uint32_t[]){0, 1}, 2), 0);
    f->log_fd = open(f->log, O_CREAT | O_RDWR | O_APPEND, 0600);
    log_to_descriptor(f->log_fd);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    log_to_descriptor(STDERR_FILENO);
    close(f->log_fd);
    source_close(f->source);
    unlink(f->path[0]);
    unlink(f->path[1]);
    unlink(f->log);
    unlink(f->trigger);
    rmdir(f->folder);
    free(f->shards[0]);
    free(f->shards[1]);
    free(f->want[0]);
    free(f->want[2]);
    free(f);
    return 0;
}

static void put_fault_under(struct fixture *f, const char *text)
{
    struct error err = {0};

    f->source = source_fault_open(f->source, text, &err);
    assert_non_null(f->source);
}

static uint64_t random_below(uint64_t *x, uint64_t n)
{
    *x = *x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*x >> 33) % n;
}

/* -1: the wrong bytes. */
static int read_and_check(struct reader *reader, const struct fixture *f, uint32_t file, uint64_t offset,
                          size_t length)
{
    unsigned char *buffer = xmalloc(length + 1);

    buffer[length] = 0x5a;
    int e = reader_read(reader, file, offset, length, buffer);
    if (!e && (memcmp(buffer, f->want[file] + offset, length) != 0 || buffer[length] != 0x5a))
        e = -1;
    free(buffer);
    return e;
}

/* The same through a loan, which must be one where `lent` says so; -1: the wrong bytes. */
static int lend_and_check(struct reader *reader, const struct fixture *f, uint32_t file, uint64_t offset,
                          size_t length, bool *lent)
{
    unsigned char *buffer = xmalloc(length + 1);
    struct reader_loan loan;

    buffer[length] = 0x5a;
    int e = reader_lend(reader, file, offset, length, buffer, &loan);
    *lent = !e && loan.reader;
    if (!e) {
        if (loan.length != length || memcmp(loan.bytes, f->want[file] + offset, length) != 0 ||
            buffer[length] != 0x5a || (loan.bytes == buffer) == *lent)
            e = -1;
        reader_take_back(&loan);
    }
    free(buffer);
    return e;
}

/* Whole files, and every range of a few bytes about each border: head, tensors, extents, units, the end. */
static void test_borders(void **state)
{
    const struct fixture *f = *state;
    static const uint64_t borders[] = {0,
                                       13,
                                       113,
                                       13 + NORM,
                                       13 + NORM + I * H * 2,
                                       13 + NORM + SLAB,
                                       13 + NORM + SLAB + I * H * 2,
                                       13 + NORM + E * SLAB};
    static const size_t sizes[] = {READER_CACHE_MIN, READER_CACHE_DEFAULT, 5000};

    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        struct reader *reader = reader_new(&plan, f->source, sizes[s]);
        for (uint32_t file = 0; file < 3; file++) {
            assert_int_equal(read_and_check(reader, f, file, 0, files[file].size), 0);
            assert_int_equal(read_and_check(reader, f, file, files[file].size, 0), 0);
        }
        for (size_t b = 0; b < sizeof borders / sizeof borders[0]; b++)
            for (uint64_t before = 0; before <= 3; before++)
                for (uint64_t behind = 0; behind <= 3; behind++)
                    if (borders[b] >= before && borders[b] + behind <= files[0].size)
                        assert_int_equal(read_and_check(reader, f, 0, borders[b] - before, before + behind),
                                         0);
        reader_free(reader);
    }
}

/* What is lent and what is copied: only a range that lies in one unit of a computed tensor is lent. */
static void test_lending(void **state)
{
    enum { COMPUTED = 13 + NORM, ROW = H * 2 };
    static const struct {
        size_t cache_size;
        uint32_t file;
        uint64_t offset;
        size_t length;
        bool lent;
    } cases[] = {
        /* Each expert is a unit. */
        {READER_CACHE_DEFAULT, 0, COMPUTED, SLAB, true},
        {READER_CACHE_DEFAULT, 0, COMPUTED + SLAB, SLAB, true},
        {READER_CACHE_DEFAULT, 0, COMPUTED + SLAB + 7, 100, true},
        {READER_CACHE_DEFAULT, 0, COMPUTED + E * SLAB - 1, 1, true},
        {READER_CACHE_DEFAULT, 0, COMPUTED + SLAB - 1, 2, false},
        {READER_CACHE_DEFAULT, 0, COMPUTED, E * SLAB, false},
        {READER_CACHE_DEFAULT, 0, COMPUTED - 1, 2, false},
        /* The head, a copied tensor, a file that is a shard's, an index; nothing. */
        {READER_CACHE_DEFAULT, 0, 0, 13, false},
        {READER_CACHE_DEFAULT, 0, 13, NORM, false},
        {READER_CACHE_DEFAULT, 1, 100, 1000, false},
        {READER_CACHE_DEFAULT, 2, 0, sizeof index_text - 1, false},
        {READER_CACHE_DEFAULT, 0, COMPUTED + 5, 0, false},
        {READER_CACHE_DEFAULT, 0, COMPUTED + E * SLAB, 0, false},
        /* A cache for a row at a time. */
        {8 * ROW, 0, COMPUTED + 3 * ROW, ROW, true},
        {8 * ROW, 0, COMPUTED + 3 * ROW + 1, ROW, false},
        {8 * ROW, 0, COMPUTED + SLAB + 3 * ROW + 1, ROW - 1, true},
    };
    const struct fixture *f = *state;

    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        struct reader *reader = reader_new(&plan, f->source, cases[k].cache_size);
        bool lent;
        for (int again = 0; again < 2; again++) {
            int e = lend_and_check(reader, f, cases[k].file, cases[k].offset, cases[k].length, &lent);
            if (e != 0 || lent != cases[k].lent)
                fail_msg("case %zu: %s, %s", k, e ? "the wrong bytes" : "right", lent ? "lent" : "copied");
        }
        reader_free(reader);
    }
}

/* What is lent stays as it is, however much is read meanwhile through a cache that has no room for it all. */
static void test_lent_bytes_stay(void **state)
{
    const struct fixture *f = *state;
    struct reader *reader = reader_new(&plan, f->source, READER_CACHE_MIN);
    struct reader_loan loans[2];
    unsigned char buffer[64];

    for (int i = 0; i < 2; i++)
        assert_int_equal(reader_lend(reader, 0, 13 + NORM + 100, sizeof buffer, buffer, &loans[i]), 0);
    assert_ptr_equal(loans[0].bytes, loans[1].bytes);
    assert_int_equal(read_and_check(reader, f, 0, 0, files[0].size), 0);
    for (int i = 0; i < 2; i++) {
        assert_ptr_not_equal(loans[i].bytes, buffer);
        assert_memory_equal(loans[i].bytes, f->want[0] + 13 + NORM + 100, sizeof buffer);
        reader_take_back(&loans[i]);
    }
    reader_free(reader);
}

struct load {
    struct reader *reader;
    const struct fixture *f;
    uint64_t seed;
    unsigned reads, wrong, failed;
};

static void *random_load(void *argument)
{
    struct load *load = argument;
    uint64_t x = load->seed;

    for (unsigned i = 0; i < load->reads; i++) {
        const uint32_t file = random_below(&x, 8) ? 0 : (uint32_t)random_below(&x, 3);
        const uint64_t offset = random_below(&x, files[file].size + 1), left = files[file].size - offset;
        const uint64_t most = random_below(&x, 4) ? 5000 : 300000;
        const size_t length = random_below(&x, (left < most ? left : most) + 1);
        bool lent;
        int e = random_below(&x, 2) ? read_and_check(load->reader, load->f, file, offset, length)
                                    : lend_and_check(load->reader, load->f, file, offset, length, &lent);
        load->wrong += e < 0;
        load->failed += e > 0;
    }
    return NULL;
}

static unsigned run_load(struct fixture *f, size_t cache_size, unsigned reads)
{
    enum { THREADS = 6 };
    struct reader *reader = reader_new(&plan, f->source, cache_size);
    const uint64_t seed = (uint64_t)time(NULL);
    struct load loads[THREADS];
    pthread_t threads[THREADS];
    unsigned failed = 0;

    print_message("seed %llu\n", (unsigned long long)seed);
    for (unsigned i = 0; i < THREADS; i++) {
        loads[i] = (struct load){reader, f, seed + i, reads, 0, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, random_load, &loads[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(loads[i].wrong, 0);
        failed += loads[i].failed;
    }
    reader_free(reader);
    return failed;
}

static void test_random(void **state)
{
    assert_int_equal(run_load(*state, READER_CACHE_MIN, 400), 0);
    assert_int_equal(run_load(*state, READER_CACHE_DEFAULT, 400), 0);
}

/* A failing source costs some reads their result, and nothing else: never the wrong bytes. */
static void test_random_faults(void **state)
{
    struct fixture *f = *state;

    put_fault_under(f, "error:every=7;delay:every=50,ms=1");
    const unsigned failed = run_load(f, READER_CACHE_MIN, 300);
    assert_true(failed > 0 && failed < 6 * 300);
}

static unsigned count_log_lines(const struct fixture *f, const char *with)
{
    char line[4096];
    unsigned n = 0;
    FILE *file = fopen(f->log, "r");

    while (fgets(line, sizeof line, file))
        n += strstr(line, with) != NULL;
    fclose(file);
    return n;
}

/* What is logged when a read fails, and that the same read succeeds when the fault is gone. */
static void test_failures(void **state)
{
    static const struct {
        uint32_t file;
        uint64_t offset;
        size_t length;
        const char *parts[5];
    } cases[] = {
        {0,
         113,
         50,
         {"model-00001-of-00002.safetensors", "bytes 113 to 163", "tensor norm", "shard 0", "/s0"}},
        {0, 13 + NORM + 5, 7, {"bytes 318 to 325", "tensor gate_up", "shard 0", "/s0", "Input/output error"}},
        {1,
         40,
         60,
         {"model-00002-of-00002.safetensors", "bytes 40 to 100", "shard 1", "/s1", "Input/output error"}},
    };
    struct fixture *f = *state;
    char text[128];
    bool lent;

    snprintf(text, sizeof text, "error:trigger=%s", f->trigger);
    put_fault_under(f, text);
    struct reader *reader = reader_new(&plan, f->source, READER_CACHE_MIN);
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        close(open(f->trigger, O_CREAT | O_WRONLY, 0600));
        assert_int_equal(ftruncate(f->log_fd, 0), 0);
        assert_int_equal(read_and_check(reader, f, cases[k].file, cases[k].offset, cases[k].length), EIO);
        assert_int_equal(count_log_lines(f, "error:"), 1);
        assert_int_equal(lend_and_check(reader, f, cases[k].file, cases[k].offset, cases[k].length, &lent),
                         EIO);
        assert_int_equal(count_log_lines(f, "error:"), 2);
        for (int i = 0; i < 5; i++)
            if (count_log_lines(f, cases[k].parts[i]) != 2)
                fail_msg("case %zu: the log lacks '%s'", k, cases[k].parts[i]);
        assert_int_equal(read_and_check(reader, f, 2, 0, 5), 0);
        unlink(f->trigger);
        assert_int_equal(read_and_check(reader, f, cases[k].file, cases[k].offset, cases[k].length), 0);
    }
    /* Many failures are few lines. */
    close(open(f->trigger, O_CREAT | O_WRONLY, 0600));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(read_and_check(reader, f, 1, 0, 1), EIO);
    assert_true(count_log_lines(f, "error:") <= 21);
    reader_free(reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_borders, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lending, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lent_bytes_stay, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_random, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_random_faults, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_failures, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
