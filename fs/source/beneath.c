/* openat2 that cannot leave a directory, and the same by walking. */
#include "beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TRIES_MAX 1000

static int close_keeping_errno(int fd)
{
    const int error = errno;

    close(fd);
    errno = error;
    return -1;
}

/* The next component: its length, and where the one behind it begins. */
static size_t component(const char *at, const char **next)
{
    const size_t length = strcspn(at, "/");

    *next = at + length + strspn(at + length, "/");
    return length;
}

int beneath_walk(int root, const char *path, int flags)
{
    int at = openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);

    while (at >= 0) {
        const char *next;
        char name[NAME_MAX + 1];
        const size_t length = component(path, &next);
        if (length > NAME_MAX || (length == 2 && memcmp(path, "..", 2) == 0) || *path == '/') {
            errno = length > NAME_MAX ? ENAMETOOLONG : EXDEV;
            return close_keeping_errno(at);
        }
        memcpy(name, length > 0 ? path : ".", length > 0 ? length : 1);
        name[length > 0 ? length : 1] = '\0';
        const int fd = *next ? openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                             : openat(at, name, flags | O_NOFOLLOW | O_CLOEXEC);
        close_keeping_errno(at);
        if (!*next)
            return fd;
        at = fd;
        path = next;
    }
    return -1;
}

int beneath_open(int root, const char *path, int flags)
{
    struct open_how how = {.flags = (unsigned)(flags | O_NOFOLLOW | O_CLOEXEC),
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    long fd = -1;

    if (!(flags & O_PATH)) /* beside O_PATH openat2 refuses it */
        how.flags |= O_LARGEFILE;
    /* EAGAIN: something was renamed or mounted meanwhile, and the kernel cannot tell whether it matters; or
     * somebody has a lease on the file, and then trying on would be in vain. */
    for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
        fd = syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof how);
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
            break;
    }
    /* EPERM is how older container runtimes refuse a call that they do not know. Where it means something
     * else, walking fails with it too. */
    if (fd < 0 && (errno == ENOSYS || errno == EPERM))
        return beneath_walk(root, path, flags);
    return (int)fd;
}
