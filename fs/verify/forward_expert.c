/* One expert in one thread: the rows of its weights, as level 1 reads them, times its tokens, on both sides.
 */
#include "forward_block.h"

#include "moe_eager.h"

#include <string.h>

const struct logical_form *forward_find_form(const struct forward_block *block, const char *part,
                                             enum proj proj)
{
    const char *const *parts = block->group->layouts->parts;

    for (unsigned f = 0; f < block->group->n_forms; f++)
        if (block->group->forms[f].proj == proj && strcmp(parts[block->group->forms[f].part], part) == 0)
            return &block->group->forms[f];
    return NULL;
}

/* ---- matrices ---- */

/* The place of `inner` or `hidden` (in whatever grain) among the form's axes, or -1. */
static int find_axis(const struct axis_words *words, const struct logical_form *form, const char *word,
                     uint64_t *grain)
{
    const uint8_t wanted = axis_find(words, word);

    for (unsigned i = 0; i < form->n_axes; i++) {
        const uint8_t axis = form->axis[i];
        *grain = axis == wanted ? 1 : words->number[axis];
        if (axis == wanted || words->base[axis] == wanted)
            return (int)i;
    }
    return -1;
}

/* Rows [first, first + n) of the form as a matrix of outputs by inputs, or (a bias) all of it as one row of
 * outputs. False where it is neither, or missing. */
static bool set_matrix(const struct logical_group *group, const struct logical_form *form, unsigned side,
                       const struct slabs *slabs, uint64_t expert, uint64_t first, uint64_t n,
                       struct moe_matrix *matrix)
{
    const struct axis_words *words = &group->layouts->words;
    const bool down = form->proj == PROJ_DOWN;
    uint64_t row_grain = 1, column_grain = 1;
    const int row = find_axis(words, form, down ? "hidden" : "inner", &row_grain);
    const int column = find_axis(words, form, down ? "inner" : "hidden", &column_grain);
    struct logical_place place;

    if (row != 0 || form->n_axes != (column < 0 ? 1 : 2))
        return false;
    logical_locate(group, form, side, expert, &place);
    if (!place.tensor)
        return false;
    const struct slab *slab = &slabs->of[side][form->at[side > 0].form];
    const uint64_t size = slab_element_bytes(place.tensor);
    *matrix = (struct moe_matrix){.first = slab->bytes +
                                           (place.first + first * place.stride[0] - slab->begin) * size,
                                  .dtype = place.tensor->info.dtype,
                                  .rows = column < 0 ? 1 : n,
                                  .columns = column < 0 ? form->n[0] : form->n[column],
                                  .row_stride = column < 0 ? 0 : place.stride[0],
                                  .column_stride = column < 0 ? place.stride[0] : place.stride[column],
                                  .first_row = first,
                                  .row_grain = row_grain,
                                  .column_grain = column_grain};
    return true;
}

/* ---- one expert ---- */

/* Room for the block's tokens, if all were this expert's. */
static void reserve(struct forward_expert *expert, const struct forward_block *block, size_t n)
{
    const size_t size = moe_pass_size(block->inner, block->hidden, n), n_slots = block->tokens * block->top_k;

    if (expert->n_slots < n_slots) {
        for (unsigned w = 0; w < 2; w++)
            expert->tokens[w] = xreallocarray(expert->tokens[w], n_slots, sizeof *expert->tokens[w]);
        expert->n_slots = n_slots;
    }
    if (expert->memory_size < 2 * size) {
        free(expert->memory);
        expert->memory = xreallocarray(NULL, 2 * size, sizeof *expert->memory);
        expert->memory_size = 2 * size;
    }
}

static void assign_tokens(struct forward_expert *expert, const struct forward_block *block)
{
    for (uint64_t s = 0, i = 0; s < block->tokens * block->top_k; s++) {
        if (block->experts[s] != expert->number)
            continue;
        const struct moe_assignment token = {block->x + s / block->top_k * block->hidden, block->weights[s],
                                             NULL};
        expert->tokens[0][i] = expert->tokens[1][i] = token;
        expert->tokens[0][i].y = block->fused + s * block->hidden;
        expert->tokens[1][i++].y = block->eager + s * block->hidden;
    }
}

