/* A stored matrix as the kernels see it: any float type, any strides, perhaps with a scale for each block.
 *
 * Rows are what a product yields, columns what it sums over: y = W x, whatever the layout that W lies in. */
#ifndef MOEFS_FS_VERIFY_MOE_MATRIX_H
#define MOEFS_FS_VERIFY_MOE_MATRIX_H

#include "layout/format/dtype.h"

#include <stdbool.h>
#include <stdint.h>

struct moe_matrix {
    const void *first; /* element (0, 0); need not be aligned. NULL: there is no such matrix */
    enum dtype dtype;
    uint64_t rows, columns;
    uint64_t row_stride, column_stride; /* elements */
    /* Element (r, c) is multiplied by scale element ((first_row + r) / row_grain, c / column_grain): rows are
     * perhaps not the whole matrix's. */
    const struct moe_matrix *scale; /* NULL: 1 */
    uint64_t first_row, row_grain, column_grain;
};

/* Whether the kernels can read this type: F32, BF16, F16, F8_E4M3, F8_E5M2. */
bool moe_dtype_is_known(enum dtype dtype);

/* Rows [first, first + n) as floats: out[i * columns + c]. */
void moe_matrix_rows(const struct moe_matrix *matrix, uint64_t first, uint64_t n, float *out);

/* A row times x, in one pass over the row; false where its elements have to be made floats first. */
bool moe_matrix_dot(const struct moe_matrix *matrix, uint64_t row, const float *x, float *product);

/* The sum of a[i] * b[i] in FP32. */
float moe_dot(const float *a, const float *b, uint64_t n);

#endif
