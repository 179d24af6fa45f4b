/* What level 2 gives the experts: hidden states, and the routing by the checkpoint's router or a made one. */
#include "forward_block.h"

#include "moe_matrix.h"
#include "layout/base/splitmix.h"

#include <math.h>
#include <string.h>

#define TOKENS_DEFAULT 16

/* Multiples of 1/64 between -2 and 2: exact in BF16 and F16 too. */
static void fill_hidden_states(struct forward_block *block, uint64_t *state)
{
    for (uint64_t i = 0; i < block->tokens * block->hidden; i++)
        block->x[i] = (float)((int)(splitmix_next(state) % 255) - 127) / 64;
}

/* So that every expert is visited: token t is given top_k experts in a row, the next token the next ones. The
 * weights are exact in BF16. */
static void override_routing(struct forward_block *block, uint64_t *state)
{
    const uint64_t first = splitmix_next(state) % block->n_experts;

    for (uint64_t s = 0; s < block->tokens * block->top_k; s++) {
        block->experts[s] = (uint32_t)((first + s) % block->n_experts);
        block->weights[s] = (float)(1 + splitmix_next(state) % 128) / 128;
    }
}

/* One of the router's tensors as floats [n], malloc'd; NULL where the source has none of that name and shape.
 */
static float *load_router_tensor(const struct forward_block *block, const char *name, uint64_t rows,
                                 uint64_t columns)
{
    static const char hole[] = "{block}";
    const struct side *side = &block->run->input.sides[0];

    if (!name || strncmp(name, hole, strlen(hole)) != 0)
        return NULL;
    cleanup_free char *full = xasprintf("%s%s", block->group->group->block, name + strlen(hole));
    const struct side_tensor *tensor = side_find(side, full);
    if (!tensor || !moe_dtype_is_known(tensor->info.dtype) || tensor->info.n_dims == 0 ||
        tensor->length != rows * columns * (dtype_bits(tensor->info.dtype) / 8))
        return NULL;
    cleanup_free void *bytes = xmalloc(tensor->length);
    if (side_read(side, tensor->file, tensor->offset, bytes, tensor->length) != 0)
        return NULL;
    const struct moe_matrix matrix = {.first = bytes,
                                      .dtype = tensor->info.dtype,
                                      .rows = rows,
                                      .columns = columns,
                                      .row_stride = columns,
                                      .column_stride = 1};
    float *result = xreallocarray(NULL, rows * columns, sizeof *result);
    moe_matrix_rows(&matrix, 0, rows, result);
    return result;
}

static void score_token(const struct forward_block *block, const float *logits, float *scores)
{
    float largest = -INFINITY, sum = 0;

    for (uint64_t e = 0; e < block->n_experts; e++)
        largest = logits[e] > largest ? logits[e] : largest;
    for (uint64_t e = 0; e < block->n_experts; e++) {
        scores[e] = block->eager_forward.router.scores == MOE_SCORES_SOFTMAX ? expf(logits[e] - largest)
                                                                             : 1 / (1 + expf(-logits[e]));
        sum += scores[e];
    }
    if (block->eager_forward.router.scores == MOE_SCORES_SOFTMAX)
        for (uint64_t e = 0; e < block->n_experts; e++)
            scores[e] /= sum;
}

/* The top_k experts by score (and correction); their scores are the weights. */
static void choose_experts(struct forward_block *block, uint64_t token, const float *scores,
                           const float *correction)
{
    uint32_t *experts = block->experts + token * block->top_k;
    float *weights = block->weights + token * block->top_k, sum = 0;

    for (uint64_t k = 0; k < block->top_k; k++) {
        float best = -INFINITY;
        experts[k] = (uint32_t)k;
        for (uint32_t e = 0; e < block->n_experts; e++) {
            const float value = scores[e] + (correction ? correction[e] : 0);
            bool taken = false;
            for (uint64_t i = 0; i < k; i++)
                taken |= experts[i] == e;
            if (!taken && value > best) {
                best = value;
                experts[k] = e;
            }
        }
        weights[k] = scores[experts[k]];
        sum += weights[k];
    }
    for (uint64_t k = 0; k < block->top_k; k++)
        weights[k] = (block->eager_forward.router.normalize ? weights[k] / sum : weights[k]) *
                     block->eager_forward.router.scale;
}

static bool route(struct forward_block *block)
{
    const uint64_t n = block->n_experts;

    if (block->eager_forward.router.scores == MOE_SCORES_GIVEN)
        return false;
    cleanup_free float *weight =
        load_router_tensor(block, block->eager_forward.router.weight, n, block->hidden);
    cleanup_free float *bias = load_router_tensor(block, block->eager_forward.router.bias, 1, n);
    cleanup_free float *correction = load_router_tensor(block, block->eager_forward.router.correction, 1, n);
    if (!weight || (block->eager_forward.router.bias && !bias) ||
        (block->eager_forward.router.correction && !correction))
        return false;
    cleanup_free float *logits = xreallocarray(NULL, 2 * n, sizeof *logits);
    for (uint64_t t = 0; t < block->tokens; t++) {
        for (uint64_t e = 0; e < n; e++)
            logits[e] = moe_dot(block->x + t * block->hidden, weight + e * block->hidden, block->hidden) +
                        (bias ? bias[e] : 0);
        score_token(block, logits, logits + n);
        choose_experts(block, t, logits + n, correction);
    }
    return true;
}

static void *new_floats(uint64_t a, uint64_t b, uint64_t c)
{
    return xcalloc(a * b * c, sizeof(float));
}

void forward_fill_inputs(struct forward_block *block)
{
    const uint64_t wanted = block->run->options.tokens;
    uint64_t state = block->run->options.seed;
    const uint64_t needed = (block->n_experts + TOKENS_DEFAULT - 1) / TOKENS_DEFAULT;

    block->tokens = wanted > 0 ? wanted : TOKENS_DEFAULT;
    block->top_k = block->eager_forward.router.top_k;
    if (wanted == 0 && block->top_k < needed)
        block->top_k = needed;
    if (block->top_k > block->n_experts)
        block->top_k = block->n_experts;
    block->x = new_floats(block->tokens, block->hidden, 1);
    block->experts = xcalloc(block->tokens * block->top_k, sizeof *block->experts);
    block->weights = new_floats(block->tokens, block->top_k, 1);
    block->fused = new_floats(block->tokens, block->top_k, block->hidden);
    block->eager = new_floats(block->tokens, block->top_k, block->hidden);
    fill_hidden_states(block, &state);
    block->result->routed = wanted > 0 && route(block);
    if (!block->result->routed)
        override_routing(block, &state);
}
