/* What is known: layouts (where each coordinate of an expert's weight lives) and architectures (which layouts
 * a model type uses). Both are JSON (layout/data/), built into the binary; docs/layouts.md specifies the
 * format. */
#ifndef MOEFS_LAYOUT_LAYOUTS_H
#define MOEFS_LAYOUT_LAYOUTS_H

#include "axes.h"
#include "error.h"
#include "memory.h"
#include "template.h"

#include <stdbool.h>

enum proj { PROJ_GATE, PROJ_UP, PROJ_DOWN, PROJ_COUNT };

/* "gate" */
const char *proj_name(enum proj proj);

#define FORMS_MAX 8 /* kinds of tensor in one layout */

/* One kind of stored tensor: which projections it holds, in which order, and where the coordinates are. */
struct form {
    const char *part; /* "weight" */
    const char *name; /* template with the macros {experts} and {proj} still in it */
    uint8_t n_projs;
    uint8_t projs[PROJ_COUNT]; /* enum proj, in the order of their positions on the axis `proj` */
    struct axes axes;
};

struct layout {
    const char *name;
    const char *summary;
    struct form forms[FORMS_MAX];
    uint8_t n_forms;
    /* A tensor holds gate and up together: then neither names nor shapes tell which comes first. */
    bool fused;
};

/* A layout as one architecture spells it: with names that can be matched. */
struct bound_layout {
    const struct layout *layout;
    struct name_template names[FORMS_MAX]; /* of layout->forms */
};

/* A list of layouts: "per-expert|merged". */
#define LAYOUT_LIST_MAX 4
struct layout_list {
    const struct layout *list[LAYOUT_LIST_MAX];
    uint8_t n;
    bool any; /* "any": leave what is there */
};

/* Some blocks of an architecture: which layouts they use. */
struct block_rule {
    const char *blocks; /* globs separated by spaces; NULL: every block */
    struct layout_list original, v5;
};

#define BLOCK_RULES_MAX 4
#define LOADERS_MAX 12
struct architecture {
    const char **types; /* model_types, NULL-terminated */
    struct block_rule rules[BLOCK_RULES_MAX];
    uint8_t n_rules;
    /* Which known loaders take a layout of this architecture: for people. */
    struct {
        const struct layout *layout;
        const char *loaders[LOADERS_MAX];
        uint8_t n;
    } loaders[LOADERS_MAX];
    uint8_t n_loaders;
};

struct layouts {
    struct arena arena;
    struct axis_words words;
    struct layout *layouts;
    uint8_t n_layouts;
    struct bound_layout *bound; /* one for each layout, default spelling */
    struct architecture *architectures;
    uint8_t n_architectures;
    struct architecture unknown; /* no layouts of its own */
    const char *ignored; /* globs of blocks that transformers does not load (multi-token prediction) */
    /* Axes that some layout keeps in the name: a tensor is computed slab by slab along these. */
    bool enumerated[AXIS_WORDS_MAX];
};

/* Reads the built-in data. Fails only when that is malformed (a bug: the unit tests load it). */
int layouts_load(struct layouts *layouts, struct error *err);
void layouts_free(struct layouts *layouts);

/* The layout of that name, or NULL. */
const struct layout *layouts_find(const struct layouts *layouts, const char *name);
const struct bound_layout *layouts_bound(const struct layouts *layouts, const struct layout *layout);

/* Refuses a name that is neither a layout's nor "v5" nor "original", with the nearest names. option: "--to".
 */
int layouts_check_name(const struct layouts *layouts, const char *option, const char *name,
                       struct error *err);

/* The entry of a model type, or &layouts->unknown (also for NULL). */
const struct architecture *layouts_architecture(const struct layouts *layouts, const char *model_type);

/* The rule whose globs fit the block first, or NULL (an architecture without rules). */
const struct block_rule *architecture_rule(const struct architecture *architecture, const char *block);

/* Whether transformers ignores the block's tensors. */
bool layouts_ignored(const struct layouts *layouts, const char *block);

bool layout_list_has(const struct layout_list *list, const struct layout *layout);

#endif
