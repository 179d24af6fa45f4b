/* Writing a safetensors header as the reference does. */
#include "json_write.h"
#include "safetensors.h"

#include "layout/base/checked.h"
#include "layout/base/memory_stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int safetensors_writer_compare(const struct tensor_info *a, const struct tensor_info *b)
{
    if (a->dtype != b->dtype)
        return a->dtype > b->dtype ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* Strings are written as the reference writes them, with serde_json. */
static void write_tensor(FILE *out, const struct tensor_info *info, uint64_t begin, uint64_t end)
{
    putc(',', out);
    json_write_string_raw(out, info->name);
    fprintf(out, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name((enum dtype)info->dtype));
    for (unsigned i = 0; i < info->n_dims; i++)
        fprintf(out, "%s%" PRIu64, i ? "," : "", info->shape[i]);
    fprintf(out, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, end);
}

/* The JSON behind the 8 bytes of its length, which are filled in later; padded to a multiple of 8. */
static int write_all(struct memory_stream *stream, const char *file_name,
                     const struct tensor_info *const *tensors, size_t n_tensors, struct error *err)
{
    FILE *out = stream->out;
    uint64_t begin = 0, bytes, end;

    fwrite((const char[SAFETENSORS_PREFIX_SIZE]){0}, 1, SAFETENSORS_PREFIX_SIZE, out);
    fputs("{\"__metadata__\":{\"format\":\"pt\"}", out);
    for (size_t i = 0; i < n_tensors; i++) {
        if (!safetensors_tensor_bytes(tensors[i], &bytes) || !checked_add(begin, bytes, &end))
            return error_set(err, "%s: tensor '%s': its bytes cannot be counted in 64 bits", file_name,
                             tensors[i]->name);
        write_tensor(out, tensors[i], begin, end);
        begin = end;
    }
    putc('}', out);
    for (size_t length = memory_stream_length(stream); length % 8 != 0; length++)
        putc(' ', out);
    return 0;
}

char *safetensors_write_header(const char *file_name, const struct tensor_info *const *tensors,
                               size_t n_tensors, uint64_t *length, struct error *err)
{
    struct memory_stream stream;
    size_t size;

    memory_stream_open(&stream);
    int failed = write_all(&stream, file_name, tensors, n_tensors, err);
    char *header = memory_stream_close(&stream, &size);
    uint64_t n = size - SAFETENSORS_PREFIX_SIZE;
    if (!failed && n > SAFETENSORS_HEADER_MAX)
        failed =
            error_set(err, "%s: its header would have %" PRIu64 " bytes, but at most %" PRIu64 " are allowed",
                      file_name, n, SAFETENSORS_HEADER_MAX);
    if (failed) {
        free(header);
        return NULL;
    }
    for (int i = 0; i < SAFETENSORS_PREFIX_SIZE; i++)
        header[i] = (char)(n >> (8 * i) & 0xff);
    *length = size;
    return header;
}
