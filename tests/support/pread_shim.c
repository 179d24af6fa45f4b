/* LD_PRELOAD: makes pread answer as it is allowed to and seldom does: short, or interrupted by a signal.
 * On where PREAD_SHIM_SEED holds a number, which also decides the sequence. Never returns 0 where bytes are
 * there. */
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_uint_fast64_t calls;

static uint64_t next_random(uint64_t seed)
{
    uint64_t x = (seed + atomic_fetch_add(&calls, 1)) * UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static ssize_t shim(int fd, void *buffer, size_t length, off_t offset)
{
    const char *seed = getenv("PREAD_SHIM_SEED");

    if (seed && length > 0) {
        uint64_t x = next_random(strtoull(seed, NULL, 10));
        if (x % 4 == 0) {
            errno = EINTR;
            return -1;
        }
        if (x % 4 == 1)
            length = 1 + (size_t)((x >> 8) % length);
    }
    return syscall(SYS_pread64, fd, buffer, length, offset);
}

/* Both names of the function: which one a program calls depends on _FILE_OFFSET_BITS. */
#undef pread
#undef pread64
__attribute__((visibility("default"))) ssize_t shim_pread(int, void *, size_t, off_t) __asm__("pread");
__attribute__((visibility("default"))) ssize_t shim_pread64(int, void *, size_t, off_t) __asm__("pread64");

ssize_t shim_pread(int fd, void *buffer, size_t length, off_t offset)
{
    return shim(fd, buffer, length, offset);
}

ssize_t shim_pread64(int fd, void *buffer, size_t length, off_t offset)
{
    return shim(fd, buffer, length, offset);
}
