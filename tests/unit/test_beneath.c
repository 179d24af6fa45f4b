#include "fs/source/beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

/* Both ways must answer alike: a machine has only one of them. */
static const struct {
    const char *name;
    int (*open)(int root, const char *path, int flags);
} ways[] = {{"beneath_open", beneath_open}, {"beneath_walk", beneath_walk}};

/* FOLDER/top is the held directory, FOLDER/outside what nobody may reach. */
struct fixture {
    char folder[64];
    int folder_fd, root;
};

static void make_file(int directory, const char *name)
{
    int fd = openat(directory, name, O_CREAT | O_WRONLY, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, name, strlen(name)), strlen(name));
    close(fd);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    strcpy(f->folder, "/tmp/moefs-test-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    f->folder_fd = open(f->folder, O_PATH | O_DIRECTORY);
    for (const char *const *name = (const char *const[]){"top", "top/a", "top/a/b", "outside", NULL}; *name;
         name++)
        assert_int_equal(mkdirat(f->folder_fd, *name, 0700), 0);
    make_file(f->folder_fd, "top/file");
    make_file(f->folder_fd, "top/a/b/file");
    make_file(f->folder_fd, "outside/file");
    assert_int_equal(symlinkat("../outside", f->folder_fd, "top/out"), 0);
    assert_int_equal(symlinkat("a", f->folder_fd, "top/in"), 0);
    assert_int_equal(symlinkat("file", f->folder_fd, "top/link"), 0);
    f->root = openat(f->folder_fd, "top", O_PATH | O_DIRECTORY);
    assert_true(f->root >= 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    char command[128];

    close(f->root);
    close(f->folder_fd);
    snprintf(command, sizeof command, "rm -r %s", f->folder);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static void test_paths(void **state)
{
    static const struct {
        const char *path;
        int flags;
        int want[2];    /* 0, or the errnos that are right */
        const char *is; /* the same file as this one, by another way */
    } cases[] = {
        {"", O_PATH | O_DIRECTORY, {0}, "top"},
        {"", O_RDONLY | O_DIRECTORY, {0}, "top"},
        {"file", O_RDONLY, {0}, "top/file"},
        {"a", O_RDONLY | O_DIRECTORY, {0}, "top/a"},
        {"a/b/file", O_RDONLY | O_NONBLOCK, {0}, "top/a/b/file"},
        {"a/b/file", O_PATH, {0}, "top/a/b/file"},
        {"gone", O_RDONLY, {ENOENT, ENOENT}, NULL},
        {"a/gone/file", O_RDONLY, {ENOENT, ENOENT}, NULL},
        {"file/x", O_RDONLY, {ENOTDIR, ENOTDIR}, NULL},
        {"file", O_RDONLY | O_DIRECTORY, {ENOTDIR, ENOTDIR}, NULL},
        /* links, wherever they lead and wherever they stand */
        {"link", O_RDONLY, {ELOOP, ENOTDIR}, NULL},
        {"in", O_RDONLY | O_DIRECTORY, {ELOOP, ENOTDIR}, NULL},
        {"in/b/file", O_RDONLY, {ELOOP, ENOTDIR}, NULL},
        {"out/file", O_RDONLY, {ELOOP, ENOTDIR}, NULL},
        /* ways out */
        {"..", O_PATH | O_DIRECTORY, {EXDEV, EXDEV}, NULL},
        {"../outside/file", O_RDONLY, {EXDEV, EXDEV}, NULL},
        {"/etc/passwd", O_RDONLY, {EXDEV, EXDEV}, NULL},
    };
    const struct fixture *f = *state;

    for (size_t way = 0; way < sizeof ways / sizeof *ways; way++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct stat stat, other;
            const int fd = ways[way].open(f->root, cases[i].path, cases[i].flags);
            if (fd < 0 ? errno != cases[i].want[0] && errno != cases[i].want[1] : cases[i].want[0] != 0)
                fail_msg("%s(\"%s\"): %d, errno %d", ways[way].name, cases[i].path, fd, errno);
            if (fd < 0)
                continue;
            assert_int_equal(fstat(fd, &stat), 0);
            assert_int_equal(fstatat(f->folder_fd, cases[i].is, &other, 0), 0);
            assert_true(stat.st_dev == other.st_dev && stat.st_ino == other.st_ino);
            assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
            close(fd);
        }
}

/* A directory and a link to outside change places all the time. */
struct exchange {
    const struct fixture *fixture;
    atomic_bool end;
};

static void *exchange(void *argument)
{
    struct exchange *e = argument;
    const int folder = e->fixture->folder_fd;

    while (!atomic_load(&e->end))
        if (syscall(SYS_renameat2, folder, "top/a", folder, "top/out", 2 /* RENAME_EXCHANGE */) != 0)
            return e;
    return NULL;
}

static void test_exchanged(void **state)
{
    const struct fixture *f = *state;
    struct exchange e = {.fixture = f};
    struct stat right, stat;
    pthread_t thread;
    void *failed;

    make_file(f->folder_fd, "top/a/file");
    assert_int_equal(fstatat(f->folder_fd, "top/a/file", &right, 0), 0);
    assert_int_equal(pthread_create(&thread, NULL, exchange, &e), 0);
    for (size_t way = 0; way < sizeof ways / sizeof *ways; way++)
        for (int i = 0; i < 20000; i++) {
            const int fd = ways[way].open(f->root, "a/file", O_RDONLY);
            if (fd < 0)
                continue;
            if (fstat(fd, &stat) != 0 || stat.st_ino != right.st_ino)
                fail_msg("%s went through the link", ways[way].name);
            close(fd);
        }
    atomic_store(&e.end, true);
    pthread_join(thread, &failed);
    assert_null(failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_paths, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_exchanged, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
