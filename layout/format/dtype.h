/* The element types of the safetensors format (huggingface/safetensors, safetensors/src/tensor.rs, enum
 * Dtype). */
#ifndef MOEFS_LAYOUT_DTYPE_H
#define MOEFS_LAYOUT_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In the order of the reference's enum: this is the rank by which its writer sorts tensors. */
enum dtype {
    DTYPE_BOOL,
    DTYPE_F4,
    DTYPE_F6_E2M3,
    DTYPE_F6_E3M2,
    DTYPE_U8,
    DTYPE_I8,
    DTYPE_F8_E5M2,
    DTYPE_F8_E4M3,
    DTYPE_F8_E8M0,
    DTYPE_F8_E4M3FNUZ,
    DTYPE_F8_E5M2FNUZ,
    DTYPE_I16,
    DTYPE_U16,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_I32,
    DTYPE_U32,
    DTYPE_F32,
    DTYPE_C64,
    DTYPE_F64,
    DTYPE_I64,
    DTYPE_U64,
    DTYPE_COUNT
};

/* "BF16" */
const char *dtype_name(enum dtype dtype);
/* Bits of one element: 4, 6, 8, 16, 32 or 64. */
unsigned dtype_bits(enum dtype dtype);
/* Bytes of a tensor; false on overflow or where its bits do not fill whole bytes. The product is taken from the
 * left, as the reference does: [0, huge, huge] is fine, [huge, huge, 0] overflows. */
bool dtype_bytes(enum dtype dtype, const uint64_t *shape, unsigned n_dims, uint64_t *bytes);
/* Floating point of 16 bits or more: elements that are weights as they are. Others stand for weights only
 * together with their scales. */
bool dtype_is_full_float(enum dtype dtype);
/* The dtype of that name, or DTYPE_COUNT. The name need not end in NUL. */
enum dtype dtype_find(const char *name, size_t length);

#endif
