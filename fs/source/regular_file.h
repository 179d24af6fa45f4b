/* Opening one regular file of a directory: never anything else, never through a link. */
#ifndef MOEFS_FS_REGULAR_FILE_H
#define MOEFS_FS_REGULAR_FILE_H

#include "layout/base/error.h"

#include <stddef.h>
#include <sys/stat.h>

/* Sets the message for a system call that failed on `path`: "<path> <what>: <reason>", with the cause that a
 * user can do something about where the errno has one. Always returns -1. */
int regular_file_error(struct error *err, const char *path, const char *what, int error_number);

/* Opens target below the held directory `root` (beneath.h), which must still be the regular file that
 * `expected` describes; *expected is then what fstat says of the open descriptor. path is for messages;
 * n_needed is the number of files that will be open in all, for the message when the limit is too low. The
 * descriptor, or -1 with *err set. */
int regular_file_open(const char *path, int root, const char *target, size_t n_needed, struct stat *expected,
                      struct error *err);

#endif
