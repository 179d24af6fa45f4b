/* What level 2 gives the experts: hidden states, and the routing by the checkpoint's router or a made one. */
#include "forward.h"

#include "moe_matrix.h"

#include <math.h>
#include <string.h>

#define TOKENS_DEFAULT 16

/* SplitMix64: the same numbers everywhere. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Multiples of 1/64 between -2 and 2: exact in BF16 and F16 too. */
static void fill_hidden_states(struct function_run *run, uint64_t *state)
{
    for (uint64_t i = 0; i < run->tokens * run->hidden; i++)
        run->x[i] = (float)((int)(next_random(state) % 255) - 127) / 64;
}

/* So that every expert is visited: token t is given top_k experts in a row, the next token the next ones. The
 * weights are exact in BF16. */
static void override_routing(struct function_run *run, uint64_t *state)
{
    const uint64_t first = next_random(state) % run->n_experts;

    for (uint64_t s = 0; s < run->tokens * run->top_k; s++) {
        run->experts[s] = (uint32_t)((first + s) % run->n_experts);
        run->weights[s] = (float)(1 + next_random(state) % 128) / 128;
    }
}

/* One of the router's tensors as floats [n], malloc'd; NULL where the source has none of that name and shape.
 */
static float *load_router_tensor(const struct function_run *run, const char *name, uint64_t rows,
                                 uint64_t columns)
{
    static const char hole[] = "{block}";
    const struct side *side = &run->verify->sides[0];

    if (!name || strncmp(name, hole, strlen(hole)) != 0)
        return NULL;
    cleanup_free char *full = xasprintf("%s%s", run->group->group->block, name + strlen(hole));
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

static void score_token(const struct function_run *run, const float *logits, float *scores)
{
    float largest = -INFINITY, sum = 0;

    for (uint64_t e = 0; e < run->n_experts; e++)
        largest = logits[e] > largest ? logits[e] : largest;
    for (uint64_t e = 0; e < run->n_experts; e++) {
        scores[e] = run->function.router.scores == MOE_SCORES_SOFTMAX ? expf(logits[e] - largest)
                                                                      : 1 / (1 + expf(-logits[e]));
        sum += scores[e];
    }
    if (run->function.router.scores == MOE_SCORES_SOFTMAX)
        for (uint64_t e = 0; e < run->n_experts; e++)
            scores[e] /= sum;
}

/* The top_k experts by score (and correction); their scores are the weights. */
static void choose_experts(struct function_run *run, uint64_t token, const float *scores,
                           const float *correction)
{
    uint32_t *experts = run->experts + token * run->top_k;
    float *weights = run->weights + token * run->top_k, sum = 0;

    for (uint64_t k = 0; k < run->top_k; k++) {
        float best = -INFINITY;
        experts[k] = (uint32_t)k;
        for (uint32_t e = 0; e < run->n_experts; e++) {
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
    for (uint64_t k = 0; k < run->top_k; k++)
        weights[k] =
            (run->function.router.normalize ? weights[k] / sum : weights[k]) * run->function.router.scale;
}

static bool route(struct function_run *run)
{
    const uint64_t n = run->n_experts;

    if (run->function.router.scores == MOE_SCORES_GIVEN)
        return false;
    cleanup_free float *weight = load_router_tensor(run, run->function.router.weight, n, run->hidden);
    cleanup_free float *bias = load_router_tensor(run, run->function.router.bias, 1, n);
    cleanup_free float *correction = load_router_tensor(run, run->function.router.correction, 1, n);
    if (!weight || (run->function.router.bias && !bias) || (run->function.router.correction && !correction))
        return false;
    cleanup_free float *logits = xreallocarray(NULL, 2 * n, sizeof *logits);
    for (uint64_t t = 0; t < run->tokens; t++) {
        for (uint64_t e = 0; e < n; e++)
            logits[e] = moe_dot(run->x + t * run->hidden, weight + e * run->hidden, run->hidden) +
                        (bias ? bias[e] : 0);
        score_token(run, logits, logits + n);
        choose_experts(run, t, logits + n, correction);
    }
    return true;
}

static void *new_floats(uint64_t a, uint64_t b, uint64_t c)
{
    return xcalloc(a * b * c, sizeof(float));
}

void function_fill_inputs(struct function_run *run)
{
    const uint64_t wanted = run->verify->options->tokens;
    uint64_t state = run->verify->options->seed;
    const uint64_t needed = (run->n_experts + TOKENS_DEFAULT - 1) / TOKENS_DEFAULT;

    run->tokens = wanted > 0 ? wanted : TOKENS_DEFAULT;
    run->top_k = run->function.router.top_k;
    if (wanted == 0 && run->top_k < needed)
        run->top_k = needed;
    if (run->top_k > run->n_experts)
        run->top_k = run->n_experts;
    run->x = new_floats(run->tokens, run->hidden, 1);
    run->experts = xcalloc(run->tokens * run->top_k, sizeof *run->experts);
    run->weights = new_floats(run->tokens, run->top_k, 1);
    run->fused = new_floats(run->tokens, run->top_k, run->hidden);
    run->eager = new_floats(run->tokens, run->top_k, run->hidden);
    fill_hidden_states(run, &state);
    run->result->routed = wanted > 0 && route(run);
    if (!run->result->routed)
        override_routing(run, &state);
}
