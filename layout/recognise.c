/* Recognition: which tensors are experts' weights, and in which layout each block stores them. */
#include "recognising.h"
#include "layout/base/array.h"

#include <stdio.h>
#include <string.h>

static const UT_icd hit_icd = {sizeof(struct hit), NULL, NULL, NULL};
static const UT_icd group_icd = {sizeof(struct group), NULL, NULL, NULL};
static const UT_icd unfit_icd = {sizeof(struct unfit_block), NULL, NULL, NULL};

struct layout_list recognise_meaning(const struct layouts *layouts, const struct block_rule *rule,
                                     const char *word)
{
    if (word && strcmp(word, "v5") == 0)
        return rule ? rule->v5 : (struct layout_list){0};
    if (word && strcmp(word, "original") == 0)
        return rule ? rule->original : (struct layout_list){0};
    const struct layout *layout = word ? layouts_find(layouts, word) : NULL;
    return (struct layout_list){.list = {layout}, .n = layout != NULL};
}

struct block_entry *recognising_find_block(const struct recognising *work, const char *name, size_t length)
{
    struct block_entry *entry;

    HASH_FIND(hh, work->by_name, name, length, entry);
    return entry;
}

struct block_entry *recognising_block(struct recognising *work, const char *name, size_t length)
{
    struct block_entry *entry = recognising_find_block(work, name, length);

    if (!entry) {
        entry = arena_alloc(&work->result->arena, sizeof *entry);
        *entry = (struct block_entry){.name = arena_strndup(&work->result->arena, name, length),
                                      .number = utarray_len(work->blocks),
                                      .unfit = NO_UNFIT};
        HASH_ADD_KEYPTR(hh, work->by_name, entry->name, length, entry);
        utarray_push_back(work->blocks, &entry);
    }
    return entry;
}

static const char *info_name(const struct recognising *work, uint32_t tensor)
{
    return work->input->tensors[tensor]->name;
}

/* ---- which names could be experts' ---- */

static void find_candidates(struct recognising *work)
{
    const struct layouts *layouts = work->input->layouts;

    for (unsigned r = 0; r < work->input->architecture->n_rules; r++) {
        const struct block_rule *rule = &work->input->architecture->rules[r];
        struct layout_list from = recognise_meaning(layouts, rule, work->input->from);
        for (unsigned l = 0; l < layouts->n_layouts; l++) {
            const struct layout *layout = &layouts->layouts[l];
            work->candidates[r][l] = layout->generic || layout_list_has(&rule->original, layout) ||
                                     layout_list_has(&rule->v5, layout) || layout_list_has(&from, layout);
        }
    }
}

/* Whether the rule is the one for the block that the name begins with. */
static bool owns_block(const struct architecture *architecture, const struct block_rule *rule,
                       const char *name, size_t length)
{
    if (architecture->n_rules == 1 && !rule->blocks)
        return true;
    cleanup_free char *block = xstrndup(name, length);
    return architecture_rule(architecture, block) == rule;
}

bool recognising_next_form(const struct recognising *work, const char *name, size_t length,
                           template_matcher *matches, struct form_cursor *at, struct found_form *found)
{
    const struct layouts *layouts = work->input->layouts;
    const struct architecture *architecture = work->input->architecture;

    for (; at->rule < architecture->n_rules; at->rule++, at->layout = 0) {
        const struct block_rule *rule = &architecture->rules[at->rule];
        for (; at->layout < layouts->n_layouts; at->layout++, at->form = 0) {
            const struct bound_layout *bound = &rule->bound[at->layout];
            if (!work->candidates[at->rule][at->layout])
                continue;
            while (at->form < bound->n_forms) {
                unsigned f = at->form++;
                if (!matches(&bound->forms[f].name, name, length, &found->match) ||
                    !owns_block(architecture, rule, name, found->match.block_length))
                    continue;
                found->rule = rule;
                found->bound = bound;
                found->layout = (uint8_t)at->layout;
                found->form = (uint8_t)f;
                return true;
            }
        }
    }
    return false;
}

