/* What is known: layouts (where each coordinate of an expert's weight lives) and architectures (which layouts
 * a model type uses, and how it spells them). All of it is JSON (layout/data/), built into the binary;
 * docs/layouts.md specifies the format.
 *
 * The words that layout/ uses:
 *
 *     block        the module that holds one MoE layer's experts, by its name: "model.layers.3.mlp"
 *     proj         one of an expert's matrices: gate, up, down
 *     axis         a coordinate of an expert's weight: expert, inner, hidden, or one that an architecture adds
 *     grain        N in "inner/N": N positions of an axis that share one element, such as one scale
 *     part         weight, bias, scale_inv, ...: what a tensor holds of the experts
 *     companion    a tensor that goes with weights and is none: a bias, a scale, an adapter. As a part of the
 *                  layout it is converted with them; one that the layout does not describe is not
 *     form         one kind of stored tensor: a part of one or several projs, its axes and its names
 *     word         the value of an axis whose values have names: "text", "vision"
 *     layout       the forms of all parts, as layouts.json or a user writes them
 *     bound layout a layout in the spelling of one architecture
 *     rule         what an architecture says of some of its blocks: their layouts and spelling
 *     stem         a weight's name without ".weight", with which its companions' names begin
 *     hit          a tensor whose name is one that a form gives
 *     fit          the outcome of comparing a block's hits with one layout: complete, of one size, or why not
 *     group        the experts of one block (and word) in the layout that fits: what is converted as a whole
 *     unfit block  a block with tensors of experts that no layout fits */
#ifndef MOEFS_LAYOUT_LAYOUTS_H
#define MOEFS_LAYOUT_LAYOUTS_H

#include "axes.h"
#include "layout/base/error.h"
#include "layout/base/memory.h"
#include "template.h"
#include "user_layout.h"

#include <stdbool.h>

struct cJSON;

enum proj { PROJ_GATE, PROJ_UP, PROJ_DOWN, PROJ_COUNT };

/* "gate" */
const char *proj_name(enum proj proj);

#define FORMS_MAX 16 /* kinds of tensor in one layout, its companions' included */
#define PARTS_MAX 12
#define LAYOUTS_MAX 24

/* A layout as it is written down. */
struct layout {
    const char *name;
    const char *summary;
    bool generic;                   /* tried for every architecture, not only for those whose own it is */
    const struct user_layout *user; /* the user's file it is from, or NULL */
    const char *block;              /* the target's blocks, e.g. "layers.{layer}.moe"; NULL: as they are */
    const struct cJSON *json;
    /* Pairs of templates for the names of tensors in no group: {from, to}, NULL-terminated. */
    const char *(*rename)[2];
    size_t n_renames;
};

/* One kind of stored tensor: which projections it holds, in which order, and where the coordinates are. */
struct form {
    uint8_t part; /* in layouts.parts: "weight", "bias", "scale_inv" ... */
    uint8_t n_projs;
    uint8_t projs[PROJ_COUNT]; /* enum proj, in the order of their positions on the axis `proj` */
    struct axes axes;
    struct name_template name;
};

/* A layout as one architecture spells it. */
struct bound_layout {
    const struct layout *layout;
    struct form *forms;
    uint8_t n_forms;
    /* A weight holds gate and up together: then neither names nor shapes tell which comes first. */
    bool fused;
};

/* A list of layouts: "per-expert|merged". */
#define LAYOUT_LIST_MAX 4
struct layout_list {
    const struct layout *list[LAYOUT_LIST_MAX];
    uint8_t n;
    bool any; /* "any": leave what is there */
};

/* Some blocks of an architecture: which layouts they use and how. */
struct block_rule {
    const struct cJSON *json; /* the group's entry in architectures.json, or NULL: the default spelling */
    const char *blocks;       /* globs separated by spaces; NULL: every block */
    struct layout_list original, v5;
    struct layout_list quantised; /* as original, of quantised checkpoints; empty: the same */
    struct enumeration enumeration;
    /* For axes whose size config.json tells: dotted paths, separated by spaces; NULL: not told. */
    const char *config[AXIS_WORDS_MAX];
    /* For axes that config.json counts: paths whose numbers add up to the size. There are at least as many as
     * the first path says; the others' may be left out of files. NULL: not told. */
    const char *counts[AXIS_WORDS_MAX];
    struct bound_layout *bound; /* one for each layout */
};

