/* Level 2: what each block's experts compute. The fused reference runs on the exposed tensors, the eager path
 * on the source's; each as its own config.json says, and both while an expert's bytes are in memory for
 * level 1.
 *
 * Built with the meson option `verify` (MOEFS_FORWARD); without it verify.c leaves level 2 out. */
#ifndef MOEFS_FS_VERIFY_FORWARD_H
#define MOEFS_FS_VERIFY_FORWARD_H

#include "bytes.h"

#include "layout/format/config.h"

/* What one block gave. */
struct block_result {
    const char *block;
    double max_abs, max_rel; /* of fused against eager; rel: to the layer's largest output */
    uint64_t token, column;  /* where max_abs is */
    uint64_t tokens, top_k, not_finite;
    bool routed;   /* by the checkpoint's own router */
    char *skipped; /* owned: why it was not computed, or NULL */
};

struct forward_options {
    uint64_t tokens; /* 0: 16, and every expert is visited */
    uint64_t seed;
    bool before_down; /* the fused path multiplies by the routing weight before down */
    bool keep;        /* for forward_write() */
};

struct forward_input {
    const struct layouts *layouts;
    const struct config *config[2]; /* the source's, and the last side's */
    const struct side *sides;       /* the source first, what is computed on last */
    unsigned n_sides, n_threads;
    struct report *report;
};

struct forward; /* of a run */
struct forward_block;

/* Both inputs must outlive it. NULL with *err set. */
struct forward *forward_new(const struct forward_options *options, const struct forward_input *input,
                            struct error *err);
void forward_free(struct forward *forward);

/* NULL where the block is not computed (the result says why). */
struct forward_block *forward_begin(struct forward *forward, const struct logical_group *group,
                                    struct block_result *result);
/* What bytes_compare() is to call for the block. */
struct bytes_watcher forward_watcher(struct forward_block *block);
/* Frees; and where level 1 read all of the group, compares fused with eager and sets the result. block may be
 * NULL. */
void forward_end(struct forward_block *block, bool complete);

/* --write-outputs: what each block was given and gave, as a safetensors file. */
int forward_write(const struct forward *forward, const char *path, struct error *err);

#endif
