/* Dealing tensors out to weight files as huggingface_hub does. */
#include "shards.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

/* Gives the number to all tensors of [first, end) that have none. False where there is no such tensor. */
static bool close_shard(uint32_t *shard_of, uint32_t first, uint32_t end, uint32_t number)
{
    bool any = false;

    for (uint32_t i = first; i < end; i++)
        if (shard_of[i] == UINT32_MAX) {
            shard_of[i] = number;
            any = true;
        }
    return any;
}

uint32_t shards_deal_out(const uint64_t *lengths, uint32_t n, uint64_t limit, uint32_t *shard_of)
{
    uint32_t n_shards = 0, first = 0; /* first: of the shard being filled, whose tensors have no number yet */
    uint64_t size = 0;

    for (uint32_t i = 0; i < n; i++) {
        if (lengths[i] > limit) {
            shard_of[i] = n_shards++;
            continue;
        }
        if (lengths[i] > limit - size) {
            n_shards += close_shard(shard_of, first, i, n_shards);
            first = i;
            size = 0;
        }
        shard_of[i] = UINT32_MAX;
        size += lengths[i];
    }
    return n_shards + close_shard(shard_of, first, n, n_shards);
}

void shards_name(uint32_t shard, uint32_t n, char name[SHARD_NAME_SIZE])
{
    if (n == 1)
        snprintf(name, SHARD_NAME_SIZE, "model.safetensors");
    else
        snprintf(name, SHARD_NAME_SIZE, "model-%05" PRIu32 "-of-%05" PRIu32 ".safetensors", shard + 1, n);
}
