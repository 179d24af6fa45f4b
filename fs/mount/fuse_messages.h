/* What libfuse has to say. While there is a caller to be told it is kept for the error, and afterwards it goes to
 * the log, a line for each message. For the whole process: libfuse's messages have no context. Thread-safe. */
#ifndef MOEFS_FS_FUSE_MESSAGES_H
#define MOEFS_FS_FUSE_MESSAGES_H

#include "layout/base/error.h"

/* From here on they are kept; what was kept before is forgotten. */
void fuse_messages_keep(void);
/* From here on they are logged. */
void fuse_messages_log(void);

/* An error: what failed, and all that was kept. Returns -1. */
int fuse_messages_fail(struct error *err, const char *what);

#endif
