/* Any bytes as a safetensors file: what is accepted covers the file without holes, and can be
 * written again. */
#include "layout/format/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_table(const struct safetensors_header *header, size_t size)
{
    uint64_t end = 0, bytes;

    for (size_t i = 0; i < header->n_tensors; i++) {
        const struct safetensors_tensor *tensor = &header->tensors[i];
        if (tensor->begin != end || !safetensors_tensor_bytes(&tensor->info, &bytes) ||
            tensor->end - tensor->begin != bytes || !*tensor->info.name)
            abort();
        end = tensor->end;
    }
    if (header->data_offset + end != size)
        abort();
}

static void check_writer(const struct safetensors_header *header, struct arena *arena)
{
    const struct tensor_info **infos = arena_alloc(arena, header->n_tensors * sizeof *infos);
    struct safetensors_header again;
    struct error err = {0};
    uint64_t length;

    for (size_t i = 0; i < header->n_tensors; i++)
        infos[i] = &header->tensors[i].info;
    cleanup_free char *written = safetensors_write_header("f", infos, header->n_tensors, &length, &err);
    uint64_t data = header->n_tensors ? header->tensors[header->n_tensors - 1].end : 0;
    if (!written || safetensors_parse("f", written + 8, length - 8, length + data, arena, &again, &err) ||
        again.n_tensors != header->n_tensors)
        abort();
    for (size_t i = 0; i < again.n_tensors; i++)
        if (strcmp(again.tensors[i].info.name, infos[i]->name) != 0 ||
            again.tensors[i].begin != header->tensors[i].begin)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors_header header;
    struct arena arena = {0};
    struct error err = {0};
    uint64_t n;

    if (safetensors_header_length("f", data, size, &n, &err) == 0 &&
        safetensors_parse("f", (const char *)data + 8, n, size, &arena, &header, &err) == 0) {
        check_table(&header, size);
        check_writer(&header, &arena);
    }
    error_free(&err);
    arena_free(&arena);
    return 0;
}
