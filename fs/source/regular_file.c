#include "regular_file.h"

#include "layout/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define LFS_POINTER_MAX 1024 /* bytes; git-lfs' own limit for a pointer file */

int regular_file_error(struct error *err, const char *path, const char *what, int error_number)
{
    const char *advice = "";

    if ((error_number == EACCES || error_number == EPERM) && !geteuid())
        advice = " (root is refused too where a network file system maps it to another user, root_squash: "
                 "run moefs "
                 "as the user who owns the files)";
    return error_set(err, "%s %s: %s%s", path, what, strerror(error_number), advice);
}

static int open_error(struct error *err, const char *path, size_t n_needed, int error_number)
{
    struct rlimit limit = {0};

    if (error_number != EMFILE)
        return regular_file_error(err, path, "cannot be opened", error_number);
    getrlimit(RLIMIT_NOFILE, &limit);
    return error_set(err,
                     "%s cannot be opened: %zu files have to be held open and the limit is %llu; raise it "
                     "(ulimit -Hn), or hide files with --exclude",
                     path, n_needed, (unsigned long long)limit.rlim_cur);
}

int regular_file_open(const char *path, const char *target, size_t n_needed, struct stat *expected,
                      struct error *err)
{
    struct stat now;

    /* O_NONBLOCK: were it replaced by a fifo since it was looked at, open must not wait for a writer. */
    int fd = open(target, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return open_error(err, path, n_needed, errno);
    if (fstat(fd, &now)) {
        regular_file_error(err, path, "cannot be opened", errno);
        goto fail;
    }
    if (!S_ISREG(now.st_mode) || now.st_dev != expected->st_dev || now.st_ino != expected->st_ino) {
        error_set(err, "%s was replaced while it was being opened", path);
        goto fail;
    }
    if (fcntl(fd, F_SETFL, 0)) {
        regular_file_error(err, path, "cannot be opened", errno);
        goto fail;
    }
    *expected = now;
    return fd;
fail:
    close(fd);
    return -1;
}

int regular_file_read(int fd, const char *path, uint64_t offset, void *buffer, size_t length,
                      struct error *err)
{
    char *to = buffer;
    size_t done = 0;

    while (done < length) {
        ssize_t n = pread(fd, to + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return regular_file_error(err, path, "cannot be read", errno);
        if (!n)
            return error_set(err,
                             "%s ends at byte %llu while %zu bytes at %llu are being read: it was truncated",
                             path, (unsigned long long)(offset + done), length, (unsigned long long)offset);
        done += (size_t)n;
    }
    return 0;
}

char *regular_file_load(int fd, const char *path, uint64_t size, uint64_t limit, struct error *err)
{
    if (size > limit) {
        error_set(err, "%s has %llu bytes, more than the %llu that such a file may have", path,
                  (unsigned long long)size, (unsigned long long)limit);
        return NULL;
    }
    char *text = xmalloc(size);
    if (regular_file_read(fd, path, 0, text, size, err)) {
        free(text);
        return NULL;
    }
    return text;
}

bool regular_file_is_lfs_pointer(int fd, uint64_t size)
{
    static const char start[] = "version https://git-lfs.github.com/spec/";
    char head[sizeof start - 1];

    if (size < sizeof head || size > LFS_POINTER_MAX)
        return false;
    return pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head && !memcmp(head, start, sizeof head);
}