void forward_open(void *context, unsigned thread, uint64_t number)
{
    struct forward_block *block = context;
    struct forward_expert *expert = &block->run->experts[thread];
    size_t n = 0;

    for (uint64_t s = 0; s < block->tokens * block->top_k; s++)
        n += block->experts[s] == number;
    expert->active = number < block->n_experts && n > 0;
    if (!expert->active)
        return;
    reserve(expert, block, n);
    expert->number = number;
    expert->neurons = false;
    assign_tokens(expert, block);
    for (unsigned w = 0; w < 2; w++) {
        expert->passes[w] =
            (struct moe_pass){.forward = w ? &block->eager_forward : &block->fused_forward,
                              .tokens = expert->tokens[w],
                              .n = n,
                              .inner = block->inner,
                              .hidden = block->hidden,
                              .has_gate = forward_find_form(block, "weight", PROJ_GATE) != NULL};
        moe_pass_begin(&expert->passes[w],
                       expert->memory + w * moe_pass_size(block->inner, block->hidden, n));
    }
}

/* The rows, their scale and their bias, of one side. */
struct side_rows {
    struct moe_matrix rows, scale, bias;
};

static bool set_rows(const struct forward_block *block, const struct forward_expert *expert,
                     const struct slabs *slabs, unsigned side, const struct logical_form *form,
                     uint64_t first, uint64_t n, struct side_rows *result)
{
    const struct logical_form *bias = forward_find_form(block, "bias", form->proj);
    const struct logical_form *scale = forward_find_form(block, "scale_inv", form->proj);
    const struct logical_group *group = block->group;

    *result = (struct side_rows){0};
    if (!set_matrix(group, form, side, slabs, expert->number, first, n, &result->rows) ||
        (bias && !set_matrix(group, bias, side, slabs, expert->number, 0, bias->n[0], &result->bias)) ||
        (scale && !set_matrix(group, scale, side, slabs, expert->number, 0, scale->n[0], &result->scale)))
        return false;
    if (scale) {
        result->rows.scale = &result->scale;
        result->rows.row_grain = result->scale.row_grain;
        result->rows.column_grain = result->scale.column_grain;
    }
    return true;
}

void forward_rows(void *context, unsigned thread, const struct logical_form *form, const struct slabs *slabs,
                  uint64_t first, uint64_t n)
{
    struct forward_block *block = context;
    struct forward_expert *expert = &block->run->experts[thread];
    const unsigned last = block->run->input.n_sides - 1;
    struct side_rows original, exposed;

    if (!expert->active || form != forward_find_form(block, "weight", form->proj))
        return;
    if (!set_rows(block, expert, slabs, 0, form, first, n, &original) ||
        !set_rows(block, expert, slabs, last, form, first, n, &exposed)) {
        atomic_store(&block->incomplete, true);
        return;
    }
    struct moe_pass *fused = &expert->passes[0], *eager = &expert->passes[1];
    if (form->proj == PROJ_DOWN && !expert->neurons) {
        moe_reference_neurons(fused);
        moe_eager_neurons(eager);
        expert->neurons = true;
    }
    if (form->proj == PROJ_DOWN) {
        moe_reference_rows(fused, &exposed.rows, first, fused->hidden, &exposed.bias, fused->up, fused->y);
        moe_eager_rows(eager, &original.rows, first, eager->hidden, &original.bias, eager->up, eager->y);
        return;
    }
    const bool gate = form->proj == PROJ_GATE;
    moe_reference_rows(fused, &exposed.rows, first, fused->inner, &exposed.bias, fused->x,
                       gate ? fused->gate : fused->up);
    moe_eager_rows(eager, &original.rows, first, eager->inner, &original.bias, eager->x,
                   gate ? eager->gate : eager->up);
}

void forward_close(void *context, unsigned thread)
{
    struct forward_block *block = context;
    const struct forward_expert *expert = &block->run->experts[thread];

    if (!expert->active)
        return;
    if (!expert->neurons) { /* rows of it were missing */
        atomic_store(&block->incomplete, true);
        return;
    }
    moe_reference_end(&expert->passes[0]);
    moe_eager_end(&expert->passes[1]);
}
