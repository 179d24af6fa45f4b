/* A mounted file system's backing device: how far the kernel reads ahead of a sequential reader. */
#ifndef MOEFS_FS_BDI_H
#define MOEFS_FS_BDI_H

#include <stddef.h>
#include <sys/types.h>

/* The default: see docs/measurements.md for how it was chosen. */
#define BDI_READ_AHEAD_DEFAULT ((size_t)1 << 20)
#define BDI_READ_AHEAD_MAX ((size_t)1 << 30)

/* Bytes, for the file system with this device number; 0 where the kernel does not say. */
size_t bdi_read_ahead(dev_t device);

/* Sets it to whole KiB. Only root may: who may not is told once in the log, and the kernel's default (128 KiB)
 * stays. */
void bdi_set_read_ahead(dev_t device, size_t bytes);

#endif
