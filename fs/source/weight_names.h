/* What the names of files say about weights. Nothing is read. */
#ifndef MOEFS_FS_WEIGHT_NAMES_H
#define MOEFS_FS_WEIGHT_NAMES_H

#include "listing.h"

#include <stdbool.h>

bool name_is_safetensors(const char *path);
/* model.safetensors.index.json, and with a variant: model.safetensors.index.fp16.json */
bool name_is_index(const char *path);
/* model-00001-of-00002.safetensors: one of a series that a writer has numbered. */
bool name_is_numbered(const char *path);

/* Of regular files: what is no weight file that moefs converts. */
bool listed_is_consolidated(const struct listed *listed);
bool listed_is_adapter(const struct listed *listed);
bool listed_is_gguf(const struct listed *listed);
/* PyTorch's pickles, but not what a trainer saves beside the weights to go on later. */
bool listed_is_pickle(const struct listed *listed);
/* Any of these, or safetensors. */
bool listed_is_weight_format(const struct listed *listed);

#endif
