/* Which of the directory's files are the weights: what transformers_weights in config.json names, else
 * model.safetensors, else what model.safetensors.index.json names, else every *.safetensors at the top but
 * consolidated* and adapter* - the order in which transformers looks (utils/hub.py). */
#ifndef MOEFS_FS_WEIGHTS_H
#define MOEFS_FS_WEIGHTS_H

#include "listing.h"
#include "source.h"

#include "layout/base/error.h"
#include "layout/format/config.h"
#include "layout/format/index.h"

#define WEIGHTS_INDEX_DEFAULT "model.safetensors.index.json"

/* Bytes that the other indexes at the top may have together. */
#define WEIGHTS_OTHER_INDEXES_MAX (UINT64_C(64) << 20)

/* What becomes of a name in the mount. */
enum weights_role { ROLE_PASS, ROLE_WEIGHT, ROLE_HIDDEN };

struct weights {
    const struct listed **files; /* by name, bytes ascending; in the listing */
    size_t n_files;
    enum weights_role *roles; /* of each name of the listing */
    bool has_index;
    struct index index;              /* of the files, when has_index */
    const struct listed *index_file; /* where it was read; NULL: none */
    const char *index_name;          /* of the index to generate; lives as long as the config */
    bool index_required;
    char *index_text; /* what the index's metadata points into */
    struct arena arena;
};

/* Gives the weights and their index their roles; reads nothing but the index. The weights point into the
 * listing. On failure -1, with nothing to free. */
int weights_choose(const struct listing *listing, struct source *source, const struct config *config,
                   struct weights *weights, struct error *err);

/* Gives back what is not needed any more once the headers have been read. */
void weights_free(struct weights *weights);

/* Once the weights are chosen: hides the indexes that would no longer be true, and notes what passes through
 * although a user might take it for converted: other weights, other checkpoints below. And the reverse: what
 * counts as weights because there is no index. */
void weights_note_others(const struct listing *listing, struct source *source, struct weights *weights,
                         struct notes *notes);

#endif
