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

static void test_runs(void **state)
{
    static const struct {
        uint32_t file;
        uint64_t offset, stride, n;
        size_t length;
        int want;
    } cases[] = {
        {0, 0, 0, 0, 10, 0},
        {0, 0, 100, 3, 10, 0},
        {0, 17, 5, 4, 10, 0}, /* they overlap */
        {0, SIZE - 210, 100, 3, 10, 0},
        {0, SIZE - 10, 0, 3, 10, 0},
        {1, 0, 100, 3, 10, EINVAL},
        {UINT32_MAX, 0, 100, 3, 10, EINVAL},
        /* the last run ends behind the last offset that there is */
        {0, INT64_MAX - 10, 0, 1, 11, EINVAL},
        {0, 8, (INT64_MAX - 17) / 2 + 1, 3, 10, EINVAL},
        /* in 64 bits they would begin inside the file again */
        {0, 0, UINT64_C(1) << 63, 3, 10, EINVAL},
        {0, 100, UINT64_MAX - 99, 2, 10, EINVAL},
        {0, UINT64_MAX - 4, 0, 1, 10, EINVAL},
        /* it ends at the last offset, and a little behind the file */
        {0, INT64_MAX - 10, 0, 1, 10, EIO},
        {0, 7, (INT64_MAX - 17) / 2, 3, 10, EIO},
        {0, SIZE - 209, 100, 3, 10, EIO},
    };
    struct fixture *f = *state;
    unsigned char buffer[64];

    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        memset(buffer, 0x5a, sizeof buffer);
        const int e = source_pread_runs(f->source, cases[k].file, cases[k].offset, cases[k].stride,
                                        cases[k].n, buffer, cases[k].length);
        if (e != cases[k].want)
            fail_msg("case %zu: %d", k, e);
        assert_int_equal(count_log_lines(f, "error:"),
                         e == EIO); /* the file is not to blame for the others */
        for (size_t i = 0; e == 0 && i < cases[k].n; i++)
            assert_memory_equal(buffer + i * cases[k].length,
                                f->bytes + cases[k].offset + i * cases[k].stride, cases[k].length);
        for (size_t i = e == EINVAL ? 0 : cases[k].n * cases[k].length; i < sizeof buffer; i++)
            assert_int_equal(buffer[i], 0x5a);
    }
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