struct hit recognising_hit(const struct found_form *found, uint32_t block, uint32_t tensor)
{
    const struct name_template *name = &found->bound->forms[found->form].name;
    int integer = template_integer_hole(name), word = template_word_hole(name);
    bool is_word = word >= 0 && name->holes[word].kind == HOLE_WORD;

    return (struct hit){.block = block,
                        .tensor = tensor,
                        .value = integer >= 0 ? found->match.values[integer] : 0,
                        .layout = found->layout,
                        .form = found->form,
                        .word = is_word ? (uint8_t)found->match.values[word] : 0};
}

static void find_hits(struct recognising *work, const char *name, uint32_t tensor)
{
    size_t length = strlen(name);
    struct form_cursor at = {0};
    struct found_form found;

    while (recognising_next_form(work, name, length, template_match, &at, &found)) {
        uint32_t block = recognising_block(work, name, found.match.block_length)->number;
        struct hit hit = recognising_hit(&found, block, tensor);
        utarray_push_back(work->hits, &hit);
    }
}

/* ---- the decision for one block ---- */

struct candidate {
    const struct bound_layout *bound;
    struct fit fit;
    bool fits;
    uint8_t priority; /* 2: what --from says; 1: the architecture's own; 0: generic */
    struct error reason;
};

const char *group_title(const struct group *group, struct arena *arena)
{
    if (group->rule->enumeration.n == 0)
        return group->block;
    cleanup_free char *title =
        xasprintf("%s (%s)", group->block, group->rule->enumeration.words[group->word]);
    return arena_strdup(arena, title);
}

static void add_group(struct recognising *work, const struct block_entry *block,
                      const struct candidate *candidate, const struct block_rule *rule, uint8_t word)
{
    const struct bound_layout *bound = candidate->bound;
    const struct fit_word *fit = &candidate->fit.words[word];
    bool unknown = work->input->architecture == &work->input->layouts->unknown;
    uint8_t expert = axis_find(&work->input->layouts->words, "expert");
    struct group group = {.block = block->name,
                          .word = word,
                          .bound = bound,
                          .rule = rule,
                          .from_option = candidate->priority == 2,
                          .ambiguous = candidate->priority == 0 && unknown && bound->fused,
                          .n_experts = expert != AXIS_NONE ? fit->sizes[expert] : 0,
                          .companion = NO_TENSOR};

    memcpy(group.sizes, fit->sizes, sizeof group.sizes);
    for (unsigned f = 0; f < bound->n_forms; f++) {
        size_t n = fit->n_of_form[f];
        uint32_t *members = arena_alloc(&work->result->arena, n * sizeof *members);
        for (size_t i = 0; i < n; i++) {
            members[i] = fit->of_form[f][i].tensor;
            work->result->group_of[members[i]] = utarray_len(work->groups);
        }
        group.members[f] = members;
        group.n_members[f] = (uint32_t)n;
    }
    utarray_push_back(work->groups, &group);
}

struct unfit_block *recognising_add_unfit(struct recognising *work, struct block_entry *block, char *reason)
{
    struct unfit_block unfit = {
        .block = block->name, .reason = reason, .codes = NO_TENSOR, .companion = NO_TENSOR};

    if (block->unfit == NO_UNFIT)
        block->unfit = utarray_len(work->unfit);
    utarray_push_back(work->unfit, &unfit);
    return (struct unfit_block *)utarray_back(work->unfit);
}

/* Why none fits: the reasons of all candidates in one line. */
static char *all_reasons(const struct candidate *candidates, unsigned n)
{
    char *text = NULL;

    for (unsigned i = 0; i < n; i++) {
        char *longer =
            xasprintf("%s%s%s: %s", text ? text : "", text ? "; " : "", candidates[i].bound->layout->name,
                      candidates[i].reason.text ? candidates[i].reason.text : "fits");
        free(text);
        text = longer;
    }
    return text;
}

