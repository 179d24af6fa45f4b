/* Which of the directory's files are the weights: what transformers_weights in config.json names, else
 * model.safetensors, else what model.safetensors.index.json names, else every *.safetensors at the top but
 * consolidated* and adapter* - the order in which transformers looks (utils/hub.py). */
#ifndef MOEFS_FS_WEIGHTS_H
#define MOEFS_FS_WEIGHTS_H

#include "scan.h"

#include "layout/format/config.h"
#include "layout/format/index.h"

#define WEIGHTS_INDEX_DEFAULT "model.safetensors.index.json"

struct weights {
    struct found **files; /* by name, bytes ascending */
    size_t n_files;
    bool has_index;
    struct index index;     /* of the files, when has_index */
    const char *index_name; /* of the index to generate; lives as long as the config */
    bool index_required;
    char *index_text; /* what the index's metadata points into */
    struct arena arena;
};

/* Gives the weights and their index their roles. The weights point into the scan. On failure -1, with nothing
 * to free. */
int weights_choose(const char *src, struct scan *scan, const struct config *config, struct weights *weights,
                   struct error *err);

/* Gives back what is not needed any more once the headers have been read. */
void weights_free(struct weights *weights);

/* Once the weights are chosen: hides the indexes that would no longer be true, and notes what passes through
 * although a user might take it for converted: other weights, other checkpoints below. */
void weights_note_others(const struct weights *weights, struct scan *scan, struct notes *notes);

#endif