/* Held longer than the file is: comparing it fails. */
static void do_link_with_a_head_that_cannot_be_read(struct fixture *f)
{
    static const unsigned char head[SIZE + 1];

    assert_int_equal(source_hold_head(f->source, 0, head, sizeof head), 0);
    do_link(f);
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
    {"hard-linked, header unreadable", do_link_with_a_head_that_cannot_be_read, EIO, 1, 1},
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

/* No descriptor, no fstat: the read's own error comes back, and is logged once. */
static void test_descriptor_closed(void **state)
{
    struct fixture *f = *state;
    const int fd = source_descriptor(f->source, 0), other = open("/dev/null", O_RDONLY);

    assert_int_equal(close(fd), 0);
    for (int again = 0; again < 3; again++)
        assert_int_equal(read_range(f, 0, 100), EBADF);
    assert_int_equal(count_log_lines(f, "fstat: Bad file descriptor"), 1);
    assert_int_equal(count_log_lines(f, "error:"), 1);
    assert_int_equal(dup2(other, fd), fd); /* for source_close() */
    close(other);
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

/* Files a, b and c of the folder, which have 10, 20 and 30 bytes of their letter. */
static struct source *open_three(struct fixture *f, struct error *err)
{
    struct files_target targets[3] = {{.path = "a", .target = "a"},
                                      {.path = "b", .target = "b", .sha256 = "0123"},
                                      {.path = "c", .target = "c"}};
    const int folder = open(f->folder, O_PATH | O_DIRECTORY);
    unsigned char bytes[30];
    char path[128];

    for (size_t i = 0; i < 3; i++) {
        memset(bytes, targets[i].path[0], sizeof bytes);
        snprintf(path, sizeof path, "%s/%s", f->folder, targets[i].path);
        write_bytes(path, bytes, 10 * (i + 1));
        assert_int_equal(stat(path, &targets[i].stat), 0);
        targets[i].root = folder;
    }
    struct source *source = source_files_open(f->folder, targets, 3, err);
    unlinkat(folder, "c", 0);
    close(folder);
    return source;
}

/* The opener numbers the files anew, and gives up those that it does not need. */
static void test_keep(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    struct source *source = open_three(f, &err);
    char bytes[30], name[128];

    assert_non_null(source);
    assert_int_equal(source->n_files, 3);
    const int given_up = source_descriptor(source, 1);
    assert_string_equal(source->files[1].path, "b");
    assert_string_equal(source->files[1].sha256, "0123");
    assert_int_equal(source_hold_head(source, 2, "cc", 2), 0);
    assert_int_equal(source_hold_head(source, 3, "cc", 2), EINVAL);
    assert_int_equal(source_keep(source, (uint32_t[]){2, 0}, 2), 0);
    assert_int_equal(source->n_files, 2);
    assert_int_equal(fcntl(given_up, F_GETFD), -1);
    for (uint32_t i = 0; i < 2; i++) {
        const char letter = i == 0 ? 'c' : 'a';
        const size_t size = i == 0 ? 30 : 10;
        assert_int_equal(source->files[i].path[0], letter);
        assert_int_equal(source->files[i].size, size);
        assert_int_equal(source->files[i].mode & S_IFMT, S_IFREG);
        snprintf(name, sizeof name, "%s/%c", f->folder, letter);
        assert_string_equal(source_name(source, i), name);
        assert_int_equal(source_pread(source, i, 0, bytes, size), 0);
        for (size_t k = 0; k < size; k++)
            assert_int_equal(bytes[k], letter);
    }
    assert_int_equal(source_pread(source, 2, 0, bytes, 1), EINVAL);
    source_close(source);
}

/* While it is being opened the caller tells of what fails. */
static void test_nothing_is_logged_while_opening(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    struct source *source = open_three(f, &err);
    char byte;

    assert_non_null(source);
    assert_int_equal(truncate(f->other, 3), 0); /* b */
    assert_int_equal(source_pread(source, 1, 15, &byte, 1), EIO);
    assert_int_equal(source_pread(source, 0, 15, &byte, 1), EIO);
    assert_int_equal(count_log_lines(f, "error:"), 0);
    assert_int_equal(source_keep(source, (uint32_t[]){0, 1, 2}, 3), 0);
    assert_int_equal(source_pread(source, 1, 15, &byte, 1), EIO);
    assert_int_equal(count_log_lines(f, "error:"), 1);
    source_close(source);
}

/* What is opened must be what was looked at. */
static void test_replaced_while_opening(void **state)
{
    static const struct {
        const char *target;
        bool same; /* as what was looked at */
        const char *said;
    } cases[] = {
        {"a", true, NULL},
        {"a", false, "shown was replaced"},
        {"gone", true, "shown cannot be opened: No such file"},
        {"link", true, "shown was replaced"},
        {"", false, "shown was replaced"},
        {"a/x", true, "shown was replaced"},
    };
    struct fixture *f = *state;
    const int folder = open(f->folder, O_PATH | O_DIRECTORY);

    assert_int_equal(symlinkat("a", folder, "link"), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct files_target target = {.path = "shown", .root = folder, .target = cases[i].target};
        struct error err = {0};
        assert_int_equal(fstatat(folder, cases[i].same ? "a" : "log", &target.stat, 0), 0);
        struct source *source = source_files_open(f->folder, &target, 1, &err);
        if (cases[i].said ? source || !strstr(err.text, cases[i].said) : !source)
            fail_msg("case %zu: %s", i, err.text);
        source_close(source);
        error_free(&err);
    }
    unlinkat(folder, "link", 0);
    close(folder);
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
        cmocka_unit_test_setup_teardown(test_runs, set_up, tear_down),
        cmocka_unit_test(test_changes),
        cmocka_unit_test_setup_teardown(test_descriptor_closed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_keep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_nothing_is_logged_while_opening, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_replaced_while_opening, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_restored, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_shim, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
