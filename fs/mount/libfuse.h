/* libfuse's low-level interface, of the version that all of this folder is written for. */
#ifndef MOEFS_FS_LIBFUSE_H
#define MOEFS_FS_LIBFUSE_H

/* 3.14's, which later releases still offer. */
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#endif
