/* What moefs reads of config.json. cJSON keeps the tree; NaN and Infinity, which published configs hold, are
 * read as null. */
#ifndef MOEFS_LAYOUT_CONFIG_H
#define MOEFS_LAYOUT_CONFIG_H

#include "layout/base/error.h"
#include "layout/base/memory.h"

#include <stdbool.h>
#include <stdint.h>

struct cJSON;

/* Bytes of a config.json at most: published ones have up to some 30,000. The tree of one takes 40 times as much
 * memory. */
#define CONFIG_LENGTH_MAX (4 << 20)

/* Positive integers, ascending, without duplicates. */
struct config_set {
    uint64_t *numbers;
    size_t n;
};

struct config {
    struct cJSON *root;
    char *text; /* the file, byte for byte, with a NUL behind it: the tree has lost NaN and the spelling */
    size_t length;
    const char *model_type;           /* NULL when config.json has none */
    const char *transformers_weights; /* the file it names as the weights, or NULL */
    /* Numbers under certain keys, anywhere in the file: num_experts, num_local_experts, n_routed_experts and
     * moe_num_experts; hidden_size and its other names; intermediate_size, moe_intermediate_size and theirs.
     * Of the latter two also those of a list. */
    struct config_set expert_counts, hidden_sizes, inner_sizes;
};

bool config_set_has(const struct config_set *set, uint64_t number);

/* text need not end in NUL; path is for messages. Longer than CONFIG_LENGTH_MAX is refused. */
int config_parse(const char *path, const char *text, size_t length, struct config *config, struct error *err);
/* The positive integers at the dotted paths (separated by spaces), e.g. "d_ff" or
 * "text_config.moe_intermediate_size"; of a list all of its members. Without duplicates; at most max. Returns
 * their number. config may be NULL. */
size_t config_numbers(const struct config *config, const char *paths, uint64_t *numbers, size_t max);

/* Whether config.json says that the model has no MoE layer: it counts no experts or one, or all its layers are
 * dense (FIRST_KEYS, STEP_KEYS, mlp_only_layers, mlp_layer_types and others like these), in each model that it
 * describes. */
bool config_is_dense(const struct config *config);

void config_free(struct config *config);

#endif
