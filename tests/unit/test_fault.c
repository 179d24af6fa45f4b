#include "fs/source/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* Every byte read is 'x'. */
static unsigned closed;

static int x_pread(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    (void)source;
    (void)file;
    (void)offset;
    memset(buffer, 'x', length);
    return 0;
}

static void x_close(struct source *source)
{
    (void)source;
    closed++;
}

static const struct source_info x_files[] = {{.path = "a", .size = 10}, {.path = "b", .size = 20}};
static const struct source_ops x_ops = {.pread = x_pread, .close = x_close};
static struct source x_source = {.ops = &x_ops, .files = x_files, .n_files = 2};

#define READS_MAX 8

static const struct {
    const char *text;
    struct {
        uint32_t file;
        uint64_t offset;
        size_t length;
        int want;
    } reads[READS_MAX]; /* length 0: no more */
} cases[] = {
    {"error:nth=3", {{0, 0, 1, 0}, {1, 5, 1, 0}, {0, 0, 1, EIO}, {0, 0, 1, 0}, {0, 0, 1, 0}, {0, 0, 1, 0}}},
    {"error:every=2", {{0, 0, 1, 0}, {0, 0, 1, EIO}, {0, 0, 1, 0}, {0, 0, 1, EIO}, {0, 0, 1, 0}}},
    {"error:every=1,errno=12", {{0, 0, 1, ENOMEM}, {3, 9, 1, ENOMEM}}},
    {"error:file=0,begin=100,end=200",
     {{0, 0, 100, 0},
      {0, 0, 101, EIO},
      {0, 199, 1, EIO},
      {0, 200, 1, 0},
      {1, 100, 100, 0},
      {0, 50, 500, EIO}}},
    {"error:file=2,nth=2", {{2, 0, 1, 0}, {1, 0, 1, 0}, {0, 0, 1, 0}, {2, 0, 1, EIO}, {2, 0, 1, 0}}},
    {"error:begin=10,errno=5;error:nth=1,errno=9", {{0, 0, 1, EBADF}, {0, 10, 1, EIO}, {0, 0, 1, 0}}},
    {"error:", {{0, 0, 1, EIO}, {1, 1, 1, EIO}}},
};

static void test_rules(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        struct error err = {0};
        struct source *source = source_fault_open(&x_source, cases[k].text, &err);
        assert_non_null(source);
        for (int i = 0; i < READS_MAX && cases[k].reads[i].length > 0; i++) {
            char buffer[500] = {0};
            int e = source_pread(source, cases[k].reads[i].file, cases[k].reads[i].offset, buffer,
                                 cases[k].reads[i].length);
            if (e != cases[k].reads[i].want)
                fail_msg("%s: read %d: %d", cases[k].text, i, e);
            assert_int_equal(buffer[0], e ? 0 : 'x');
        }
        closed = 0;
        source_close(source);
        assert_int_equal(closed, 1);
    }
}

static void test_wrong_text(void **state)
{
    static const char *const texts[] = {
        "",
        ";",
        "error",
        "short:nth=1",
        "error:nth=0",
        "error:nth=",
        "error:n=1",
        "error:ms=5",
        "delay:nth=1",
        "delay:ms=1,errno=5",
        "error:nth=1x",
        "error:errno=-5",
        "delay:ms=99999999",
        "error:file=4294967296",
        "error:trigger=",
        "error:nth=99999999999999999999",
    };

    (void)state;
    closed = 0;
    for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
        struct error err = {0};
        if (source_fault_open(&x_source, texts[k], &err))
            fail_msg("'%s' was taken", texts[k]);
        assert_non_null(err.text);
        error_free(&err);
    }
    assert_int_equal(closed, 0);
}

/* What lies over a source shows the same files. */
static void test_files(void **state)
{
    struct error err = {0};
    struct source *source = source_fault_open(&x_source, "error:", &err);

    (void)state;
    assert_non_null(source);
    assert_ptr_equal(source->files, x_files);
    assert_int_equal(source->n_files, 2);
    assert_string_equal(source_name(source, 1), "b");
    assert_null(source_name(source, 2));
    source_close(source);
}

static double seconds_of_read(struct source *source, uint32_t file)
{
    struct timespec a, b;
    char byte;

    clock_gettime(CLOCK_MONOTONIC, &a);
    assert_int_equal(source_pread(source, file, 0, &byte, 1), 0);
    clock_gettime(CLOCK_MONOTONIC, &b);
    return (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
}

static void test_delay(void **state)
{
    struct error err = {0};
    struct source *source = source_fault_open(&x_source, "delay:file=1,ms=150", &err);

    (void)state;
    assert_true(seconds_of_read(source, 1) >= 0.15);
    assert_true(seconds_of_read(source, 0) < 0.15);
    source_close(source);
}

/* The fault comes and goes with the file, and reads without it are not counted. */
static void test_trigger(void **state)
{
    char folder[] = "/tmp/moefs-test-XXXXXX", path[64], text[128], byte;
    struct error err = {0};

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/on", folder);
    snprintf(text, sizeof text, "error:every=2,trigger=%s", path);
    struct source *source = source_fault_open(&x_source, text, &err);
    assert_non_null(source);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++)
            assert_int_equal(source_pread(source, 0, 0, &byte, 1), 0);
        close(open(path, O_CREAT | O_WRONLY, 0600));
        assert_int_equal(source_pread(source, 0, 0, &byte, 1), 0);
        assert_int_equal(source_pread(source, 0, 0, &byte, 1), EIO);
        unlink(path);
    }
    source_close(source);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules), cmocka_unit_test(test_wrong_text), cmocka_unit_test(test_files),
        cmocka_unit_test(test_delay), cmocka_unit_test(test_trigger),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
