/* How far a run of verify is: a line on a terminal's standard error, and the bytes and seconds of the
 * verdict. progress_add() is thread-safe. */
#ifndef MOEFS_FS_VERIFY_PROGRESS_H
#define MOEFS_FS_VERIFY_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct progress {
    atomic_uint_least64_t bytes; /* compared so far */
    uint64_t total;
    bool show; /* standard error is a terminal */
    struct timespec begin;
    atomic_uint_least64_t shown; /* milliseconds since begin */
};

void progress_begin(struct progress *progress, uint64_t total);
void progress_add(struct progress *progress, uint64_t bytes);
void progress_end(const struct progress *progress); /* takes the line away */
double progress_seconds(const struct progress *progress);

#endif
