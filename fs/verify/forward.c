/* Level 2 of a run, block by block: what is computed, and whether both sides give the same. */
#include "forward_block.h"

#include "layout/base/checked.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Both paths sum the same products in FP32, in another order: docs/verify.md. */
#define TOLERANCE 1e-5

/* ---- a run ---- */

struct forward *forward_new(const struct forward_options *options, const struct forward_input *input,
                            struct error *err)
{
    struct forward *forward = xcalloc(1, sizeof *forward);

    *forward = (struct forward){.options = *options, .input = *input};
    if (moe_forwards_load(&forward->forwards, err) < 0) {
        free(forward);
        return NULL;
    }
    forward->experts = xcalloc(input->n_threads, sizeof *forward->experts);
    return forward;
}

void forward_free(struct forward *forward)
{
    if (!forward)
        return;
    for (unsigned t = 0; t < forward->input.n_threads; t++) {
        free(forward->experts[t].tokens[0]);
        free(forward->experts[t].tokens[1]);
        free(forward->experts[t].memory);
    }
    free(forward->experts);
    for (uint32_t o = 0; o < forward->n_outputs; o++) {
        free(forward->outputs[o].x);
        free(forward->outputs[o].weights);
        free(forward->outputs[o].output);
        free(forward->outputs[o].experts);
    }
    free(forward->outputs);
    moe_forwards_free(&forward->forwards);
    free(forward);
}

/* ---- what a block computes ---- */

/* Why the block cannot be computed, or NULL. */
static const char *find_obstacle(const struct forward_block *block)
{
    static const char *const parts[] = {"weight", "bias", "scale_inv"};

    if (block->eager_forward.unknown)
        return block->eager_forward.unknown;
    if (block->fused_forward.unknown)
        return block->fused_forward.unknown;
    if (!forward_find_form(block, "weight", PROJ_UP) || !forward_find_form(block, "weight", PROJ_DOWN))
        return "its weights are not stored as such";
    for (unsigned f = 0; f < block->group->n_forms; f++) {
        const struct logical_form *form = &block->group->forms[f];
        const struct side_tensor *const *members = block->group->members[0][form->at[0].form];
        const char *part = block->group->layouts->parts[form->part];
        bool known = false;
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            known |= strcmp(part, parts[i]) == 0;
        if (!known || !moe_dtype_is_known(members[0]->info.dtype))
            return "its weights are of a type that is not computed with here";
        if (form->elements == 0)
            return "its weights are empty";
    }
    return block->group->group->n_companions > 0 ? "its weights have companions that are not known here"
                                                 : NULL;
}

