#include "moe_eager.h"

/* Row r of the matrix times x, with the row's bias. */
static float neuron(const struct moe_matrix *matrix, const struct moe_matrix *bias, uint64_t r,
                    const float *x, float *row)
{
    float offset = 0, product;

    if (!moe_matrix_dot(matrix, r, x, &product)) {
        moe_matrix_rows(matrix, r, 1, row);
        product = moe_dot(row, x, matrix->columns);
    }
    if (bias->first) {
        struct moe_matrix one = *bias;
        one.first = (const char *)bias->first + r * bias->column_stride * (dtype_bits(bias->dtype) / 8);
        one.columns = 1;
        moe_matrix_rows(&one, 0, 1, &offset);
    }
    return product + offset;
}

void moe_eager_forward(const struct moe_function *function, const struct moe_expert *expert,
                       const struct moe_assignment *token, float *scratch)
{
    const uint64_t inner = expert->up.rows, hidden = expert->up.columns;
    const bool has_gate = expert->gate.first != NULL;
    float *x = scratch, *h = x + hidden, *row = h + inner;

    for (uint64_t c = 0; c < hidden; c++)
        x[c] = function->weighting == MOE_WEIGHT_INPUT ? token->x[c] * token->weight : token->x[c];
    for (uint64_t r = 0; r < inner; r++) {
        const float gate = has_gate ? neuron(&expert->gate, &expert->gate_bias, r, x, row) : 0;
        const float up = neuron(&expert->up, &expert->up_bias, r, x, row);
        h[r] = moe_neuron(function, has_gate, gate, up);
    }
    for (uint64_t r = 0; r < hidden; r++) {
        const float y = neuron(&expert->down, &expert->down_bias, r, h, row);
        token->y[r] = function->weighting == MOE_WEIGHT_INPUT ? y : y * token->weight;
    }
}
