/* What `moefs sample` writes, before there is a byte of it: the tensors of a model and its config.json, built
 * from layout/data/samples.json. No architecture's name is in the code: a model is its entry there. */
#ifndef MOEFS_FS_SAMPLE_MODEL_H
#define MOEFS_FS_SAMPLE_MODEL_H

#include "layout/base/error.h"
#include "layout/base/memory.h"
#include "layout/format/safetensors.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A size that the user gives in place of the entry's: "layers", "experts", "hidden" or "intermediate". */
struct sample_size {
    const char *name;
    uint64_t value;
};

struct sample_request {
    const char *model_type; /* NULL: the preset's */
    const char *preset;     /* a published checkpoint's sizes and sharding, or NULL */
    const struct sample_size *sizes;
    size_t n_sizes;
    uint64_t n_shards; /* 0: the preset's byte limit, else the entry's number */
};

#define SAMPLE_SIZE_MAX (UINT64_C(1) << 40)
#define SAMPLE_TENSORS_MAX ((size_t)1 << 22)
#define SAMPLE_SHARDS_MAX 99999 /* beyond it, five digits no longer sort as the numbers do */

struct sample_tensor {
    struct tensor_info info; /* BF16 */
    uint64_t length;         /* bytes */
    uint64_t offset;         /* bytes from the beginning of its shard's file */
    bool near_one;           /* contents around 1 (a norm's weight), else small around 0 */
};

struct sample_shard {
    const char *name;
    const char *head; /* length, JSON and padding: what lies before the tensors */
    uint64_t head_length;
    uint64_t size; /* bytes of the whole file */
    uint32_t first_tensor;
    uint32_t n_tensors;
};

struct sample_model {
    struct arena arena;
    const char *model_type;
    const char *config;            /* text of config.json */
    const char *generation_config; /* text of generation_config.json */
    /* In the natural order of their names once built, then shard by shard in the order of the files. */
    struct sample_tensor *tensors;
    uint32_t n_tensors;
    uint64_t total_size; /* bytes of all tensors */
    struct sample_shard *shards;
    uint32_t n_shards;
};

/* Builds the whole: names and shapes in the layout that the architecture has on the hub, cut into shards,
 * with each shard's header. On failure -1 with *err set and nothing to free. */
int sample_model_build(const struct sample_request *request, struct sample_model *model, struct error *err);
void sample_model_free(struct sample_model *model);

/* Cuts model.tensors, which must be in natural order, into shards: n_shards runs of about equal bytes, or
 * (n_shards 0) as shards_deal_out() deals them out when none may exceed max_size bytes of tensors. */
int sample_shards_cut(struct sample_model *model, uint64_t n_shards, uint64_t max_size, struct error *err);

#endif
