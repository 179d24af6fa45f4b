/* The source that has no files behind it: a sample's, their contents computed when they are read.
 *
 * A tensor's bytes are a pure function of the seed, its name and the place in it: the same on every machine,
 * however they are read. Every element is a finite BF16: around 1 for the weights of norms, else of either
 * sign between 2^-9 and 2^-5. */
#ifndef MOEFS_FS_SOURCE_SAMPLE_H
#define MOEFS_FS_SOURCE_SAMPLE_H

#include "fs/source/listing.h"
#include "fs/source/source.h"
#include "model.h"

/* The source of config.json, generation_config.json and the model's shards, and the listing of them: what
 * directory_read() takes. The model and path, by which messages call the directory, must outlive both. */
struct source *source_sample_open(const struct sample_model *model, const char *path, uint64_t seed,
                                  struct listing *listing);

#endif
