#include "recognise.h"
#include "array.h"
#include "hash.h"

#include <stdio.h>
#include <string.h>

/* One tensor's name fits one form of one layout. */
struct hit {
    uint32_t block;
    uint32_t tensor;
    uint64_t value; /* the integer in the name; 0 where the form has none */
    uint8_t layout; /* in layouts.layouts */
    uint8_t form;
};

struct block_entry {
    const char *name; /* in the arena */
    uint32_t number;
    UT_hash_handle hh;
};

struct work {
    const struct recognise_input *input;
    struct recognition *result;
    struct block_entry *by_name;
    UT_array *block_names;    /* const char * */
    UT_array *hits;           /* struct hit */
    UT_array *groups;         /* struct group */
    UT_array *unfit;          /* struct unfit_block */
    uint32_t *group_of_block; /* of the blocks that have hits: the first n_hit_blocks */
    uint32_t n_hit_blocks;
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

static uint32_t find_group(const struct work *work, const struct block_entry *entry)
{
    return entry && entry->number < work->n_hit_blocks ? work->group_of_block[entry->number] : NO_GROUP;
}

static const char *block_name(const struct work *work, uint32_t block)
{
    return *(const char **)array_at(work->block_names, block);
}

/* ---- which names could be experts' ---- */

static void find_hits(struct work *work, const char *name, uint32_t tensor)
{
    const struct layouts *layouts = work->input->layouts;
    size_t length = strlen(name);
    struct name_match match;

    for (uint8_t l = 0; l < layouts->n_layouts; l++)
        for (uint8_t f = 0; f < layouts->layouts[l].n_forms; f++) {
            const struct name_template *template = &layouts->bound[l].names[f];
            if (!template_match(template, name, length, &match))
                continue;
            struct hit hit = {.block = intern_block(work, name, match.block_length),
                              .tensor = tensor,
                              .value = template->n_holes ? match.values[0] : 0,
                              .layout = l,
                              .form = f};
            utarray_push_back(work->hits, &hit);
        }
}

static int hit_compare(const void *a, const void *b)
{
    const struct hit *x = a, *y = b;

    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    if (x->layout != y->layout)
        return x->layout < y->layout ? -1 : 1;
    if (x->form != y->form)
        return x->form < y->form ? -1 : 1;
    return (x->value > y->value) - (x->value < y->value);
}

/* ---- does a layout fit a block's hits? ---- */

struct fit {
    const struct hit *hits; /* of this block and layout, sorted */
    size_t n_hits;
    const struct hit *of_form[FORMS_MAX];
    size_t n_of_form[FORMS_MAX];
};

static const char *info_name(const struct work *work, uint32_t tensor)
{
    return work->input->tensors[tensor]->name;
}

static void shape_text(const struct tensor_info *info, char text[128])
{
    size_t at = (size_t)snprintf(text, 128, "[");

    for (unsigned d = 0; d < info->n_dims && at < 100; d++)
        at += (size_t)snprintf(text + at, 128 - at, "%s%llu", d ? ", " : "",
                               (unsigned long long)info->shape[d]);
    snprintf(text + at, 128 - at, "]");
}

/* Splits the hits by form, and checks that each form has the integers 0..n-1, once each, with one n. */
static int fit_integers(const struct work *work, const struct bound_layout *bound, const char *block,
                        struct fit *fit, struct error *err)
{
    const struct layout *layout = bound->layout;
    size_t most = 0;

