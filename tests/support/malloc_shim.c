/* LD_PRELOAD: memory runs out once the program has mounted something. MALLOC_SHIM="FIRST COUNT": of the allocations
 * behind the first successful mount(2), counted from 0, those numbered FIRST to FIRST + COUNT - 1 fail. Off without
 * it. Where MALLOC_SHIM_LOG names a file, it holds a byte for each of those that failed. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHIM __attribute__((visibility("default")))

/* glibc's own, under the names that it exports for this. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static atomic_bool mounted;
static atomic_ulong calls;

SHIM int mount(const char *source, const char *target, const char *type, unsigned long flags,
               const void *data)
{
    const long result = syscall(SYS_mount, source, target, type, flags, data);

    if (result == 0)
        atomic_store(&mounted, true);
    return (int)result;
}

static bool fails(void)
{
    if (!atomic_load(&mounted))
        return false;
    const char *range = getenv("MALLOC_SHIM"), *log = getenv("MALLOC_SHIM_LOG");
    if (!range)
        return false;
    char *rest;
    const unsigned long first = strtoul(range, &rest, 10), count = strtoul(rest, NULL, 10);
    const unsigned long n = atomic_fetch_add(&calls, 1);
    if (n < first || n - first >= count)
        return false;
    const int fd = log ? open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
    if (fd >= 0) {
        (void)!write(fd, "x", 1);
        close(fd);
    }
    errno = ENOMEM;
    return true;
}

SHIM void *malloc(size_t size)
{
    return fails() ? NULL : __libc_malloc(size);
}

SHIM void *calloc(size_t n, size_t size)
{
    return fails() ? NULL : __libc_calloc(n, size);
}

SHIM void *realloc(void *old, size_t size)
{
    return fails() ? NULL : __libc_realloc(old, size);
}

SHIM int posix_memalign(void **memory, size_t alignment, size_t size)
{
    *memory = fails() ? NULL : __libc_memalign(alignment, size);
    return *memory ? 0 : ENOMEM;
}