/* A tensor of weights that the first candidate has and the second has not, or NO_TENSOR. */
static uint32_t find_own_weight(const struct recognising *work, const struct candidate *c,
                                const struct candidate *other)
{
    uint32_t own = NO_TENSOR;

    for (unsigned w = 0; w < c->fit.n_words; w++)
        for (unsigned f = 0; f < c->bound->n_forms; f++) {
            if (!layouts_is_main(work->input->layouts, c->bound->forms[f].part) ||
                c->fit.words[w].n_of_form[f] == 0)
                continue;
            bool shared = false;
            own = c->fit.words[w].of_form[f][0].tensor;
            for (unsigned g = 0; g < other->bound->n_forms; g++)
                for (unsigned v = 0; v < other->fit.n_words; v++)
                    shared |= other->fit.words[v].n_of_form[g] > 0 &&
                              other->fit.words[v].of_form[g][0].tensor == own;
            if (!shared)
                return own;
        }
    return NO_TENSOR;
}

/* Why not one of two that fit: they read the same tensors, or the block holds experts twice. */
static char *describe_doubt(const struct recognising *work, const struct candidate *best,
                            const struct candidate *second)
{
    const char *a = best->bound->layout->name, *b = second->bound->layout->name;
    uint32_t of_best = find_own_weight(work, best, second), of_second = find_own_weight(work, second, best);

    if (of_best == NO_TENSOR || of_second == NO_TENSOR)
        return xasprintf("both %s and %s fit, and nothing here tells which it is: say --from %s or --from %s",
                         a, b, a, b);
    return xasprintf(
        "two sets of experts in one block: %s (%s) and %s (%s). Leave one of them out: --exclude "
        "takes files",
        a, info_name(work, of_best), b, info_name(work, of_second));
}

/* The candidate to take, or NULL with *reason set (malloc'd). */
static const struct candidate *choose(const struct recognising *work, const struct candidate *candidates,
                                      unsigned n, char **reason)
{
    const struct candidate *best = NULL, *second = NULL;

    for (unsigned i = 0; i < n; i++) {
        const struct candidate *c = &candidates[i];
        if (!c->fits)
            continue;
        if (!best || c->priority > best->priority) {
            best = c;
            second = NULL;
        } else if (c->priority == best->priority && !bound_same_placement(c->bound, best->bound)) {
            second = c;
        }
    }
    if (!best)
        *reason = all_reasons(candidates, n);
    else if (second)
        *reason = describe_doubt(work, best, second);
    return second ? NULL : best;
}

/* A weight of the block that its groups do not contain: of a second set of experts, whole or in part. */
static const struct hit *find_unclaimed(const struct recognising *work, const struct block_rule *rule,
                                        const struct hit *hits, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct form *form = &rule->bound[hits[i].layout].forms[hits[i].form];
        if (work->result->group_of[hits[i].tensor] == NO_GROUP &&
            layouts_is_main(work->input->layouts, form->part))
            return &hits[i];
    }
    return NULL;
}

static void try_candidate(struct recognising *work, const struct block_rule *rule, const char *block,
                          struct hit *hits, size_t n, struct candidate *c)
{
    const struct recognise_input *input = work->input;
    const struct layout *layout = &input->layouts->layouts[hits[0].layout];
    struct layout_list from = recognise_meaning(input->layouts, rule, input->from);
    bool own = layout_list_has(&rule->original, layout) || layout_list_has(&rule->v5, layout);

    *c = (struct candidate){.bound = layouts_bound(input->layouts, rule, layout)};
    c->priority = layout_list_has(&from, layout) ? 2 : own ? 1 : 0;
    c->fits =
        fit_layout(input, rule, c->bound, block, hits, n, &work->result->arena, &c->fit, &c->reason) == 0;
}

/* The layout that was chosen: its groups, and a second set of experts beside them. */
static void take_candidate(struct recognising *work, const struct candidate *best, struct hit *hits, size_t n)
{
    struct block_entry *block = *(struct block_entry **)array_at(work->blocks, hits[0].block);
    const struct block_rule *rule = architecture_rule(work->input->architecture, block->name);

    block->first_group = utarray_len(work->groups);
    block->n_groups = best->fit.n_words;
    for (uint8_t w = 0; w < best->fit.n_words; w++)
        add_group(work, block, best, rule, w);
    const struct hit *unclaimed = find_unclaimed(work, rule, hits, n);
    if (unclaimed)
        recognising_add_unfit(
            work, block,
            xasprintf("it is a complete %s group, but %s is there too: two sets of experts in one block",
                      best->bound->layout->name, info_name(work, unclaimed->tensor)));
}

