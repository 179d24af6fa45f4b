/* `moefs verify`: whether what is exposed holds the source's weights, by its files, its bytes and what it
 * computes.
 *
 * Level 0 (blobs.h, loading.h) checks files, level 1 (bytes.h, ungrouped.h) every tensor, level 2 (forward.h)
 * what the experts compute. verify_run() runs them and prints the verdict (verdict.h). */
#ifndef MOEFS_FS_VERIFY_H
#define MOEFS_FS_VERIFY_H

#include "fs/source/directory.h"
#include "fs/view/view.h"
#include "layout/plan.h"

struct verify_options {
    const char *src, *other;   /* other: MNT or DST, or NULL */
    const char *layers;        /* "0,3-5", checked; NULL: all */
    const char *write_digests; /* or NULL, like the next two */
    const char *check_digests;
    const char *write_outputs;
    uint64_t tokens; /* 0: 16, and every expert is visited */
    uint64_t seed;
    bool json;
    bool source; /* level 0 too */
    bool before_down;
};

/* What is open: the source as a mount would show it, and perhaps another directory that holds that. */
struct verify_input {
    const struct view *view;                 /* started */
    const struct plan_options *plan_options; /* what the view was made with */
    const struct directory *other;           /* or NULL */
};

/* Compares, and prints the report and its notes. 0: equal; 1: a difference was found; -1 with *err set: a
 * failure. */
int verify_run(const struct verify_options *options, const struct verify_input *input, struct error *err);

#endif
