/* A sample's tensors cut into weight files, and each file's header. */
#include "model.h"
#include "layout/format/shards.h"

#include <inttypes.h>
#include <string.h>

/* n_shards runs of about equal bytes: each takes tensors up to the one whose middle passes the mean of what
 * is left. */
static void cut_evenly(const struct sample_model *model, uint32_t n_shards, uint32_t *shard_of)
{
    uint64_t bytes_left = model->total_size;
    uint32_t first = 0;

    for (uint32_t s = 0; s < n_shards; s++) {
        uint32_t left = n_shards - s, n = 0;
        uint32_t most = model->n_tensors - first - (left - 1); /* one tensor for each of the others */
        uint64_t mean = bytes_left / left, size = 0;
        while (n < most && (left == 1 || n == 0 || size + model->tensors[first + n].length / 2 <= mean)) {
            shard_of[first + n] = s;
            size += model->tensors[first + n++].length;
        }
        bytes_left -= size;
        first += n;
    }
}

/* Brings the tensors into the order of their shards, and counts each shard's. */
static void sort_by_shard(struct sample_model *model, const uint32_t *shard_of)
{
    size_t size = model->n_tensors * sizeof *model->tensors;
    cleanup_free struct sample_tensor *tensors = xmalloc(size);
    uint32_t n = 0;

    memcpy(tensors, model->tensors, size);
    for (uint32_t i = 0; i < model->n_tensors; i++)
        model->shards[shard_of[i]].n_tensors++;
    for (uint32_t s = 0; s < model->n_shards; s++) {
        model->shards[s].first_tensor = n;
        n += model->shards[s].n_tensors;
        model->shards[s].n_tensors = 0;
    }
    for (uint32_t i = 0; i < model->n_tensors; i++) {
        struct sample_shard *shard = &model->shards[shard_of[i]];
        model->tensors[shard->first_tensor + shard->n_tensors++] = tensors[i];
    }
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
    cleanup_free uint32_t *shard_of = xreallocarray(NULL, model->n_tensors, sizeof *shard_of);
    cleanup_free uint64_t *lengths = xreallocarray(NULL, model->n_tensors, sizeof *lengths);
    uint64_t n = n_shards;

    for (uint32_t i = 0; i < model->n_tensors; i++)
        lengths[i] = model->tensors[i].length;
    if (n == 0)
        n = shards_deal_out(lengths, model->n_tensors, max_size, shard_of);
    if (n > model->n_tensors)
        return error_set(err, "%" PRIu64 " shards are more than the model's %" PRIu32 " tensors", n,
                         model->n_tensors);
    if (n > SAMPLE_SHARDS_MAX)
        return error_set(err, "%" PRIu64 " shards are more than %d", n, SAMPLE_SHARDS_MAX);
    if (n_shards > 0)
        cut_evenly(model, (uint32_t)n, shard_of);
    model->n_shards = (uint32_t)n;
    model->shards = arena_alloc(&model->arena, n * sizeof *model->shards);
    memset(model->shards, 0, n * sizeof *model->shards);
    sort_by_shard(model, shard_of);
    for (uint32_t s = 0; s < n; s++) {
        char name[SHARD_NAME_SIZE];
        shards_name(s, model->n_shards, name);
        model->shards[s].name = arena_strdup(&model->arena, name);
        if (lay_out(model, &model->shards[s], err) < 0)
            return -1;
    }
    return 0;
}