static bool same_text(const char *a, const char *b)
{
    return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

/* The experts' own function is compared by what it gives; the router chooses who computes. */
static void compare_routers(const struct forward_block *block)
{
    const struct moe_router *want = &block->eager_forward.router, *got = &block->fused_forward.router;
    const struct forward_input *input = &block->run->input;
    const struct difference place =
        report_place(DIFFERENCE_CONFIG, UINT32_MAX + block->group->number, "function");

    if (want->scores == got->scores && want->top_k == got->top_k && want->normalize == got->normalize &&
        want->scale == got->scale && same_text(want->weight, got->weight) &&
        same_text(want->bias, got->bias) && same_text(want->correction, got->correction))
        return;
    report_difference(input->report, &place, block->group->title,
                      "by %s's config.json its router is another one: %" PRIu64
                      " experts a token, scaled by %g%s; the "
                      "source's: %" PRIu64 ", scaled by %g%s",
                      input->sides[input->n_sides - 1].title, got->top_k, (double)got->scale,
                      got->normalize ? ", normalised" : "", want->top_k, (double)want->scale,
                      want->normalize ? ", normalised" : "");
}

struct forward_block *forward_begin(struct forward *forward, const struct logical_group *group,
                                    struct block_result *result)
{
    struct forward_block *block = xcalloc(1, sizeof *block);
    const struct axis_words *words = &group->layouts->words;

    *block = (struct forward_block){.run = forward, .group = group, .result = result};
    *result = (struct block_result){.block = group->title};
    block->eager_forward = moe_forward_of(&forward->forwards, forward->input.config[0], group->group->block);
    block->fused_forward = moe_forward_of(&forward->forwards, forward->input.config[1], group->group->block);
    compare_routers(block);
    const char *obstacle = find_obstacle(block);
    if (obstacle) {
        result->skipped = xstrdup(obstacle);
        free(block);
        return NULL;
    }
    if (forward->options.before_down && block->fused_forward.weighting == MOE_WEIGHT_OUTPUT)
        block->fused_forward.weighting = MOE_WEIGHT_BEFORE_DOWN;
    const struct logical_form *up = forward_find_form(block, "weight", PROJ_UP),
                              *down = forward_find_form(block, "weight", PROJ_DOWN);
    block->n_experts = min_u64(up->count, down->count);
    block->inner = group->group->sizes[axis_find(words, "inner")];
    block->hidden = group->group->sizes[axis_find(words, "hidden")];
    forward_fill_inputs(block);
    return block;
}

struct bytes_watcher forward_watcher(struct forward_block *block)
{
    return (struct bytes_watcher){
        .context = block, .open = forward_open, .rows = forward_rows, .close = forward_close};
}

/* ---- what it gave ---- */

/* Sums each token's shares into the first one's place. */
static void sum_shares(const struct forward_block *block, float *shares)
{
    for (uint64_t t = 0; t < block->tokens; t++)
        for (uint64_t c = 0; c < block->hidden; c++) {
            float sum = 0;
            for (uint64_t k = 0; k < block->top_k; k++)
                sum += shares[(t * block->top_k + k) * block->hidden + c];
            shares[t * block->hidden + c] = sum; /* no share of a later token lies there */
        }
}

static void compare_outputs(const struct forward_block *block)
{
    const struct forward_input *input = &block->run->input;
    struct block_result *result = block->result;
    double largest = 0;

    result->tokens = block->tokens;
    result->top_k = block->top_k;
    for (uint64_t i = 0; i < block->tokens * block->hidden; i++) {
        const double got = (double)block->fused[i], want = (double)block->eager[i];
        if (!isfinite(got) && !isfinite(want)) {
            result->not_finite++;
            continue;
        }
        const double distance = isfinite(got) && isfinite(want) ? fabs(got - want) : INFINITY;
        if (isfinite(want) && fabs(want) > largest)
            largest = fabs(want);
        if (distance > result->max_abs) {
            result->max_abs = distance;
            result->token = i / block->hidden;
            result->column = i % block->hidden;
        }
    }
    result->max_rel = result->max_abs > 0 ? result->max_abs / largest : 0;
    if (result->max_abs <= TOLERANCE * largest)
        return;
    struct difference place =
        report_place(DIFFERENCE_GROUPS, (block->group->number << 32) + UINT32_MAX, "function");
    place.row = result->token;
    place.column = result->column;
    report_difference(input->report, &place, block->group->title,
                      "token %" PRIu64 ", column %" PRIu64 ": the original tensors give %.9g, %s gives %.9g "
                      "(largest output %.9g)",
                      result->token, result->column,
                      (double)block->eager[result->token * block->hidden + result->column],
                      input->sides[input->n_sides - 1].title,
                      (double)block->fused[result->token * block->hidden + result->column], largest);
}

/* Hands over what forward_write() writes. */
static void keep_outputs(struct forward_block *block)
{
    struct forward *run = block->run;

    run->outputs = xreallocarray(run->outputs, run->n_outputs + 1, sizeof *run->outputs);
    run->outputs[run->n_outputs++] = (struct block_output){.block = block->group->title,
                                                           .tokens = block->tokens,
                                                           .top_k = block->top_k,
                                                           .hidden = block->hidden,
                                                           .x = block->x,
                                                           .weights = block->weights,
                                                           .output = block->fused,
                                                           .experts = block->experts};
    block->x = block->weights = block->fused = NULL;
    block->experts = NULL;
}

void forward_end(struct forward_block *block, bool complete)
{
    if (!block)
        return;
    if (atomic_load(&block->incomplete)) {
        block->result->skipped = xstrdup("tensors of it are missing");
    } else if (complete) {
        sum_shares(block, block->fused);
        sum_shares(block, block->eager);
        compare_outputs(block);
        if (block->run->options.keep)
            keep_outputs(block);
    }
    free(block->x);
    free(block->experts);
    free(block->weights);
    free(block->fused);
    free(block->eager);
    free(block);
}
