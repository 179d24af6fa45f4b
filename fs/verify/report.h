/* What verify has found: the first differences in a fixed order, whichever thread found them, and the failure
 * that ended the run. Thread-safe but for report_begin(), report_free() and the notes. */
#ifndef MOEFS_FS_VERIFY_REPORT_H
#define MOEFS_FS_VERIFY_REPORT_H

#include "layout/base/error.h"

#include <pthread.h>
#include <stdint.h>

/* Which check found a difference: the checks' order in the report. */
enum difference_order {
    DIFFERENCE_BLOBS,
    DIFFERENCE_INDEX,
    DIFFERENCE_CONFIG,
    DIFFERENCE_GROUPS,
    DIFFERENCE_UNGROUPED,
    DIFFERENCE_UNEXPECTED,
    DIFFERENCE_DIGESTS
};

#define DIFFERENCE_NONE UINT64_MAX /* in place of a row, a column, a digest */

struct difference {
    enum difference_order order;
    uint64_t sequence;    /* within the order: the first difference has the smallest */
    const char *kind;     /* "bytes", "missing", "shape", "config", "function", "digest" ... */
    char *tensor;         /* owned: the logical tensor's name, the file's, or the key's in config.json */
    char *text;           /* owned: one sentence that says where */
    uint64_t row, column; /* or DIFFERENCE_NONE */
    uint64_t digest;      /* of the logical tensor, in struct digests, or DIFFERENCE_NONE */
};

struct report {
    pthread_mutex_t lock;           /* guards everything but the notes */
    struct difference *differences; /* the first ones, sorted */
    unsigned n_differences;
    uint64_t n_found;
    struct error failure; /* what ended the run */
    struct notes notes;   /* what a user must know beside the verdict */
};

void report_begin(struct report *report);
void report_free(struct report *report);
/* A place without row, column and digest. */
struct difference report_place(enum difference_order order, uint64_t sequence, const char *kind);
/* where: the order, the kind, and what else is known of the place. */
void report_difference(struct report *report, const struct difference *where, const char *tensor,
                       const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Keeps the first. Always returns -1. */
int report_failure(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
