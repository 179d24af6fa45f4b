/* Name templates: "{block}.experts.{expert}.gate_proj.weight".
 *
 * {block} comes first and takes what is left, any text but the empty one. Every other hole holds coordinates:
 * an axis, as a decimal integer without leading zeros; an enumerated axis, as one of its words ({modality}:
 * "text" or "vision"); or both in one integer ({modality expert}: the word's number times the count of
 * experts, plus the expert). So a name is matched from the right, with no search. */
#ifndef MOEFS_LAYOUT_TEMPLATE_H
#define MOEFS_LAYOUT_TEMPLATE_H

#include "axes.h"

#define TEMPLATE_HOLES_MAX 2
#define ENUMERATION_WORDS_MAX 4

/* An axis whose values have names. n == 0: there is none. */
struct enumeration {
    uint8_t axis;
    uint8_t n;
    const char *words[ENUMERATION_WORDS_MAX];
};

enum hole_kind { HOLE_INTEGER, HOLE_WORD, HOLE_COMPOSITE };

struct template_hole {
    enum hole_kind kind;
    uint8_t axis; /* HOLE_INTEGER, HOLE_COMPOSITE: the axis of the integer; HOLE_WORD: the enumerated one */
};

struct name_template {
    const char *text;
    const struct enumeration *enumeration;          /* whose words HOLE_WORD and HOLE_COMPOSITE mean */
    uint8_t n_holes;                                /* besides {block} */
    struct template_hole holes[TEMPLATE_HOLES_MAX]; /* left to right */
    /* literals[0] follows {block}; literals[i + 1] follows hole i */
    struct {
        const char *text;
        size_t length;
    } literals[TEMPLATE_HOLES_MAX + 1];
};

struct name_match {
    size_t block_length;                 /* the block is the name's first bytes */
    uint64_t values[TEMPLATE_HOLES_MAX]; /* of each hole; of a word: its number */
};

/* Parses a template. Holes name axes (added to words where new) or the enumeration's axis; the enumeration
 * must outlive the template. The text is copied into the arena. */
int template_parse(const char *text, const struct enumeration *enumeration, struct axis_words *words,
                   struct arena *arena, struct name_template *result, struct error *err);

bool template_match(const struct name_template *t, const char *name, size_t length, struct name_match *match);

/* Matches the stem of the template's names: the name without a closing ".weight". */
bool template_match_stem(const struct name_template *t, const char *stem, size_t length,
                         struct name_match *match);

/* The length of a name without a closing ".weight". */
size_t template_stem_length(const char *name);

/* The name that the template gives for one value of each hole, in the arena. */
const char *template_format(const struct name_template *t, const char *block, const uint64_t *values,
                            struct arena *arena);

/* The name of the tensor with this integer, for one value (word) of the enumerated axis: both are left out where
 * the template has no hole for them. sizes: of the axes; a composite's integer counts through its axis once for
 * each word. */
const char *template_name(const struct name_template *t, const char *block, uint8_t word,
                          const uint64_t sizes[AXIS_WORDS_MAX], uint64_t value, struct arena *arena);

/* The hole that holds an integer (alone or in a composite), or -1: its axis is in names. */
int template_integer_hole(const struct name_template *t);
/* The hole that holds the enumerated axis (as a word or in a composite), or -1. */
int template_word_hole(const struct name_template *t);

#endif
