#include "recognise.h"
#include "layout/base/array.h"
#include "fit.h"
#include "layout/base/hash.h"

#include <stdio.h>
#include <string.h>

struct block_entry {
    const char *name; /* in the arena */
    uint32_t number;
    UT_hash_handle hh;
};

/* The groups of one block. */
struct block_groups {
    uint32_t first, n;
};

struct work {
    const struct recognise_input *input;
    struct recognition *result;
    struct block_entry *by_name;
    UT_array *block_names; /* const char * */
    UT_array *hits;        /* struct hit */
    UT_array *groups;      /* struct group */
    UT_array *unfit;       /* struct unfit_block */
    /* For each block that has hits (the first n_hit_blocks). */
    struct block_groups *groups_of_block;
    uint32_t n_hit_blocks;
    /* The layouts that are tried for blocks of a rule: its own, the generic ones, and what --from says. */
    bool candidates[BLOCK_RULES_MAX][LAYOUTS_MAX];
};

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

static uint32_t intern_block(struct work *work, const char *name, size_t length)
{
    struct block_entry *entry;

    HASH_FIND(hh, work->by_name, name, length, entry);
    if (!entry) {
        entry = arena_alloc(&work->result->arena, sizeof *entry);
        entry->name = arena_strndup(&work->result->arena, name, length);
        entry->number = utarray_len(work->block_names);
        HASH_ADD_KEYPTR(hh, work->by_name, entry->name, length, entry);
        utarray_push_back(work->block_names, &entry->name);
    }
    return entry->number;
}

static const char *block_name(const struct work *work, uint32_t block)
{
    return *(const char **)array_at(work->block_names, block);
}

static const char *info_name(const struct work *work, uint32_t tensor)
{
    return work->input->tensors[tensor]->name;
}

/* ---- which names could be experts' ---- */

static void find_candidates(struct work *work)
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

/* A name and one form of one layout of one rule that it matches. */
struct found {
    const struct block_rule *rule;
    const struct bound_layout *bound;
    uint8_t layout, form;
    struct name_match match;
};

typedef bool template_matcher(const struct name_template *t, const char *name, size_t length,
                              struct name_match *match);

/* The next match of the name from (*rule, found->layout, found->form) on, or false. */
struct cursor {
    unsigned rule, layout, form;
};

static bool next_match(const struct work *work, const char *name, size_t length, template_matcher *matches,
                       struct cursor *at, struct found *found)
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
                if (!matches(&bound->forms[f].name, name, length, &found->match))
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

