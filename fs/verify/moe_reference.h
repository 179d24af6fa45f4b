/* The fused MoE forward, one expert at a time: tokens are grouped by expert, and all tokens of an expert go
 * through its weights together. Simple enough to be read as the definition:
 *
 *     y[t] = sum over the experts e of token t:  w[t,e] * (h @ down[e]^T + b_down[e])
 *     h    = act(x[t] @ gate[e]^T + b_gate[e]) * (x[t] @ up[e]^T + b_up[e])
 *
 * with w before `down` or on x where the function says so. Sums are FP32, whatever the weights' type. The
 * weights may come a few rows at a time, in any order: begin, then rows of gate and of up, then the neurons,
 * then rows of down, then end. */
#ifndef MOEFS_FS_VERIFY_MOE_REFERENCE_H
#define MOEFS_FS_VERIFY_MOE_REFERENCE_H

#include "moe_forward.h"
#include "moe_matrix.h"

#include <stddef.h>

/* A token that an expert is given. */
struct moe_assignment {
    const float *x; /* [H] */
    float weight;
    float *y; /* [H]: this expert's share of the token's output */
};

/* The tokens of one expert on their way through it. */
struct moe_pass {
    const struct moe_forward *forward;
    const struct moe_assignment *tokens;
    size_t n;
    uint64_t inner, hidden;
    bool has_gate;
    float *x, *gate, *up, *y; /* [n, H], [n, I], [n, I] (then h), [n, H] */
    float *scratch;           /* for rows as floats */
};

/* Floats that a pass needs. */
size_t moe_pass_size(uint64_t inner, uint64_t hidden, size_t n);
/* Everything but the arrays is set by the caller; they are laid out in `memory`. */
void moe_pass_begin(struct moe_pass *pass, float *memory);

/* y[t][first + r] = x[t] . row r (+ bias[first + r]), for all tokens; rows: some of the `total` rows of gate,
 * up or down. bias: one row of `total`; first NULL: none. */
void moe_reference_rows(const struct moe_pass *pass, const struct moe_matrix *rows, uint64_t first,
                        uint64_t total, const struct moe_matrix *bias, const float *x, float *y);
/* From gate and up to h, in up's place. */
void moe_reference_neurons(struct moe_pass *pass);
/* From y to the tokens' shares. */
void moe_reference_end(const struct moe_pass *pass);

#endif
