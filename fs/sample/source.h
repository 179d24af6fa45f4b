/* The source that has no file behind it: the shards of a sample, their contents computed when they are read.
 *
 * A tensor's bytes are a pure function of the seed, its name and the place in it: the same on every machine,
 * however they are read. Every element is a finite BF16: around 1 for the weights of norms, else of either
 * sign between 2^-9 and 2^-5. */
#ifndef MOEFS_FS_SOURCE_SAMPLE_H
#define MOEFS_FS_SOURCE_SAMPLE_H

#include "model.h"
#include "fs/source/source.h"

/* The model must outlive it. File i is the model's shard i. */
struct source *source_sample_open(const struct sample_model *model, uint64_t seed);

#endif
