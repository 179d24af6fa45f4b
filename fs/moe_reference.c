#include "moe_reference.h"

/* Rows of a matrix that are made floats at once: where a layout has rows side by side, a column's piece is a
 * cache line. */
#define BAND 32

static uint64_t widest(const struct moe_expert *expert)
{
    return expert->up.rows > expert->up.columns ? expert->up.rows : expert->up.columns;
}

size_t moe_scratch_size(const struct moe_expert *expert, size_t n)
{
    return (size_t)((BAND + 1) * widest(expert) + n * (2 * expert->up.rows + expert->up.columns));
}

/* y[t][r] = x[t] . W[r] + bias[r], for all n tokens. band: (BAND + 1) * widest floats. */
static void multiply(const struct moe_matrix *matrix, const struct moe_matrix *bias, const float *x, size_t n,
                     float *y, float *band)
{
    const uint64_t rows = matrix->rows, columns = matrix->columns;
    float *offsets = band + BAND * columns;

    /* one token, as most experts get: no row is needed twice */
    const bool one = n == 1 && moe_matrix_dot(matrix, 0, x, y);
    for (uint64_t r = 1; one && r < rows; r++)
        moe_matrix_dot(matrix, r, x, y + r);
    for (uint64_t first = 0; !one && first < rows; first += BAND) {
        const uint64_t end = rows - first < BAND ? rows : first + BAND;
        moe_matrix_rows(matrix, first, end - first, band);
        for (size_t t = 0; t < n; t++)
            for (uint64_t r = first; r < end; r++)
                y[t * rows + r] = moe_dot(x + t * columns, band + (r - first) * columns, columns);
    }
    if (!bias->first)
        return;
    moe_matrix_rows(bias, 0, 1, offsets);
    for (size_t t = 0; t < n; t++)
        for (uint64_t r = 0; r < rows; r++)
            y[t * rows + r] += offsets[r];
}

void moe_reference_forward(const struct moe_function *function, const struct moe_expert *expert,
                           const struct moe_assignment *tokens, size_t n, float *scratch)
{
    const uint64_t inner = expert->up.rows, hidden = expert->up.columns;
    const bool has_gate = expert->gate.first != NULL;
    const bool before = function->weighting == MOE_WEIGHT_BEFORE_DOWN;
    const struct moe_matrix no_bias = {.first = NULL};
    float *band = scratch, *gate = band + (BAND + 1) * widest(expert), *up = gate + n * inner;
    float *x = up + n * inner;

    for (size_t t = 0; t < n; t++)
        for (uint64_t c = 0; c < hidden; c++)
            x[t * hidden + c] =
                tokens[t].x[c] * (function->weighting == MOE_WEIGHT_INPUT ? tokens[t].weight : 1);
    if (has_gate)
        multiply(&expert->gate, &expert->gate_bias, x, n, gate, band);
    multiply(&expert->up, &expert->up_bias, x, n, up, band);
    for (size_t t = 0; t < n; t++)
        for (uint64_t i = t * inner; i < (t + 1) * inner; i++)
            up[i] = moe_neuron(function, has_gate, has_gate ? gate[i] : 0, up[i]) *
                    (before ? tokens[t].weight : 1);
    /* the weight belongs to the bias too, which has no place before `down` */
    multiply(&expert->down, before ? &no_bias : &expert->down_bias, up, n, x, band);
    if (before && expert->down_bias.first)
        moe_matrix_rows(&expert->down_bias, 0, 1, band);
    for (size_t t = 0; t < n; t++)
        for (uint64_t c = 0; c < hidden; c++) {
            float y = x[t * hidden + c];
            if (before && expert->down_bias.first)
                y += band[c] * tokens[t].weight;
            tokens[t].y[c] = function->weighting == MOE_WEIGHT_OUTPUT ? y * tokens[t].weight : y;
        }
}