    for (size_t i = 0; i < fit->n_hits; i++) {
        unsigned f = fit->hits[i].form;
        if (fit->n_of_form[f]++ == 0)
            fit->of_form[f] = &fit->hits[i];
        if (fit->n_of_form[f] > most)
            most = fit->n_of_form[f];
    }
    for (unsigned f = 0; f < layout->n_forms; f++) {
        const struct name_template *name = &bound->names[f];
        uint64_t value[TEMPLATE_HOLES_MAX] = {0};
        if (fit->n_of_form[f] == 0 && name->n_holes == 0)
            return error_set(err, "%s is missing", template_format(name, block, value, &work->result->arena));
        for (size_t v = 0; v < most && name->n_holes > 0; v++)
            if (v >= fit->n_of_form[f] || fit->of_form[f][v].value != v) {
                value[0] = v;
                return error_set(err, "%s %llu is missing (%s)",
                                 work->input->layouts->words.words[name->holes[0]], (unsigned long long)v,
                                 template_format(name, block, value, &work->result->arena));
            }
    }
    return 0;
}

static int fit_one_shape(const struct work *work, const struct fit *fit, unsigned f, struct error *err)
{
    const struct tensor_info *first = work->input->tensors[fit->of_form[f][0].tensor];
    char expected[128], found[128];

    for (size_t i = 1; i < fit->n_of_form[f]; i++) {
        const struct tensor_info *other = work->input->tensors[fit->of_form[f][i].tensor];
        if (other->n_dims == first->n_dims &&
            memcmp(other->shape, first->shape, first->n_dims * sizeof *first->shape) == 0)
            continue;
        shape_text(first, expected);
        shape_text(other, found);
        return error_set(err, "%s has shape %s, but %s has %s", other->name, found, first->name, expected);
    }
    return 0;
}

/* Solves the sizes of all axes from all forms together: until nothing changes. */
static int fit_sizes(const struct work *work, const struct bound_layout *bound, const struct fit *fit,
                     uint64_t sizes[AXIS_WORDS_MAX], struct error *err)
{
    const struct layout *layout = bound->layout;
    const struct axis_words *words = &work->input->layouts->words;
    struct error cause = {0};
    char found[128];
    bool solved = true;

    for (unsigned f = 0; f < layout->n_forms; f++)
        if (bound->names[f].n_holes > 0)
            sizes[bound->names[f].holes[0]] = fit->n_of_form[f];
    while (solved) {
        solved = false;
        for (unsigned f = 0; f < layout->n_forms; f++) {
            const struct form *form = &layout->forms[f];
            const struct tensor_info *info = work->input->tensors[fit->of_form[f][0].tensor];
            if (axes_solve(&form->axes, words, info->shape, info->n_dims, form->n_projs, sizes, &solved,
                           &cause) == 0)
                continue;
            shape_text(info, found);
            error_set(err, "%s %s: %s", info->name, found, cause.text);
            error_free(&cause);
            return -1;
        }
    }
    for (unsigned f = 0; f < layout->n_forms; f++)
        for (uint8_t a = 1; a < words->n; a++)
            if (axes_contain(&layout->forms[f].axes, a) && sizes[a] == 0)
                return error_set(err, "the size of '%s' cannot be told from the shapes", words->words[a]);
    return 0;
}

static int fit_layout(const struct work *work, const struct bound_layout *bound, const char *block,
                      struct fit *fit, uint64_t sizes[AXIS_WORDS_MAX], struct error *err)
{
    if (fit_integers(work, bound, block, fit, err) < 0)
        return -1;
    for (unsigned f = 0; f < bound->layout->n_forms; f++)
        if (fit_one_shape(work, fit, f, err) < 0)
            return -1;
    return fit_sizes(work, bound, fit, sizes, err);
}

/* ---- the decision for one block ---- */

struct candidate {
    const struct bound_layout *bound;
    struct fit fit;
    uint64_t sizes[AXIS_WORDS_MAX];
    bool fits;
    uint8_t priority; /* 2: what --from says; 1: the architecture's own; 0: generic */
    struct error reason;
};

static void add_group(struct work *work, uint32_t block, const struct candidate *candidate,
                      const struct block_rule *rule)
{
    const struct layouts *layouts = work->input->layouts;
    const struct layout *layout = candidate->bound->layout;
    struct group group = {.block = block_name(work, block),
                          .bound = candidate->bound,
                          .rule = rule,
                          .from_option = candidate->priority == 2,
                          .ambiguous = candidate->priority == 0 && !rule && layout->fused,
                          .n_experts = 1,
                          .companion = NO_TENSOR};

    memcpy(group.sizes, candidate->sizes, sizeof group.sizes);
    for (uint8_t a = 1; a < layouts->words.n; a++)
        if (layouts->enumerated[a] && group.sizes[a] > 0)
            group.n_experts *= group.sizes[a];
    work->group_of_block[block] = utarray_len(work->groups);
    for (unsigned f = 0; f < layout->n_forms; f++) {
        size_t n = candidate->fit.n_of_form[f];
        uint32_t *members = arena_alloc(&work->result->arena, n * sizeof *members);
        for (size_t i = 0; i < n; i++) {
            members[i] = candidate->fit.of_form[f][i].tensor;
            work->result->group_of[members[i]] = utarray_len(work->groups);
        }
        group.members[f] = members;
        group.n_members[f] = (uint32_t)n;
    }
    utarray_push_back(work->groups, &group);
}

static void add_unfit(struct work *work, const char *block, char *reason)
{
    struct unfit_block unfit = {.block = block, .reason = reason};

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
        } else if (c->priority == best->priority) {
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

/* Hits of the block that the group does not contain: a second set of experts, whole or in part. */
static const struct hit *find_stranger(const struct work *work, const struct hit *hits, size_t n,
                                       uint32_t group)
{
    for (size_t i = 0; i < n; i++)
        if (work->result->group_of[hits[i].tensor] != group)
            return &hits[i];
    return NULL;
}

static void decide_block(struct work *work, const struct hit *hits, size_t n)
{
    const struct recognise_input *input = work->input;
    const char *name = block_name(work, hits[0].block);
    const struct block_rule *rule = architecture_rule(input->architecture, name);
    struct layout_list from = recognise_meaning(input->layouts, rule, input->from);
    struct candidate candidates[UINT8_MAX];
    unsigned n_candidates = 0;
    char *reason = NULL;

    for (size_t i = 0, next; i < n; i = next) {
        struct candidate *c = &candidates[n_candidates++];
        const struct layout *layout = &input->layouts->layouts[hits[i].layout];
        for (next = i; next < n && hits[next].layout == hits[i].layout; next++)
            ;
        *c = (struct candidate){.bound = layouts_bound(input->layouts, layout),
                                .fit = {.hits = &hits[i], .n_hits = next - i}};
        c->priority =
            layout_list_has(&from, layout)                                                             ? 2
            : rule && (layout_list_has(&rule->original, layout) || layout_list_has(&rule->v5, layout)) ? 1
                                                                                                       : 0;
        c->fits = fit_layout(work, c->bound, name, &c->fit, c->sizes, &c->reason) == 0;
    }
    const struct candidate *best = choose(candidates, n_candidates, &reason);
    if (best) {
        uint32_t group = utarray_len(work->groups);
        add_group(work, hits[0].block, best, rule);
        const struct hit *stranger = find_stranger(work, hits, n, group);
        if (stranger)
            add_unfit(
                work, name,
                xasprintf("it is a complete %s group, but %s is there too: two sets of experts in one block",
                          best->bound->layout->name, info_name(work, stranger->tensor)));
    } else {
        add_unfit(work, name, reason);
    }
    for (unsigned i = 0; i < n_candidates; i++)
        error_free(&candidates[i].reason);
}

/* ---- tensors near a group that are not its members ---- */

/* A companion's name is a member's name without ".weight", then "." or "_" and something. */
static bool match_companion(struct work *work, const char *name, uint32_t *found)
{
    const struct layouts *layouts = work->input->layouts;
    struct name_match match;
    struct block_entry *entry;

    for (size_t at = strlen(name); at-- > 1;) {
        if (name[at] != '.' && name[at] != '_')
            continue;
        for (uint8_t l = 0; l < layouts->n_layouts; l++)
            for (uint8_t f = 0; f < layouts->layouts[l].n_forms; f++) {
                if (!template_match_stem(&layouts->bound[l].names[f], name, at, &match))
                    continue;
                HASH_FIND(hh, work->by_name, name, match.block_length, entry);
                uint32_t g = find_group(work, entry);
                if (g == NO_GROUP)
                    continue;
                const struct group *group = array_at(work->groups, g);
                if (group->bound == &layouts->bound[l]) {
                    *found = g;
                    return true;
                }
            }
    }
    return false;
}

/* "....experts.<digits>." where the block ends, or 0. */
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

static void find_companions(struct work *work)
{
    for (uint32_t t = 0; t < work->input->n_tensors; t++) {
        const char *name = info_name(work, t);
        struct block_entry *entry = NULL;
        uint32_t g = NO_GROUP;
        size_t block_length;

        if (work->result->group_of[t] != NO_GROUP || !strstr(name, "experts"))
            continue;
        if (!match_companion(work, name, &g)) {
            block_length = find_numbered_expert(name);
            if (block_length == 0)
                continue;
            HASH_FIND(hh, work->by_name, name, block_length, entry);
            g = find_group(work, entry);
            if (!entry) {
                add_unfit(work, block_name(work, intern_block(work, name, block_length)),
                          xasprintf("%s looks like an expert's tensor of no known layout", name));
                continue;
            }
        }
        if (g == NO_GROUP)
            continue;
        struct group *group = array_at(work->groups, g);
        work->result->group_of[t] = g;
        if (group->n_companions++ == 0)
            group->companion = t;
    }
}

/* A name that the index promises and no file has, where it would be part of a group. */
static void find_absent_members(struct work *work)
{
    const struct layouts *layouts = work->input->layouts;
    struct name_match match;

    for (size_t i = 0; i < work->input->n_absent; i++) {
        const char *name = work->input->absent[i];
        bool done = false;
        for (uint8_t l = 0; l < layouts->n_layouts && !done; l++)
            for (uint8_t f = 0; f < layouts->layouts[l].n_forms && !done; f++)
                if (template_match(&layouts->bound[l].names[f], name, strlen(name), &match)) {
                    add_unfit(work, arena_strndup(&work->result->arena, name, match.block_length),
                              xasprintf("the index names %s, but no file has it", name));
                    done = true;
                }
    }
}

static int group_compare(const void *a, const void *b)
{
    return strcmp(((const struct group *)a)->block, ((const struct group *)b)->block);
}

static int unfit_compare(const void *a, const void *b)
{
    return strcmp(((const struct unfit_block *)a)->block, ((const struct unfit_block *)b)->block);
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
        new_number[result->group_of[result->groups[g].members[0][0]]] = g;
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

    for (uint32_t t = 0; t < input->n_tensors; t++)
        find_hits(&work, input->tensors[t]->name, t);
    work.n_hit_blocks = utarray_len(work.block_names);
    work.group_of_block = xmalloc(work.n_hit_blocks * sizeof *work.group_of_block);
    memset(work.group_of_block, 0xff, work.n_hit_blocks * sizeof *work.group_of_block);
    if (utarray_len(work.hits) > 0)
        utarray_sort(work.hits, hit_compare);
    const struct hit *hits = (const struct hit *)utarray_front(work.hits);
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
    free(work.group_of_block);
}

void recognition_free(struct recognition *recognition)
{
    for (uint32_t i = 0; i < recognition->n_unfit; i++)
        free(recognition->unfit[i].reason);
    arena_free(&recognition->arena);
}
