/* The element types of the safetensors format: names and sizes. */
#include "dtype.h"
#include "layout/base/checked.h"

#include <string.h>

static const struct {
    const char *name;
    unsigned bits;
} DTYPES[DTYPE_COUNT] = {
    [DTYPE_BOOL] = {"BOOL", 8},
    [DTYPE_F4] = {"F4", 4},
    [DTYPE_F6_E2M3] = {"F6_E2M3", 6},
    [DTYPE_F6_E3M2] = {"F6_E3M2", 6},
    [DTYPE_U8] = {"U8", 8},
    [DTYPE_I8] = {"I8", 8},
    [DTYPE_F8_E5M2] = {"F8_E5M2", 8},
    [DTYPE_F8_E4M3] = {"F8_E4M3", 8},
    [DTYPE_F8_E8M0] = {"F8_E8M0", 8},
    [DTYPE_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [DTYPE_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [DTYPE_I16] = {"I16", 16},
    [DTYPE_U16] = {"U16", 16},
    [DTYPE_F16] = {"F16", 16},
    [DTYPE_BF16] = {"BF16", 16},
    [DTYPE_I32] = {"I32", 32},
    [DTYPE_U32] = {"U32", 32},
    [DTYPE_F32] = {"F32", 32},
    [DTYPE_C64] = {"C64", 64},
    [DTYPE_F64] = {"F64", 64},
    [DTYPE_I64] = {"I64", 64},
    [DTYPE_U64] = {"U64", 64},
};

const char *dtype_name(enum dtype dtype)
{
    return DTYPES[dtype].name;
}

unsigned dtype_bits(enum dtype dtype)
{
    return DTYPES[dtype].bits;
}

enum dtype dtype_find(const char *name, size_t length)
{
    for (unsigned i = 0; i < DTYPE_COUNT; i++)
        if (strlen(DTYPES[i].name) == length && memcmp(DTYPES[i].name, name, length) == 0)
            return (enum dtype)i;
    return DTYPE_COUNT;
}

bool dtype_bytes(enum dtype dtype, const uint64_t *shape, unsigned n_dims, uint64_t *bytes)
{
    uint64_t n = 1;

    for (unsigned i = 0; i < n_dims; i++)
        if (!checked_mul(n, shape[i], &n))
            return false;
    if (!checked_mul(n, dtype_bits(dtype), &n) || n % 8 != 0)
        return false;
    *bytes = n / 8;
    return true;
}

bool dtype_is_full_float(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F16:
    case DTYPE_BF16:
    case DTYPE_F32:
    case DTYPE_F64:
    case DTYPE_C64:
        return true;
    default:
        return false;
    }
}
