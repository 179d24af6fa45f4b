/* All tokens of an expert together, a band of rows at a time. */
#include "moe_reference.h"

#include "layout/base/checked.h"

/* Rows that are made floats at once: where a layout has rows side by side, a column's piece is a cache line.
 */
#define BAND 32

size_t moe_pass_size(uint64_t inner, uint64_t hidden, size_t n)
{
    return (size_t)(2 * n * (inner + hidden) + (BAND + 1) * max_u64(inner, hidden));
}

void moe_pass_begin(struct moe_pass *pass, float *memory)
{
    pass->x = memory;
    pass->y = pass->x + pass->n * pass->hidden;
    pass->gate = pass->y + pass->n * pass->hidden;
    pass->up = pass->gate + pass->n * pass->inner;
    pass->scratch = pass->up + pass->n * pass->inner;
    for (size_t t = 0; t < pass->n; t++) {
        const float weight = pass->forward->weighting == MOE_WEIGHT_INPUT ? pass->tokens[t].weight : 1;
        for (uint64_t c = 0; c < pass->hidden; c++)
            pass->x[t * pass->hidden + c] = pass->tokens[t].x[c] * weight;
    }
}

void moe_reference_rows(const struct moe_pass *pass, const struct moe_matrix *rows, uint64_t first,
                        uint64_t total, const struct moe_matrix *bias, const float *x, float *y)
{
    const uint64_t columns = rows->columns;
    float *band = pass->scratch, *offsets = band + BAND * columns;

    /* one token, as most experts get: no row is needed twice */
    const bool one = pass->n == 1 && rows->rows > 0 && moe_matrix_dot(rows, 0, x, y + first);
    for (uint64_t r = 1; one && r < rows->rows; r++)
        moe_matrix_dot(rows, r, x, y + first + r);
    for (uint64_t at = 0; !one && at < rows->rows; at += BAND) {
        const uint64_t n = min_u64(rows->rows - at, BAND);
        moe_matrix_rows(rows, at, n, band);
        for (size_t t = 0; t < pass->n; t++)
            for (uint64_t r = 0; r < n; r++)
                y[t * total + first + at + r] = moe_dot(x + t * columns, band + r * columns, columns);
    }
    if (!bias->first)
        return;
    /* h carries the routing weight already, so that the bias of down needs it too */
    const bool weighted = pass->forward->weighting == MOE_WEIGHT_BEFORE_DOWN && x == pass->up;
    moe_matrix_rows(bias, 0, 1, offsets);
    for (size_t t = 0; t < pass->n; t++)
        for (uint64_t r = first; r < first + rows->rows; r++)
            y[t * total + r] += weighted ? offsets[r] * pass->tokens[t].weight : offsets[r];
}

void moe_reference_neurons(struct moe_pass *pass)
{
    for (size_t t = 0; t < pass->n; t++) {
        const float weight = pass->forward->weighting == MOE_WEIGHT_BEFORE_DOWN ? pass->tokens[t].weight : 1;
        for (uint64_t i = t * pass->inner; i < (t + 1) * pass->inner; i++)
            pass->up[i] = weight * moe_neuron(pass->forward, pass->has_gate,
                                              pass->has_gate ? pass->gate[i] : 0, pass->up[i]);
    }
}

void moe_reference_end(const struct moe_pass *pass)
{
    for (size_t t = 0; t < pass->n; t++) {
        const float weight = pass->forward->weighting == MOE_WEIGHT_OUTPUT ? pass->tokens[t].weight : 1;
        for (uint64_t c = 0; c < pass->hidden; c++)
            pass->tokens[t].y[c] = pass->y[t * pass->hidden + c] * weight;
    }
}
