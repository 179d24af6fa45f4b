/* The fused MoE forward, one expert at a time: tokens are grouped by expert, and all tokens of an expert go
 * through its weights together. Simple enough to be read as the definition:
 *
 *     y[t] = sum over the experts e of token t:  w[t,e] * (h @ down[e]^T + b_down[e])
 *     h    = act(x[t] @ gate[e]^T + b_gate[e]) * (x[t] @ up[e]^T + b_up[e])
 *
 * with w before `down` or on x where the function says so. Sums are FP32, whatever the weights' type. */
#ifndef MOEFS_FS_MOE_REFERENCE_H
#define MOEFS_FS_MOE_REFERENCE_H

#include "moe_function.h"
#include "moe_matrix.h"

#include <stddef.h>

/* One expert's weights, wherever they lie. A bias is a matrix of one row. */
struct moe_expert {
    struct moe_matrix gate, up, down;                /* [I, H], [I, H], [H, I]; gate.first NULL: no gate */
    struct moe_matrix gate_bias, up_bias, down_bias; /* first NULL: none */
};

/* A token that an expert is given. */
struct moe_assignment {
    const float *x; /* [H] */
    float weight;
    float *y; /* [H]: this expert's share of the token's output */
};

/* Floats that one call of either path needs for n tokens. */
size_t moe_scratch_size(const struct moe_expert *expert, size_t n);

void moe_reference_forward(const struct moe_function *function, const struct moe_expert *expert,
                           const struct moe_assignment *tokens, size_t n, float *scratch);

#endif
