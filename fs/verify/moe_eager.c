/* One token and one neuron after the other. */
#include "moe_eager.h"

/* Row r of the matrix times x. */
static float multiply(const struct moe_matrix *matrix, uint64_t r, const float *x, float *row)
{
    float product;

    if (moe_matrix_dot(matrix, r, x, &product))
        return product;
    moe_matrix_rows(matrix, r, 1, row);
    return moe_dot(row, x, matrix->columns);
}

static float bias_of(const struct moe_matrix *bias, uint64_t column)
{
    struct moe_matrix one = *bias;
    float value = 0;

    if (!bias->first)
        return 0;
    one.first = (const char *)bias->first + column * bias->column_stride * (dtype_bits(bias->dtype) / 8);
    one.columns = 1;
    moe_matrix_rows(&one, 0, 1, &value);
    return value;
}

void moe_eager_rows(const struct moe_pass *pass, const struct moe_matrix *rows, uint64_t first,
                    uint64_t total, const struct moe_matrix *bias, const float *x, float *y)
{
    for (size_t t = 0; t < pass->n; t++)
        for (uint64_t r = 0; r < rows->rows; r++)
            y[t * total + first + r] =
                multiply(rows, r, x + t * rows->columns, pass->scratch) + bias_of(bias, first + r);
}

void moe_eager_neurons(struct moe_pass *pass)
{
    for (uint64_t i = 0; i < pass->n * pass->inner; i++)
        pass->up[i] =
            moe_neuron(pass->forward, pass->has_gate, pass->has_gate ? pass->gate[i] : 0, pass->up[i]);
}

void moe_eager_end(const struct moe_pass *pass)
{
    for (size_t t = 0; t < pass->n; t++)
        for (uint64_t c = 0; c < pass->hidden; c++) {
            const float y = pass->y[t * pass->hidden + c];
            pass->tokens[t].y[c] =
                pass->forward->weighting == MOE_WEIGHT_INPUT ? y : y * pass->tokens[t].weight;
        }
}
