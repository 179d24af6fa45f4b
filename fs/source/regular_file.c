/* Opening regular files, and the messages of what fails. */
#include "regular_file.h"

#include "beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int regular_file_error(struct error *err, const char *path, const char *what, int error_number)
{
    const char *advice = "";

    if ((error_number == EACCES || error_number == EPERM) && geteuid() == 0)
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

int regular_file_open(const char *path, int root, const char *target, size_t n_needed, struct stat *expected,
                      struct error *err)
{
    struct stat now;

    /* O_NONBLOCK: were it replaced by a fifo since it was looked at, open must not wait for a writer. */
    int fd = beneath_open(root, target, O_RDONLY | O_NONBLOCK);
    if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
        return error_set(err, "%s was replaced while it was being opened", path);
    if (fd < 0)
        return open_error(err, path, n_needed, errno);
    if (fstat(fd, &now) < 0) {
        regular_file_error(err, path, "cannot be opened", errno);
        goto fail;
    }
    if (!S_ISREG(now.st_mode) || now.st_dev != expected->st_dev || now.st_ino != expected->st_ino) {
        error_set(err, "%s was replaced while it was being opened", path);
        goto fail;
    }
    if (fcntl(fd, F_SETFL, 0) < 0) {
        regular_file_error(err, path, "cannot be opened", errno);
        goto fail;
    }
    *expected = now;
    return fd;
fail:
    close(fd);
    return -1;
}
