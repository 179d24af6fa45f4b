/* The eager MoE forward: one expert, one token, one neuron after the other. What the fused one is held
 * against, on the checkpoint's original tensors. The weights may come a few rows at a time here too. */
#ifndef MOEFS_FS_VERIFY_MOE_EAGER_H
#define MOEFS_FS_VERIFY_MOE_EAGER_H

#include "moe_reference.h"

/* y[t][first + r] = x[t] . row r + bias, token by token. */
void moe_eager_rows(const struct moe_pass *pass, const struct moe_matrix *rows, uint64_t first,
                    uint64_t total, const struct moe_matrix *bias, const float *x, float *y);
void moe_eager_neurons(struct moe_pass *pass);
void moe_eager_end(const struct moe_pass *pass);

#endif
