/* How far the kernel reads ahead of a sequential reader on one mounted file system. */
#ifndef MOEFS_FS_KERNEL_READ_AHEAD_H
#define MOEFS_FS_KERNEL_READ_AHEAD_H

#include <stddef.h>

/* The default: see docs/measurements.md for how it was chosen. */
#define KERNEL_READ_AHEAD_DEFAULT ((size_t)1 << 20)
#define KERNEL_READ_AHEAD_MAX ((size_t)1 << 30)

/* Sets it for the file system with this device number. Only root may: who may not is told once in the log,
 * and the kernel's default (128 KiB) stays. To be called before the kernel's first request is answered. */
void kernel_read_ahead_set(unsigned major, unsigned minor, size_t bytes);

#endif
