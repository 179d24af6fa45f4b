/* For test_safetensors_writer.py: a case is lines "DTYPE NDIM DIM... LENGTH NAME"; its answer is
 * the header. */
#include "cases.h"
#include "layout/format/safetensors.h"

#include <inttypes.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
    return safetensors_writer_compare(*(const struct tensor_info *const *)a,
                                      *(const struct tensor_info *const *)b);
}

static const char *read_tensor(const char *text, struct arena *arena, struct tensor_info *info)
{
    char dtype[32];
    unsigned n_dims;
    size_t length;
    int used;

    if (sscanf(text, "%31s %u%n", dtype, &n_dims, &used) != 2 || n_dims > SAFETENSORS_NDIM_MAX)
        exit(2);
    text += used;
    uint64_t *shape = arena_alloc(arena, n_dims * sizeof *shape);
    for (unsigned i = 0; i < n_dims; i++, text += used)
        if (sscanf(text, "%" SCNu64 "%n", &shape[i], &used) != 1)
            exit(2);
    if (sscanf(text, "%zu%n", &length, &used) != 1)
        exit(2);
    text += used + 1;
    *info = (struct tensor_info){
        .name = arena_strndup(arena, text, length),
        .shape = shape,
        .n_dims = (uint8_t)n_dims,
        .dtype = (uint8_t)dtype_find(dtype, strlen(dtype)),
    };
    if (info->dtype == DTYPE_COUNT)
        exit(2);
    return text + length + 1;
}

static void answer(const char *text, uint64_t length, struct arena *arena)
{
    size_t n = 0, capacity = length / 4 + 1;
    struct tensor_info *tensors = arena_alloc(arena, capacity * sizeof *tensors);
    const struct tensor_info **order = arena_alloc(arena, capacity * sizeof *order);
    struct error err = {0};
    uint64_t size;

    for (const char *at = text; at < text + length; n++) {
        at = read_tensor(at, arena, &tensors[n]);
        order[n] = &tensors[n];
    }
    qsort(order, n, sizeof *order, compare);
    cleanup_free char *header = safetensors_write_header("case", order, n, &size, &err);
    if (!header) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    fwrite(header, 1, size, stdout);
}

int main(void)
{
    uint64_t length;

    for (char *text; (text = cases_next(&length)); free(text)) {
        struct arena arena = {0};
        answer(text, length, &arena);
        arena_free(&arena);
    }
    return 0;
}
