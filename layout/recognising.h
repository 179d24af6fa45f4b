/* What recognise() works with: shared by its parts. recognise.c finds the layout that fits each block,
 * companions.c the block that each of the other tensors belongs to. */
#ifndef MOEFS_LAYOUT_RECOGNISING_H
#define MOEFS_LAYOUT_RECOGNISING_H

#include "fit.h"
#include "layout/base/hash.h"
#include "recognise.h"

#include <utarray.h>

struct block_entry {
    const char *name; /* in the arena */
    uint32_t number;
    uint32_t first_group, n_groups;
    uint32_t unfit; /* the first reason why no layout fits it, or NO_UNFIT */
    /* Names of its weights and companions that the index has and no file: the first, and their number. */
    const char *absent;
    uint32_t n_absent;
    UT_hash_handle hh;
};

#define NO_UNFIT UINT32_MAX

struct recognising {
    const struct recognise_input *input;
    struct recognition *result;
    struct block_entry *by_name;
    UT_array *blocks; /* struct block_entry *, by number */
    UT_array *hits;   /* struct hit */
    UT_array *groups; /* struct group */
    UT_array *unfit;  /* struct unfit_block */
    /* The layouts that are tried for blocks of a rule: its own, the generic ones, and what --from says. */
    bool candidates[BLOCK_RULES_MAX][LAYOUTS_MAX];
};

/* A name and one form of one layout of one rule that it matches. */
struct found_form {
    const struct block_rule *rule;
    const struct bound_layout *bound;
    uint8_t layout, form;
    struct name_match match;
};

/* Where the search for the next form goes on. */
struct form_cursor {
    unsigned rule, layout, form;
};

typedef bool template_matcher(const struct name_template *t, const char *name, size_t length,
                              struct name_match *match);

/* The next form among the candidates that the name matches and whose rule owns the block in the name; false
 * when there is no other. */
bool recognising_next_form(const struct recognising *work, const char *name, size_t length,
                           template_matcher *matches, struct form_cursor *at, struct found_form *found);

/* The entry of a block, made where it is new; the name need not end in NUL. */
struct block_entry *recognising_block(struct recognising *work, const char *name, size_t length);
/* The entry of a block that is there, or NULL. */
struct block_entry *recognising_find_block(const struct recognising *work, const char *name, size_t length);

/* What the tensor's name, matched with this form, says. */
struct hit recognising_hit(const struct found_form *found, uint32_t block, uint32_t tensor);

/* Adds a reason why no layout fits the block; takes over `reason`. */
struct unfit_block *recognising_add_unfit(struct recognising *work, struct block_entry *block, char *reason);

/* Once the groups are known: gives every other tensor that belongs to a group to it, describes blocks of
 * tensors that no layout fits, and finds names that the index promises and no file has. */
void recognising_find_companions(struct recognising *work);

#endif