static void find_hits(struct work *work, const char *name, uint32_t tensor)
{
    size_t length = strlen(name);
    struct cursor at = {0};
    struct found found;

    while (next_match(work, name, length, template_match, &at, &found)) {
        uint32_t block = intern_block(work, name, found.match.block_length);
        if (architecture_rule(work->input->architecture, block_name(work, block)) != found.rule)
            continue;
        const struct name_template *template = &found.bound->forms[found.form].name;
        int integer = template_integer_hole(template), word = template_word_hole(template);
        bool is_word = word >= 0 && template->holes[word].kind == HOLE_WORD;
        struct hit hit = {.block = block,
                          .tensor = tensor,
                          .value = integer >= 0 ? found.match.values[integer] : 0,
                          .layout = found.layout,
                          .form = found.form,
                          .word = is_word ? (uint8_t)found.match.values[word] : 0};
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

static void add_group(struct work *work, uint32_t block, const struct candidate *candidate,
                      const struct block_rule *rule, uint8_t word)
{
    const struct bound_layout *bound = candidate->bound;
    const struct fit_word *fit = &candidate->fit.words[word];
    bool unknown = work->input->architecture == &work->input->layouts->unknown;
    uint8_t expert = axis_find(&work->input->layouts->words, "expert");
    struct group group = {.block = block_name(work, block),
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

static void add_unfit(struct work *work, const char *block, char *reason)
{
    struct unfit_block unfit = {.block = block, .reason = reason, .companion = NO_TENSOR};

    utarray_push_back(work->unfit, &unfit);
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

/* The candidate to take, or NULL with *reason set (malloc'd). */
static const struct candidate *choose(const struct candidate *candidates, unsigned n, char **reason)
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
        *reason =
            xasprintf("both %s and %s fit, and nothing here tells which it is: say --from %s or --from %s",
                      best->bound->layout->name, second->bound->layout->name, best->bound->layout->name,
                      second->bound->layout->name);
    return second ? NULL : best;
}

/* Weights of the block that its groups do not contain: a second set of experts, whole or in part. */
static const struct hit *find_stranger(const struct work *work, const struct block_rule *rule,
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

static void try_candidate(struct work *work, const struct block_rule *rule, const char *block,
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

static void decide_block(struct work *work, struct hit *hits, size_t n)
{
    uint32_t block = hits[0].block;
    const char *name = block_name(work, block);
    const struct block_rule *rule = architecture_rule(work->input->architecture, name);
    struct candidate *candidates = xcalloc(LAYOUTS_MAX, sizeof *candidates);
    unsigned n_candidates = 0;
    char *reason = NULL;

    for (size_t i = 0, next; i < n; i = next) {
        for (next = i; next < n && hits[next].layout == hits[i].layout; next++)
            ;
        try_candidate(work, rule, name, hits + i, next - i, &candidates[n_candidates++]);
    }
    const struct candidate *best = choose(candidates, n_candidates, &reason);
    if (best) {
        work->groups_of_block[block] = (struct block_groups){utarray_len(work->groups), best->fit.n_words};
        for (uint8_t w = 0; w < best->fit.n_words; w++)
            add_group(work, block, best, rule, w);
        const struct hit *stranger = find_stranger(work, rule, hits, n);
        if (stranger)
            add_unfit(
                work, name,
                xasprintf("it is a complete %s group, but %s is there too: two sets of experts in one block",
                          best->bound->layout->name, info_name(work, stranger->tensor)));
    } else {
        add_unfit(work, name, reason);
        struct unfit_block *unfit = (struct unfit_block *)utarray_back(work->unfit);
        for (unsigned i = 0; i < n_candidates; i++)
            if (candidates[i].fit.named && !candidates[i].fits)
                unfit->named |= UINT32_C(1) << (candidates[i].bound->layout - work->input->layouts->layouts);
    }
    for (unsigned i = 0; i < n_candidates; i++)
        error_free(&candidates[i].reason);
    free(candidates);
}

/* ---- tensors near a group that are not its members ---- */

static const struct block_groups *find_groups(const struct work *work, const char *block, size_t length)
{
    struct block_entry *entry;

    HASH_FIND(hh, work->by_name, block, length, entry);
    if (!entry || entry->number >= work->n_hit_blocks || work->groups_of_block[entry->number].n == 0)
        return NULL;
    return &work->groups_of_block[entry->number];
}

/* A companion's name is a member's name without ".weight", then "." or "_" and something. */
static bool match_companion(struct work *work, const char *name, uint32_t *group)
{
    for (size_t length = strlen(name); length-- > 1;) {
        struct cursor at = {0};
        struct found found;
        if (name[length] != '.' && name[length] != '_')
            continue;
        while (next_match(work, name, length, template_match_stem, &at, &found)) {
            const struct block_groups *groups = find_groups(work, name, found.match.block_length);
            const struct group *first = groups ? array_at(work->groups, groups->first) : NULL;
            if (!first || first->bound != found.bound)
                continue;
            *group = groups->first;
            return true;
        }
    }
    return false;
}

/* The same for a block that no layout fits, by the layouts whose names are there. */
static struct unfit_block *match_unfit(struct work *work, const char *name)
{
    for (size_t length = strlen(name); length-- > 1;) {
        struct cursor at = {0};
        struct found found;
        if (name[length] != '.' && name[length] != '_')
            continue;
        while (next_match(work, name, length, template_match_stem, &at, &found))
            for (unsigned i = 0; i < utarray_len(work->unfit); i++) {
                struct unfit_block *unfit = array_at(work->unfit, i);
                if ((unfit->named >> found.layout & 1) && strlen(unfit->block) == found.match.block_length &&
                    memcmp(unfit->block, name, found.match.block_length) == 0)
                    return unfit;
            }
    }
    return NULL;
}

/* "....experts.<digits>.": where ".experts." begins, or 0. */
static size_t find_numbered_expert(const char *name)
{
    static const char word[] = ".experts.";

    for (const char *at = strstr(name, word); at; at = strstr(at + 1, word)) {
        size_t digits = strspn(at + sizeof word - 1, "0123456789");
        char behind = at[sizeof word - 1 + digits];
        if (digits > 0 && (behind == '.' || behind == '\0'))
            return (size_t)(at - name);
    }
    return 0;
}

/* The group that a tensor under "....experts.<digits>." belongs to: of the block whose name goes furthest.
 * False where there is no such tensor or no such block; *length is then where the block would end, or 0. */
static bool match_numbered(struct work *work, const char *name, uint32_t *group, size_t *length)
{
    *length = find_numbered_expert(name);
    for (size_t end = *length; end > 0; end--) {
        const struct block_groups *groups = name[end] == '.' ? find_groups(work, name, end) : NULL;
        if (!groups)
            continue;
        *group = groups->first;
        return true;
    }
    return false;
}

static void find_companions(struct work *work)
{
    for (uint32_t t = 0; t < work->input->n_tensors; t++) {
        const char *name = info_name(work, t);
        struct block_entry *entry;
        uint32_t g = NO_GROUP;
        size_t length;

        if (work->result->group_of[t] != NO_GROUP || !strstr(name, "experts"))
            continue;
        if (!match_companion(work, name, &g) && !match_numbered(work, name, &g, &length)) {
            struct unfit_block *unfit = match_unfit(work, name);
            if (unfit && unfit->companion == NO_TENSOR)
                unfit->companion = t;
            HASH_FIND(hh, work->by_name, name, length, entry);
            if (length > 0 && !entry)
                add_unfit(work, block_name(work, intern_block(work, name, length)),
                          xasprintf("%s looks like an expert's tensor of no known layout", name));
            continue;
        }
        struct group *group = array_at(work->groups, g);
        work->result->group_of[t] = g;
        if (group->n_companions++ == 0)
            group->companion = t;
    }
}

/* A name that the index promises and no file has, where it would be part of a group. */
static void find_absent_members(struct work *work)
{
    for (size_t i = 0; i < work->input->n_absent; i++) {
        const char *name = work->input->absent[i];
        struct cursor at = {0};
        struct found found;
        if (next_match(work, name, strlen(name), template_match, &at, &found))
            add_unfit(work, arena_strndup(&work->result->arena, name, found.match.block_length),
                      xasprintf("the index names %s, but no file has it", name));
    }
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
static void sort_result(struct work *work)
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
    struct work work = {.input = input, .result = result};

    *result = (struct recognition){0};
    result->group_of = arena_alloc(&result->arena, input->n_tensors * sizeof *result->group_of);
    memset(result->group_of, 0xff, input->n_tensors * sizeof *result->group_of);
    utarray_new(work.block_names, &ut_ptr_icd);
    utarray_new(work.hits, &hit_icd);
    utarray_new(work.groups, &group_icd);
    utarray_new(work.unfit, &unfit_icd);

    find_candidates(&work);
    for (uint32_t t = 0; t < input->n_tensors; t++)
        find_hits(&work, input->tensors[t]->name, t);
    work.n_hit_blocks = utarray_len(work.block_names);
    work.groups_of_block = xcalloc(work.n_hit_blocks, sizeof *work.groups_of_block);
    if (utarray_len(work.hits) > 0)
        utarray_sort(work.hits, hit_compare);
    struct hit *hits = (struct hit *)utarray_front(work.hits);
    for (size_t i = 0, next; i < utarray_len(work.hits); i = next) {
        for (next = i; next < utarray_len(work.hits) && hits[next].block == hits[i].block; next++)
            ;
        decide_block(&work, hits + i, next - i);
    }
    find_absent_members(&work);
    find_companions(&work);
    sort_result(&work);

    HASH_CLEAR(hh, work.by_name);
    utarray_free(work.block_names);
    utarray_free(work.hits);
    utarray_free(work.groups);
    utarray_free(work.unfit);
    free(work.groups_of_block);
}

void recognition_free(struct recognition *recognition)
{
    for (uint32_t i = 0; i < recognition->n_unfit; i++)
        free(recognition->unfit[i].reason);
    arena_free(&recognition->arena);
}
