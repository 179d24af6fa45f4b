/* --write-outputs: what each block's experts were given and gave, as a safetensors file. */
#include "forward_block.h"

#include <stdio.h>

#define ARRAYS 4 /* of each block */

struct output_tensor {
    struct tensor_info info;
    const void *bytes;
    uint64_t length;
};

static int compare_tensors(const void *a, const void *b)
{
    return safetensors_writer_compare(&((const struct output_tensor *)a)->info,
                                      &((const struct output_tensor *)b)->info);
}

static void add_output(struct output_tensor *tensor, struct arena *arena, const char *block, const char *what,
                       enum dtype dtype, uint64_t rows, uint64_t columns, const void *bytes)
{
    cleanup_free char *name = xasprintf("%s.%s", block, what);
    const uint64_t shape[] = {rows, columns};

    *tensor = (struct output_tensor){.info = {.name = arena_strdup(arena, name),
                                              .shape = arena_memdup(arena, shape, sizeof shape),
                                              .n_dims = 2,
                                              .dtype = (uint8_t)dtype},
                                     .bytes = bytes,
                                     .length = rows * columns * 4};
}

static int write_tensors(const char *path, const struct output_tensor *tensors, size_t n, struct error *err)
{
    const struct tensor_info **infos = xcalloc(n + 1, sizeof *infos);
    uint64_t length;

    for (size_t i = 0; i < n; i++)
        infos[i] = &tensors[i].info;
    cleanup_free char *head = safetensors_write_header(path, infos, n, &length, err);
    free(infos);
    if (!head)
        return -1;
    FILE *file = fopen(path, "we");
    if (!file)
        return error_set(err, "%s: %m", path);
    fwrite(head, 1, length, file);
    for (size_t i = 0; i < n; i++)
        fwrite(tensors[i].bytes, 1, tensors[i].length, file);
    const bool failed = ferror(file) != 0;
    return fclose(file) != 0 || failed ? error_set(err, "%s: %m", path) : 0;
}

int forward_write(const struct forward *forward, const char *path, struct error *err)
{
    struct output_tensor *tensors = xcalloc((size_t)forward->n_outputs * ARRAYS + 1, sizeof *tensors);
    struct arena arena = {0};
    size_t n = 0;

    for (uint32_t i = 0; i < forward->n_outputs; i++) {
        const struct block_output *o = &forward->outputs[i];
        add_output(&tensors[n++], &arena, o->block, "x", DTYPE_F32, o->tokens, o->hidden, o->x);
        add_output(&tensors[n++], &arena, o->block, "experts", DTYPE_I32, o->tokens, o->top_k, o->experts);
        add_output(&tensors[n++], &arena, o->block, "weights", DTYPE_F32, o->tokens, o->top_k, o->weights);
        add_output(&tensors[n++], &arena, o->block, "output", DTYPE_F32, o->tokens, o->hidden, o->output);
    }
    qsort(tensors, n, sizeof *tensors, compare_tensors);
    int result = write_tensors(path, tensors, n, err);
    arena_free(&arena);
    free(tensors);
    return result;
}
