/* Recognition: which tensors are experts' weights, and in which layout each group of them is stored.
 *
 * From names and shapes alone, block by block. gate_up and down are looked at together, so that square
 * matrices (2I == H, I == H) leave no doubt between merged and in-out. A pure function; no I/O. */
#ifndef MOEFS_LAYOUT_RECOGNISE_H
#define MOEFS_LAYOUT_RECOGNISE_H

#include "layout/format/config.h"
#include "layouts.h"
#include "layout/format/safetensors.h"

#define NO_TENSOR UINT32_MAX
#define NO_GROUP UINT32_MAX

/* The experts of one block (and of one value of its enumerated axis), complete and of one size. */
struct group {
    const char *block;
    uint8_t word;                     /* the value of the rule's enumerated axis; 0 where there is none */
    const struct bound_layout *bound; /* as they are stored */
    const struct block_rule *rule;
    bool from_option; /* read so because --from said it */
    bool ambiguous;   /* its architecture is unknown and the order of gate and up cannot be seen */
    uint64_t sizes[AXIS_WORDS_MAX];
    uint64_t n_experts;
    /* The tensor of form f with name integer v (0 where the name has none): members[f][v]. */
    const uint32_t *members[FORMS_MAX];
    uint32_t n_members[FORMS_MAX]; /* 0: the checkpoint has nothing of this form's part */
    /* Further tensors of these weights that the layout does not describe: scales, biases, adapters. */
    uint32_t n_companions;
    uint32_t companion; /* the first of them, or NO_TENSOR */
};

/* A block with tensors of experts that no layout fits. */
struct unfit_block {
    const char *block;
    char *reason; /* owned */
    /* Layouts (by their number) for whose every weight there is a tensor that shares its stem, the name without
     * ".weight": quantised weights and those with an adapter may stay as they are where such a layout is wanted. */
    uint32_t named;
    uint64_t n_experts; /* by these names; 0 where they do not tell */
    bool exact;         /* a weight has exactly the name that such a layout gives it */
    uint32_t
        codes; /* a tensor of these that holds no floating-point weights of 16 bits or more, or NO_TENSOR */
    uint32_t companion; /* another one on the stem of one of them, or NO_TENSOR */
};

struct recognition {
    struct arena arena;
    struct group *groups; /* by block, then by word */
    uint32_t n_groups;
    struct unfit_block *unfit; /* by block */
    uint32_t n_unfit;
    uint32_t *group_of; /* for each tensor: its group (members and companions), or NO_GROUP */
};

struct recognise_input {
    const struct layouts *layouts;
    const struct architecture *architecture;
    const struct config *config; /* for the sizes that an architecture takes from it */
    const struct tensor_info *const *tensors;
    uint32_t n_tensors;
    const char *const *absent; /* names that should exist and do not: a hole where an expert is meant */
    size_t n_absent;
    const char *from; /* a layout's name, "v5", "original" (checked), or NULL */
};

/* Always succeeds: what fits is in groups, what does not is in unfit. */
void recognise(const struct recognise_input *input, struct recognition *result);
void recognition_free(struct recognition *recognition);

/* The layouts that the word ("v5", "original", a layout's name) means for blocks of this rule; a NULL word
 * gives an empty list. */
struct layout_list recognise_meaning(const struct layouts *layouts, const struct block_rule *rule,
                                     const char *word);

/* "model.layers.0.mlp", or "model.layers.0.mlp (vision)": for messages; in the arena. */
const char *group_title(const struct group *group, struct arena *arena);

#endif
