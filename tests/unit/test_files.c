#include "fs/base/log.h"
#include "fs/source/files.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE ((size_t)300000)
#define HEAD ((size_t)70000)

/* One file in a directory of its own, opened as a source; the log goes to a file beside it. */
struct fixture {
    char folder[64], path[96], other[96], log[96];
    unsigned char bytes[SIZE];
    struct source *source;
    int log_fd;
};

static void write_bytes(const char *path, const unsigned char *bytes, size_t n)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct files_target target = {.path = "a", .target = "a"};
    struct error err = {0};

    strcpy(f->folder, "/tmp/moefs-test-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->path, sizeof f->path, "%s/a", f->folder);
    snprintf(f->other, sizeof f->other, "%s/b", f->folder);
    snprintf(f->log, sizeof f->log, "%s/log", f->folder);
    for (size_t i = 0; i < SIZE; i++)
        f->bytes[i] = (unsigned char)(i * 7 + (i >> 8) * 3);
    write_bytes(f->path, f->bytes, SIZE);
    /* Far from now, so that no change in the test falls into the same tick of the clock. */
    assert_int_equal(utimensat(AT_FDCWD, f->path, (struct timespec[]){{1000, 5}, {1000, 5}}, 0), 0);
    assert_int_equal(stat(f->path, &target.stat), 0);
    target.root = open(f->folder, O_PATH | O_DIRECTORY);
    f->source = source_files_open(f->folder, &target, 1, &err);
    close(target.root);
    assert_non_null(f->source);
    assert_int_equal(source_hold_head(f->source, 0, f->bytes, HEAD), 0);
    assert_int_equal(source_keep(f->source, (uint32_t[]){0}, 1), 0);
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
    unlink(f->path);
    unlink(f->other);
    unlink(f->log);
    rmdir(f->folder);
    free(f);
    return 0;
}

static unsigned count_log_lines(const struct fixture *f, const char *with)
{
    char line[4096];
    unsigned n = 0;
    FILE *file = fopen(f->log, "r");

    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        n += strstr(line, with) != NULL;
    fclose(file);
    return n;
}

static int read_range(struct fixture *f, uint64_t offset, size_t n)
{
    unsigned char *buffer = malloc(n + 1);

    buffer[n] = 0x5a;
    int e = source_pread(f->source, 0, offset, buffer, n);
    if (!e)
        assert_memory_equal(buffer, f->bytes + offset, n);
    assert_int_equal(buffer[n], 0x5a);
    free(buffer);
    return e;
}

static void test_ranges(void **state)
{
    static const struct {
        uint64_t offset;
        size_t length;
        int want;
    } cases[] = {
        {0, SIZE, 0},         {0, 1, 0},
        {SIZE - 1, 1, 0},     {SIZE, 0, 0},
        {4095, 4098, 0},      {0, SIZE + 1, EIO},
        {SIZE, 1, EIO},       {SIZE + 5000, 10, EIO},
        {SIZE - 10, 11, EIO}, {UINT64_MAX - 3, 8, EINVAL},
    };

    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        unsigned char *buffer = malloc(SIZE + 2);
        int e = source_pread(((struct fixture *)*state)->source, 0, cases[k].offset, buffer, cases[k].length);
        assert_int_equal(e, cases[k].want);
        if (!e)
            assert_memory_equal(buffer, ((struct fixture *)*state)->bytes + cases[k].offset, cases[k].length);
        free(buffer);
    }
    assert_int_equal(count_log_lines(*state, "error:"), 1);
    assert_int_equal(source_pread(((struct fixture *)*state)->source, 1, 0, NULL, 0), EINVAL);
    assert_string_equal(source_name(((struct fixture *)*state)->source, 0), ((struct fixture *)*state)->path);
    assert_null(source_name(((struct fixture *)*state)->source, 1));
}

/* What is done to the file, what its next reads answer, and what the log has then. */
static void do_nothing(struct fixture *f)
{
    (void)f;
}

static void do_truncate(struct fixture *f)
{
    assert_int_equal(truncate(f->path, 1000), 0);
}

static void do_extend(struct fixture *f)
{
    assert_int_equal(truncate(f->path, SIZE + 1), 0);
}

static void write_at(struct fixture *f, off_t offset, bool keep_mtime)
{
    int fd = open(f->path, O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "changed", 7, offset), 7);
    if (keep_mtime)
        assert_int_equal(futimens(fd, (struct timespec[]){{1000, 5}, {1000, 5}}), 0);
    close(fd);
}

static void do_overwrite(struct fixture *f)
{
    write_at(f, SIZE / 2, false);
}

