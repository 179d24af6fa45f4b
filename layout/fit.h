/* Does a layout fit the names and shapes of one block? The inner part of recognition. */
#ifndef MOEFS_LAYOUT_FIT_H
#define MOEFS_LAYOUT_FIT_H

#include "recognise.h"

/* One tensor's name fits one form of one layout. */
struct hit {
    uint32_t block;
    uint32_t tensor;
    uint64_t value; /* the integer in the name; 0 where the form has none */
    uint8_t layout; /* in layouts.layouts */
    uint8_t form;
    uint8_t word; /* the value of the enumerated axis, 0 where there is none */
};

/* By block, layout, word, form, value. */
int hit_compare(const void *a, const void *b);

/* One value of the enumerated axis (or the only one): its hits by form, and the sizes that follow. */
struct fit_word {
    const struct hit *of_form[FORMS_MAX];
    size_t n_of_form[FORMS_MAX];
    uint64_t sizes[AXIS_WORDS_MAX];
};

struct fit {
    uint8_t n_words;
    struct fit_word words[ENUMERATION_WORDS_MAX];
};

/* hits: all of one block and one layout, sorted. Composite integers are taken apart in place and the hits
 * sorted again. Complete is a group whose weights are there with all projections, every integer once, all
 * experts of one shape, and the sizes agree over all tensors, and with config.json where the rule asks it. -1
 * with the reason. */
int fit_layout(const struct recognise_input *input, const struct block_rule *rule,
               const struct bound_layout *bound, const char *block, struct hit *hits, size_t n,
               struct arena *arena, struct fit *fit, struct error *err);

/* hits: of tensors of one block that share the stem of one layout's weights, all of forms of weights, several
 * of one weight perhaps; they are sorted. 0 when there is one for every weight: *n_experts is the number of
 * experts in their names (0 where names do not tell). -1 with the first stem that is missing. */
int fit_stems(const struct recognise_input *input, const struct block_rule *rule,
              const struct bound_layout *bound, const char *block, struct hit *hits, size_t n,
              struct arena *arena, uint64_t *n_experts, struct error *err);

#endif
