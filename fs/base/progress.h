/* How far a long run is: a line on a terminal's standard error, and the bytes and seconds of the summary.
 * progress_add() and progress_add_file() are thread-safe. */
#ifndef MOEFS_FS_PROGRESS_H
#define MOEFS_FS_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct progress {
    atomic_uint_least64_t bytes; /* done so far */
    uint64_t total;
    atomic_uint files; /* done so far */
    unsigned n_files;  /* 0: the line does not speak of files */
    bool show;         /* standard error is a terminal */
    struct timespec begin;
    atomic_uint_least64_t shown; /* milliseconds since begin */
};

void progress_begin(struct progress *progress, uint64_t total);
void progress_add(struct progress *progress, uint64_t bytes);
void progress_add_file(struct progress *progress);  /* shown with the next bytes */
void progress_end(const struct progress *progress); /* takes the line away */
double progress_seconds(const struct progress *progress);

#endif
