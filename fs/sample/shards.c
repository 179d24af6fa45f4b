#include "model.h"

#include <inttypes.h>
#include <stdio.h>

/* The number of tensors of the shard that begins at tensors[first]. */
static uint32_t fill_to_limit(const struct sample_model *model, uint32_t first, uint64_t max_size)
{
    uint64_t size = model->tensors[first].length;
    uint32_t n = 1;

    while (first + n < model->n_tensors && size <= max_size &&
           model->tensors[first + n].length <= max_size - size)
        size += model->tensors[first + n++].length;
    return n;
}

/* The same, when `left` shards have to hold what is left: up to the tensor whose middle passes the mean. */
static uint32_t fill_to_mean(const struct sample_model *model, uint32_t first, uint64_t bytes_left,
                             uint32_t left)
{
    uint64_t mean = bytes_left / left, size = 0;
    uint32_t n = 0, most = model->n_tensors - first - (left - 1); /* one tensor for each of the others */

    if (left == 1)
        return model->n_tensors - first;
    while (n < most && (!n || size + model->tensors[first + n].length / 2 <= mean))
        size += model->tensors[first + n++].length;
    return n;
}

static uint32_t count_shards(const struct sample_model *model, uint64_t max_size)
{
    uint32_t n = 0;

    for (uint32_t first = 0; first < model->n_tensors; n++)
        first += fill_to_limit(model, first, max_size);
    return n;
}

static int compare_writer(const void *a, const void *b)
{
    return safetensors_writer_compare(&((const struct sample_tensor *)a)->info,
                                      &((const struct sample_tensor *)b)->info);
}

/* The shard's header and its tensors' places in the file. Its sum cannot overflow: total_size was checked. */
static int lay_out(struct sample_model *model, struct sample_shard *shard, struct error *err)
{
    struct sample_tensor *tensors = model->tensors + shard->first_tensor;
    cleanup_free const struct tensor_info **infos = xreallocarray(NULL, shard->n_tensors, sizeof *infos);

    qsort(tensors, shard->n_tensors, sizeof *tensors, compare_writer);
    for (uint32_t i = 0; i < shard->n_tensors; i++)
        infos[i] = &tensors[i].info;
    cleanup_free char *head =
        safetensors_write_header(shard->name, infos, shard->n_tensors, &shard->head_length, err);
    if (!head)
        return -1;
    shard->head = arena_memdup(&model->arena, head, shard->head_length);
    shard->size = shard->head_length;
    for (uint32_t i = 0; i < shard->n_tensors; i++) {
        tensors[i].offset = shard->size;
        shard->size += tensors[i].length;
    }
    return 0;
}

int sample_shards_cut(struct sample_model *model, uint64_t n_shards, uint64_t max_size, struct error *err)
{
    uint64_t bytes_left = model->total_size, n = n_shards ? n_shards : count_shards(model, max_size);
    uint32_t first = 0;

    if (n > model->n_tensors)
        return error_set(err, "%" PRIu64 " shards are more than the model's %" PRIu32 " tensors", n,
                         model->n_tensors);
    if (n > SAMPLE_SHARDS_MAX)
        return error_set(err, "%" PRIu64 " shards are more than %d", n, SAMPLE_SHARDS_MAX);
    model->n_shards = (uint32_t)n;
    model->shards = arena_alloc(&model->arena, n * sizeof *model->shards);
    for (uint32_t i = 0; i < n; i++) {
        struct sample_shard *shard = &model->shards[i];
        char name[64] = "model.safetensors";

        if (n > 1)
            snprintf(name, sizeof name, "model-%05" PRIu32 "-of-%05" PRIu64 ".safetensors", i + 1, n);
        *shard = (struct sample_shard){
            .name = arena_strdup(&model->arena, name),
            .first_tensor = first,
            .n_tensors = n_shards ? fill_to_mean(model, first, bytes_left, (uint32_t)n - i)
                                  : fill_to_limit(model, first, max_size),
        };
        for (uint32_t k = 0; k < shard->n_tensors; k++)
            bytes_left -= model->tensors[first + k].length;
        if (lay_out(model, shard, err))
            return -1;
        first += shard->n_tensors;
    }
    return 0;
}
