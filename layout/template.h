/* Name templates: "{block}.experts.{expert}.gate_proj.weight".
 *
 * {block} comes first and takes what is left, any text but the empty one; every other hole is an axis whose
 * value is a decimal integer without leading zeros. So a name is matched from the right, with no search. */
#ifndef MOEFS_LAYOUT_TEMPLATE_H
#define MOEFS_LAYOUT_TEMPLATE_H

#include "axes.h"

#define TEMPLATE_HOLES_MAX 2

struct name_template {
    const char *text;
    uint8_t n_holes;                   /* besides {block} */
    uint8_t holes[TEMPLATE_HOLES_MAX]; /* axes, left to right */
    /* literals[0] follows {block}; literals[i + 1] follows hole i */
    struct {
        const char *text;
        size_t length;
    } literals[TEMPLATE_HOLES_MAX + 1];
};

struct name_match {
    size_t block_length; /* the block is the name's first bytes */
    uint64_t values[TEMPLATE_HOLES_MAX];
};

/* Parses a template. Holes name axes (added to words where new). The text is copied into the arena. */
int template_parse(const char *text, struct axis_words *words, struct arena *arena,
                   struct name_template *result, struct error *err);

bool template_match(const struct name_template *t, const char *name, size_t length, struct name_match *match);

/* Matches the stem of the template's names: the name without a closing ".weight". */
bool template_match_stem(const struct name_template *t, const char *stem, size_t length,
                         struct name_match *match);

/* The name that the template gives, in the arena. */
const char *template_format(const struct name_template *t, const char *block, const uint64_t *values,
                            struct arena *arena);

#endif
