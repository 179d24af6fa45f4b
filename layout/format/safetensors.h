/* The safetensors container: a strict reader of its header, and its writer.
 *
 * A file is u64 little-endian n, n bytes of JSON, then the tensors' bytes. What the reference
 * (huggingface/safetensors) refuses is refused; so are a few things that it lets pass (docs/safetensors.md
 * lists them: leading white space, duplicate keys, array entries, empty names, NUL in a name). Pure functions
 * on memory. */
#ifndef MOEFS_LAYOUT_SAFETENSORS_H
#define MOEFS_LAYOUT_SAFETENSORS_H

#include "dtype.h"
#include "layout/base/error.h"
#include "layout/base/memory.h"

#include <stdbool.h>
#include <stdint.h>

#define SAFETENSORS_PREFIX_SIZE 8                  /* bytes before the header: its length */
#define SAFETENSORS_HEADER_MAX UINT64_C(100000000) /* bytes; the reference's MAX_HEADER_SIZE */
#define SAFETENSORS_NDIM_MAX 64                    /* torch's own limit */

/* What a tensor is, apart from where its bytes are. Strings and shapes belong to somebody else's arena. */
struct tensor_info {
    const char *name; /* UTF-8, not empty, without NUL */
    const uint64_t *shape;
    uint8_t n_dims; /* 0: a scalar */
    uint8_t dtype;  /* enum dtype */
};

struct safetensors_tensor {
    struct tensor_info info;
    uint64_t begin, end; /* bytes, relative to the first byte behind the header */
};

struct safetensors_header {
    struct safetensors_tensor *tensors; /* by offset, as they lie in the file, without holes */
    size_t n_tensors;
    uint64_t data_offset; /* 8 + n: where the tensors' bytes begin in the file */
};

/* dtype_bytes() of a tensor. */
static inline bool safetensors_tensor_bytes(const struct tensor_info *info, uint64_t *bytes)
{
    return dtype_bytes((enum dtype)info->dtype, info->shape, info->n_dims, bytes);
}

/* Checks the first 8 bytes of a file against its size, and gives the header's length n in bytes.
 * file_name is for messages only. file_size >= 8 is checked here too (prefix is not read otherwise). */
int safetensors_header_length(const char *file_name, const uint8_t prefix[SAFETENSORS_PREFIX_SIZE],
                              uint64_t file_size, uint64_t *n, struct error *err);

/* Parses the n bytes of JSON behind the first 8, and checks every rule of the format. The tensors' names and
 * shapes and the array itself are taken from the arena. */
int safetensors_parse(const char *file_name, const char *json, uint64_t n, uint64_t file_size,
                      struct arena *arena, struct safetensors_header *header, struct error *err);

/* The order in which the reference's writer lays tensors out: dtype rank descending, then name by bytes.
 * qsort-style result. */
int safetensors_writer_compare(const struct tensor_info *a, const struct tensor_info *b);

/* The first bytes of the file that safetensors.torch.save_file(tensors, metadata={"format": "pt"}) writes:
 * the length, the JSON and its padding. The tensors must be in the writer's order; their bytes follow in that
 * order without holes. Returns a malloc'd buffer and its length (a multiple of 8), or NULL with *err set when
 * the header would be larger than SAFETENSORS_HEADER_MAX. */
char *safetensors_write_header(const char *file_name, const struct tensor_info *const *tensors,
                               size_t n_tensors, uint64_t *length, struct error *err);

#endif