#define BLOCK_RULES_MAX 4
#define LOADERS_MAX 12
struct architecture {
    const char **types; /* model_types, NULL-terminated */
    struct block_rule rules[BLOCK_RULES_MAX];
    uint8_t n_rules; /* 0: nothing here is ever converted */
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
    struct cJSON *layouts_json, *architectures_json;
    struct user_layout users[LAYOUTS_USER_MAX];
    uint8_t n_users;
    struct axis_words words;
    const char *parts[PARTS_MAX];
    uint8_t n_parts;
    struct layout layouts[LAYOUTS_MAX];
    uint8_t n_layouts;
    struct architecture *architectures;
    uint8_t n_architectures;
    struct architecture unknown; /* one rule: default spelling, no layouts of its own */
    const char *ignored; /* globs of blocks that transformers does not load (multi-token prediction) */
    /* Axes that some layout keeps in the name: a tensor is computed slab by slab along these. */
    bool enumerated[AXIS_WORDS_MAX];
};

/* Parses the built-in data and the user's own layouts (NULL: none; a path of NULL: not this one); these are
 * called by their files' paths as given. Fails where one is malformed: with its file, line and key. */
int layouts_load(struct layouts *layouts, const struct layout_text users[LAYOUTS_USER_MAX],
                 struct error *err);

/* layouts_check_name() against the built-in layouts, without loading architectures. */
int layouts_check_built_in_name(const char *option, const char *name, struct error *err);
void layouts_free(struct layouts *layouts);

/* Whether the value of --to or --from means a file: it ends in ".json" or holds a "/". */
bool layouts_is_file(const char *name);

/* The layout of that name, or NULL. */
const struct layout *layouts_find(const struct layouts *layouts, const char *name);
const struct bound_layout *layouts_bound(const struct layouts *layouts, const struct block_rule *rule,
                                         const struct layout *layout);

/* Refuses a name that is neither a layout's nor "v5" nor "original", with the nearest names. option: the one
 * that was given the name, "--to". */
int layouts_check_name(const struct layouts *layouts, const char *option, const char *name,
                       struct error *err);

/* The entry of a model type, or &layouts->unknown (also for NULL). */
const struct architecture *layouts_architecture(const struct layouts *layouts, const char *model_type);

/* The rule whose globs fit the block first, or NULL. */
const struct block_rule *architecture_rule(const struct architecture *architecture, const char *block);

/* Whether transformers ignores the block's tensors. */
bool layouts_ignored(const struct layouts *layouts, const char *block);

bool layout_list_has(const struct layout_list *list, const struct layout *layout);

/* Whether both put every coordinate into the same place under the same names: they differ in nothing but the
 * layout's name (without a gate, merged and stacked are one). */
bool bound_same_placement(const struct bound_layout *a, const struct bound_layout *b);

/* Whether a part holds weights themselves, not companions of them. */
bool layouts_is_main(const struct layouts *layouts, uint8_t part);
/* Whether a part stands in for the weights where there are none: their bits, packed into integers. */
bool layouts_is_packed(const struct layouts *layouts, uint8_t part);

/* The form that holds this projection of the part, and the projection's position in it; FORMS_MAX where the
 * layout has none. */
unsigned bound_find_form(const struct bound_layout *bound, uint8_t part, enum proj proj, uint8_t *position);

/* Whether a part holds scales, by which codes become weights: its name says so ("scale_inv", "scales"). */
bool layouts_is_scale(const struct layouts *layouts, uint8_t part);

/* Whether the layout describes the part at all. */
bool bound_has_part(const struct bound_layout *bound, uint8_t part);

/* The form in words, in the arena: "gate up: expert (proj inner) hidden". */
const char *form_text(const struct layouts *layouts, const struct form *form, struct arena *arena);

/* The option that must be given before the part is converted ("--fp8 keep"), or NULL where none is needed. */
const char *layouts_part_option(const struct layouts *layouts, const struct layout *layout, uint8_t part);

#endif
