/* read_ahead_kb below /sys/class/bdi: read by the helper, written by the daemon. */
#include "bdi.h"

#include "fs/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define PATH_BYTES 64

static void make_path(dev_t device, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "/sys/class/bdi/%u:%u/read_ahead_kb", major(device), minor(device));
}

size_t bdi_read_ahead(dev_t device)
{
    char path[PATH_BYTES], text[32] = "";
    size_t kib = 0;

    make_path(device, path);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    if (read(fd, text, sizeof text - 1) > 0)
        sscanf(text, "%zu", &kib);
    close(fd);
    return kib << 10;
}

void bdi_set_read_ahead(dev_t device, size_t bytes)
{
    char path[PATH_BYTES], text[32];

    make_path(device, path);
    const int length = snprintf(text, sizeof text, "%zu\n", bytes >> 10);
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, (size_t)length) != length)
        log_line(LOG_LEVEL_INFO, "%s: %s: the kernel reads 128 KiB ahead, which is slower for mmap", path,
                 strerror(errno));
    if (fd >= 0)
        close(fd);
}
