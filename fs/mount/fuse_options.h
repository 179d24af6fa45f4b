/* The grammar of fuse's -o: names or name=value, separated by commas; a backslash takes the next character's
 * meaning away. */
#ifndef MOEFS_FS_FUSE_OPTIONS_H
#define MOEFS_FS_FUSE_OPTIONS_H

#include "layout/base/error.h"

#include <stdbool.h>

struct fuse_options {
    char *text;      /* ours and the user's, for libfuse */
    bool nonempty;   /* the user's; libfuse 3 does not know it */
    bool allow_root; /* libfuse refuses other users' requests: the kernel must not answer any by itself */
};

/* source: the path that the mount table shows. given: what the user gave with -o, or NULL. -1 with *err set: an
 * option that moefs does not leave to the user. Free in either case. */
int fuse_options_make(const char *source, const char *given, struct fuse_options *options, struct error *err);
void fuse_options_free(struct fuse_options *options);

#endif