static void do_overwrite_head_keeping_mtime(struct fixture *f)
{
    write_at(f, HEAD - 7, true);
}

static void do_touch_by_a_nanosecond(struct fixture *f)
{
    assert_int_equal(utimensat(AT_FDCWD, f->path, (struct timespec[]){{1000, 6}, {1000, 6}}, 0), 0);
}

static void do_link(struct fixture *f)
{
    assert_int_equal(link(f->path, f->other), 0);
}

static void do_chmod(struct fixture *f)
{
    assert_int_equal(chmod(f->path, 0400), 0);
}

static void do_unlink(struct fixture *f)
{
    assert_int_equal(unlink(f->path), 0);
}

static void do_rename_over(struct fixture *f)
{
    write_bytes(f->other, (const unsigned char *)"another", 7);
    assert_int_equal(rename(f->other, f->path), 0);
}

static const struct {
    const char *name;
    void (*change)(struct fixture *);
    int want;
    unsigned errors, warnings; /* lines */
} changes[] = {
    {"nothing", do_nothing, 0, 0, 0},
    {"truncated", do_truncate, EIO, 1, 0},
    {"extended", do_extend, EIO, 1, 0},
    {"overwritten", do_overwrite, EIO, 1, 0},
    {"header overwritten, mtime restored", do_overwrite_head_keeping_mtime, EIO, 1, 1},
    {"touched", do_touch_by_a_nanosecond, EIO, 1, 0},
    {"hard-linked", do_link, 0, 0, 1},
    {"mode changed", do_chmod, 0, 0, 1},
    {"unlinked", do_unlink, 0, 0, 1},
    {"renamed over", do_rename_over, 0, 0, 1},
};

static void test_changes(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof changes / sizeof changes[0]; k++) {
        void *fresh;
        set_up(&fresh);
        struct fixture *f = fresh;
        assert_int_equal(read_range(f, 0, SIZE), 0);
        changes[k].change(f);
        for (int again = 0; again < 3; again++) {
            int e = read_range(f, 0, 500);
            if (e != changes[k].want)
                fail_msg("%s: %d and not %d", changes[k].name, e, changes[k].want);
            assert_int_equal(read_range(f, SIZE / 3, SIZE / 3), changes[k].want);
        }
        if (count_log_lines(f, "error:") != changes[k].errors ||
            count_log_lines(f, "warning:") != changes[k].warnings)
            fail_msg("%s: %u errors, %u warnings logged", changes[k].name, count_log_lines(f, "error:"),
                     count_log_lines(f, "warning:"));
        tear_down(&fresh);
    }
}

/* A file that becomes again what it was is read again. */
static void test_restored(void **state)
{
    struct fixture *f = *state;

    write_at(f, 5, false);
    assert_int_equal(read_range(f, 100, 100), EIO);
    write_bytes(f->path, f->bytes, SIZE);
    do_touch_by_a_nanosecond(f);
    assert_int_equal(read_range(f, 100, 100), EIO);
    assert_int_equal(utimensat(AT_FDCWD, f->path, (struct timespec[]){{1000, 5}, {1000, 5}}, 0), 0);
    assert_int_equal(read_range(f, 100, 100), 0);
}

/* Links come and go while many threads read. */
static void *read_often(void *argument)
{
    for (int i = 0; i < 200; i++)
        if (read_range(argument, (uint64_t)i * 1000, 5000) != 0)
            return argument;
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t threads[8];
    struct fixture *f = *state;

    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_often, f), 0);
    for (int i = 0; i < 100; i++) {
        do_link(f);
        assert_int_equal(unlink(f->other), 0);
    }
    for (int i = 0; i < 8; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_null(read_often(f)); /* the others may have been through before the first link was made */
    assert_int_equal(count_log_lines(f, "warning:"), 1);
}

/* When pread_shim.so is said to be there, it must be. */
static void test_shim(void **state)
{
    struct fixture *f = *state;
    unsigned char *buffer = malloc(SIZE);
    int fd = open(f->path, O_RDONLY), shorts = 0, interrupted = 0;

    for (int i = 0; i < 200; i++) {
        ssize_t n = pread(fd, buffer, SIZE, 0);
        shorts += n > 0 && n < (ssize_t)SIZE;
        interrupted += n < 0 && errno == EINTR;
    }
    close(fd);
    free(buffer);
    if (getenv("PREAD_SHIM_SEED"))
        assert_true(shorts > 0 && interrupted > 0);
    else
        assert_true(shorts == 0 && interrupted == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ranges, set_up, tear_down),
        cmocka_unit_test(test_changes),
        cmocka_unit_test_setup_teardown(test_restored, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_shim, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
