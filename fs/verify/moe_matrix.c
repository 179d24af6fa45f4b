/* Rows of stored matrices as floats, and their products. */
#include "moe_matrix.h"
#include "layout/base/checked.h"

#include <math.h>
#include <string.h>

/* The machine's widest vectors where the compiler can choose among them when the program starts. */
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) &&                     \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif

#define LANES 32
#define TILE 32

static float from_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static float from_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;

    if (rest >= 0x7c00)
        return from_bits(sign | 0x7f800000 | rest << 13);
    /* the exponent's bias is 15 there and 127 here; subnormals come out right too */
    return from_bits(sign | 0x3f800000) * (from_bits(rest << 13) * 0x1p112f);
}

static float from_e4m3(uint8_t byte)
{
    const int exponent = byte >> 3 & 15, mantissa = byte & 7;
    float value = exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);

    if ((byte & 0x7f) == 0x7f)
        value = NAN;
    return byte & 0x80 ? -value : value;
}

bool moe_dtype_is_known(enum dtype dtype)
{
    return dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16 || dtype == DTYPE_F8_E4M3 ||
           dtype == DTYPE_F8_E5M2;
}

WIDEST static void run_from_bf16(const unsigned char *from, uint64_t n, float *out)
{
    for (uint64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof half);
        out[i] = from_bits((uint32_t)half << 16);
    }
}

static float element(enum dtype dtype, const unsigned char *at)
{
    uint32_t word;
    uint16_t half;

    switch (dtype) {
    case DTYPE_F32:
        memcpy(&word, at, sizeof word);
        return from_bits(word);
    case DTYPE_BF16:
        memcpy(&half, at, sizeof half);
        return from_bits((uint32_t)half << 16);
    case DTYPE_F16:
        memcpy(&half, at, sizeof half);
        return from_f16(half);
    case DTYPE_F8_E5M2:
        return from_f16((uint16_t)(*at << 8));
    case DTYPE_F8_E4M3:
        return from_e4m3(*at);
    default:
        return NAN; /* moe_dtype_is_known() says no */
    }
}

static void apply_scale(const struct moe_matrix *matrix, uint64_t first, uint64_t n, float *out)
{
    const struct moe_matrix *scale = matrix->scale;
    const uint64_t size = dtype_bits(scale->dtype) / 8;

    for (uint64_t r = 0; r < n; r++)
        for (uint64_t c = 0; c < matrix->columns; c++) {
            const uint64_t at = (matrix->first_row + first + r) / matrix->row_grain * scale->row_stride +
                                c / matrix->column_grain * scale->column_stride;
            out[r * matrix->columns + c] *=
                element(scale->dtype, (const unsigned char *)scale->first + at * size);
        }
}

/* By way of a tile: rows of `out` may be a power of two apart. */
static void copy_tile(const struct moe_matrix *matrix, const unsigned char *from, uint64_t n_rows,
                      uint64_t n_columns, float *out)
{
    const uint64_t size = dtype_bits(matrix->dtype) / 8;
    const uint64_t row = matrix->row_stride * size, column = matrix->column_stride * size;
    float tile[TILE][TILE];

    /* rows inside: where they are next to each other in memory, a column's piece is one cache line */
    for (uint64_t c = 0; c < n_columns; c++)
        for (uint64_t r = 0; r < n_rows; r++)
            tile[r][c] = element(matrix->dtype, from + r * row + c * column);
    for (uint64_t r = 0; r < n_rows; r++)
        memcpy(out + r * matrix->columns, tile[r], n_columns * sizeof **tile);
}

void moe_matrix_rows(const struct moe_matrix *matrix, uint64_t first, uint64_t n, float *out)
{
    const uint64_t size = dtype_bits(matrix->dtype) / 8;
    const unsigned char *from = (const unsigned char *)matrix->first + first * matrix->row_stride * size;

    if (matrix->dtype == DTYPE_BF16 && matrix->column_stride == 1) {
        for (uint64_t r = 0; r < n; r++)
            run_from_bf16(from + r * matrix->row_stride * size, matrix->columns, out + r * matrix->columns);
    } else {
        for (uint64_t r = 0; r < n; r += TILE)
            for (uint64_t c = 0; c < matrix->columns; c += TILE)
                copy_tile(matrix, from + (r * matrix->row_stride + c * matrix->column_stride) * size,
                          min_u64(n - r, TILE), min_u64(matrix->columns - c, TILE),
                          out + r * matrix->columns + c);
    }
    if (matrix->scale)
        apply_scale(matrix, first, n, out);
}

/* Sums the lanes into the first one. */
static inline __attribute__((always_inline)) float sum_lanes(float lanes[LANES])
{
    for (unsigned width = LANES / 2; width > 0; width /= 2)
        for (unsigned l = 0; l < width; l++)
            lanes[l] += lanes[l + width];
    return lanes[0];
}

WIDEST float moe_dot(const float *a, const float *b, uint64_t n)
{
    float lanes[LANES] = {0};
    uint64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (unsigned l = 0; l < LANES; l++)
            lanes[l] += a[i + l] * b[i + l];
    for (unsigned l = 0; i < n; i++, l++)
        lanes[l] += a[i] * b[i];
    return sum_lanes(lanes);
}

/* The compiler makes of these what the processor has. */
#define VECTOR 16
#define VECTORS 4
typedef float floats __attribute__((vector_size(4 * VECTOR)));
typedef float quarter __attribute__((vector_size(VECTOR)));
typedef uint32_t words __attribute__((vector_size(4 * VECTOR)));
typedef uint16_t halves __attribute__((vector_size(2 * VECTOR)));

WIDEST static float dot_bf16(const unsigned char *row, const float *x, uint64_t n)
{
    floats sums[VECTORS] = {{0}};
    uint64_t i = 0;

    for (; i + VECTORS * VECTOR <= n; i += VECTORS * VECTOR)
        for (unsigned v = 0; v < VECTORS; v++) {
            halves bits;
            floats factor;
            memcpy(&bits, row + 2 * (i + v * VECTOR), sizeof bits);
            memcpy(&factor, x + i + v * VECTOR, sizeof factor);
            sums[v] += (floats)(__builtin_convertvector(bits, words) << 16) * factor;
        }
    const floats sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    quarter parts[VECTORS];
    memcpy(parts, &sum, sizeof parts);
    parts[0] = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    float total = (parts[0][0] + parts[0][1]) + (parts[0][2] + parts[0][3]);
    for (; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, row + 2 * i, sizeof bits);
        total += from_bits((uint32_t)bits << 16) * x[i];
    }
    return total;
}

bool moe_matrix_dot(const struct moe_matrix *matrix, uint64_t row, const float *x, float *product)
{
    if (matrix->dtype != DTYPE_BF16 || matrix->column_stride != 1 || matrix->scale)
        return false;
    *product =
        dot_bf16((const unsigned char *)matrix->first + 2 * row * matrix->row_stride, x, matrix->columns);
    return true;
}
