#include "bdi.h"

#include "fs/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void kernel_read_ahead_set(unsigned major, unsigned minor, size_t bytes)
{
    char path[64], text[32];

    snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", major, minor);
    const int length = snprintf(text, sizeof text, "%zu\n", bytes >> 10);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, (size_t)length) != length)
        log_line(LOG_LEVEL_INFO, "%s: %s: the kernel reads 128 KiB ahead, which is slower for mmap", path,
                 strerror(errno));
    if (fd >= 0)
        close(fd);
}
