/* Level 2's own parts: a run over one group (verify_function.c) and what it is given (verify_routing.c). */
#ifndef MOEFS_FS_VERIFY_FUNCTION_H
#define MOEFS_FS_VERIFY_FUNCTION_H

#include "moe_function.h"
#include "verify.h"

struct function_run {
    struct verify *verify;
    const struct logical_group *group;
    struct block_result *result;
    struct moe_function function;
    uint64_t n_experts, tokens, top_k, inner, hidden;
    float *x;             /* [tokens, hidden] */
    uint32_t *experts;    /* [tokens, top_k] */
    float *weights;       /* [tokens, top_k] */
    float *fused, *eager; /* [tokens, top_k, hidden]: each expert's share */
    atomic_bool incomplete;
};

/* Hidden states, and which experts each token is given: sets tokens to weights above. */
void function_fill_inputs(struct function_run *run);

#endif