static void decide_block(struct recognising *work, struct hit *hits, size_t n)
{
    struct block_entry *block = *(struct block_entry **)array_at(work->blocks, hits[0].block);
    const struct block_rule *rule = architecture_rule(work->input->architecture, block->name);
    struct candidate *candidates = xcalloc(LAYOUTS_MAX, sizeof *candidates);
    unsigned n_candidates = 0;
    char *reason = NULL;

    for (size_t i = 0, next; i < n; i = next) {
        for (next = i; next < n && hits[next].layout == hits[i].layout; next++)
            ;
        try_candidate(work, rule, block->name, hits + i, next - i, &candidates[n_candidates++]);
    }
    const struct candidate *best = choose(work, candidates, n_candidates, &reason);
    if (best)
        take_candidate(work, best, hits, n);
    else
        recognising_add_unfit(work, block, reason);
    for (unsigned i = 0; i < n_candidates; i++)
        error_free(&candidates[i].reason);
    free(candidates);
}

static int group_compare(const void *a, const void *b)
{
    const struct group *x = a, *y = b;
    int order = strcmp(x->block, y->block);

    return order ? order : x->word - y->word;
}

static int unfit_compare(const void *a, const void *b)
{
    return strcmp(((const struct unfit_block *)a)->block, ((const struct unfit_block *)b)->block);
}

static uint32_t any_member(const struct group *group)
{
    unsigned f = 0;

    while (group->n_members[f] == 0)
        f++;
    return group->members[f][0];
}

/* Groups in the order of their blocks' names, and group_of along with them. */
static void sort_result(struct recognising *work)
{
    struct recognition *result = work->result;

    result->groups = array_take(work->groups, &result->arena, &result->n_groups);
    result->unfit = array_take(work->unfit, &result->arena, &result->n_unfit);
    if (result->n_groups > 0)
        qsort(result->groups, result->n_groups, sizeof *result->groups, group_compare);
    if (result->n_unfit > 0)
        qsort(result->unfit, result->n_unfit, sizeof *result->unfit, unfit_compare);
    uint32_t *new_number = xmalloc(result->n_groups * sizeof *new_number);
    for (uint32_t g = 0; g < result->n_groups; g++)
        new_number[result->group_of[any_member(&result->groups[g])]] = g;
    for (uint32_t t = 0; t < work->input->n_tensors; t++)
        if (result->group_of[t] != NO_GROUP)
            result->group_of[t] = new_number[result->group_of[t]];
    free(new_number);
}

void recognise(const struct recognise_input *input, struct recognition *result)
{
    struct recognising work = {.input = input, .result = result};

    *result = (struct recognition){0};
    result->group_of = arena_alloc(&result->arena, input->n_tensors * sizeof *result->group_of);
    memset(result->group_of, 0xff, input->n_tensors * sizeof *result->group_of);
    utarray_new(work.blocks, &ut_ptr_icd);
    utarray_new(work.hits, &hit_icd);
    utarray_new(work.groups, &group_icd);
    utarray_new(work.unfit, &unfit_icd);

    find_candidates(&work);
    for (uint32_t t = 0; t < input->n_tensors; t++)
        find_hits(&work, input->tensors[t]->name, t);
    if (utarray_len(work.hits) > 0)
        utarray_sort(work.hits, hit_compare);
    struct hit *hits = (struct hit *)utarray_front(work.hits);
    for (size_t i = 0, next; i < utarray_len(work.hits); i = next) {
        for (next = i; next < utarray_len(work.hits) && hits[next].block == hits[i].block; next++)
            ;
        decide_block(&work, hits + i, next - i);
    }
    recognising_find_companions(&work);
    sort_result(&work);

    HASH_CLEAR(hh, work.by_name);
    utarray_free(work.blocks);
    utarray_free(work.hits);
    utarray_free(work.groups);
    utarray_free(work.unfit);
}

void recognition_free(struct recognition *recognition)
{
    for (uint32_t i = 0; i < recognition->n_unfit; i++)
        free(recognition->unfit[i].reason);
    arena_free(&recognition->arena);
}
