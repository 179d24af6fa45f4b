/* The eager MoE forward: one expert, one token, one neuron after the other. What the fused one is held
 * against, on the checkpoint's original tensors. */
#ifndef MOEFS_FS_MOE_EAGER_H
#define MOEFS_FS_MOE_EAGER_H

#include "moe_reference.h"

/* scratch: moe_scratch_size(expert, 1) floats. */
void moe_eager_forward(const struct moe_function *function, const struct moe_expert *expert,
                       const struct moe_assignment *token, float *scratch);

#endif
