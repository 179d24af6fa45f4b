/* Level 2's own parts: a run, one block of it, and one expert in one thread. */
#ifndef MOEFS_FS_VERIFY_FORWARD_BLOCK_H
#define MOEFS_FS_VERIFY_FORWARD_BLOCK_H

#include "forward.h"
#include "moe_reference.h"

/* What one block was given and gave: kept for --write-outputs. */
struct block_output {
    const char *block;
    uint64_t tokens, top_k, hidden;
    float *x, *weights, *output; /* owned: [tokens, hidden], [tokens, top_k], [tokens, hidden] */
    uint32_t *experts;           /* owned: [tokens, top_k] */
};

/* One thread's expert: its tokens on their way through both sides. */
struct forward_expert {
    bool active; /* some token is given to it */
    uint64_t number;
    struct moe_assignment *tokens[2]; /* fused, eager */
    struct moe_pass passes[2];
    float *memory;
    size_t n_slots, memory_size;
    bool neurons; /* gate and up are through */
};

struct forward {
    struct forward_options options;
    struct forward_input input;
    struct moe_forwards forwards;
    struct forward_expert *experts; /* one a thread */
    struct block_output *outputs;
    uint32_t n_outputs;
};

struct forward_block {
    struct forward *run;
    const struct logical_group *group;
    struct block_result *result;
    struct moe_forward eager_forward,
        fused_forward; /* as the source's config.json says, and the last side's */
    uint64_t n_experts, tokens, top_k, inner, hidden;
    float *x;             /* [tokens, hidden] */
    uint32_t *experts;    /* [tokens, top_k] */
    float *weights;       /* [tokens, top_k] */
    float *fused, *eager; /* [tokens, top_k, hidden]: each expert's share */
    atomic_bool incomplete;
};

/* The logical form of the part and projection, or NULL. */
const struct logical_form *forward_find_form(const struct forward_block *block, const char *part,
                                             enum proj proj);

/* Hidden states, and which experts each token is given: sets tokens to weights above. */
void forward_fill_inputs(struct forward_block *block);

/* struct bytes_watcher's functions; the context is the block. */
void forward_open(void *context, unsigned thread, uint64_t expert);
void forward_rows(void *context, unsigned thread, const struct logical_form *form, const struct slabs *slabs,
                  uint64_t first, uint64_t n);
void forward_close(void *context, unsigned thread);

#endif
