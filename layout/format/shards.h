/* Which weight file each tensor of a checkpoint is saved in, and what the files are called: huggingface_hub's
 * rule (split_state_dict_into_shards_factory), for tensors in the order in which they are saved. */
#ifndef MOEFS_LAYOUT_SHARDS_H
#define MOEFS_LAYOUT_SHARDS_H

#include <stdint.h>

/* Fills a shard until the next tensor would exceed `limit` bytes. A tensor above the limit is alone in a shard
 * of its own, and the one being filled goes on behind it. Shards are numbered as they are closed. lengths:
 * bytes of each tensor; shard_of: its number. Returns how many there are. */
uint32_t shards_deal_out(const uint64_t *lengths, uint32_t n, uint64_t limit, uint32_t *shard_of);

#define SHARD_NAME_SIZE 64
/* The name of shard `shard`, counted from 0, of n. */
void shards_name(uint32_t shard, uint32_t n, char name[SHARD_NAME_SIZE]);

#endif
