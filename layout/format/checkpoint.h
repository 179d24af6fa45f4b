/* A checkpoint in memory: its shards, its tensors and its config.json. No file descriptors here: fs/ fills
 * it. */
#ifndef MOEFS_LAYOUT_CHECKPOINT_H
#define MOEFS_LAYOUT_CHECKPOINT_H

#include "config.h"
#include "layout/base/error.h"
#include "index.h"
#include "layout/base/memory.h"
#include "safetensors.h"

#include <stdbool.h>
#include <stdint.h>

struct tensor {
    struct tensor_info info;
    uint64_t offset; /* bytes from the beginning of the shard's file */
    uint64_t length; /* bytes */
    uint32_t shard;  /* in checkpoint.shards */
};

struct shard {
    const char *name;      /* file name in the checkpoint directory */
    uint64_t size;         /* bytes of the whole file */
    uint32_t first_tensor; /* its tensors are contiguous in checkpoint.tensors, in the order of the file */
    uint32_t n_tensors;
    bool incomplete; /* a tensor of the file was dropped (another shard's copy counts): never verbatim */
};

struct checkpoint {
    struct arena arena;
    struct config config;
    struct shard *shards; /* by name, bytes ascending */
    uint32_t n_shards;
    struct tensor *tensors; /* shard by shard; names are unique */
    uint32_t n_tensors;
    /* Names of the index that no file has: loaders ignore them; a hole where an expert is meant. */
    const char **absent;
    size_t n_absent;
    /* The name of the index to generate: what transformers_weights names,
     * else model.safetensors.index.json. */
    const char *index_name;
    /* transformers_weights names an index: it must exist whatever the weight files are. */
    bool index_required;
    /* The source index's raw metadata, or NULL. */
    const char *metadata;
    size_t metadata_length;
};

/* Takes one shard's parsed header. Shards must be added in ascending order of name. */
void checkpoint_add_shard(struct checkpoint *checkpoint, const char *name, uint64_t size,
                          const struct safetensors_header *header);

/* Called once all shards are there: settles names that two shards hold (the index decides, with a warning;
 * without an index, or when it names a third file: refused), and finds the index's names that no file has.
 * index may be NULL. The index's file i is found among the shards by name. */
int checkpoint_settle(struct checkpoint *checkpoint, const struct index *index, struct notes *notes,
                      struct error *err);

/* The tensor that holds byte `offset` of a shard's file; offset must lie behind the header and the shard must
 * have tensors. O(log n). */
const struct tensor *checkpoint_find_tensor(const struct checkpoint *checkpoint, uint32_t shard,
                                            uint64_t offset);

void checkpoint_free(struct checkpoint *checkpoint);

#endif
