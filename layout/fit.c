/* Whether one layout fits the names and shapes of one block, and the sizes that follow. */
#include "fit.h"
#include "layout/base/text.h"

#include <stdio.h>
#include <string.h>

int hit_compare(const void *a, const void *b)
{
    const struct hit *x = a, *y = b;

    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    if (x->layout != y->layout)
        return x->layout < y->layout ? -1 : 1;
    if (x->word != y->word)
        return x->word < y->word ? -1 : 1;
    if (x->form != y->form)
        return x->form < y->form ? -1 : 1;
    return (x->value > y->value) - (x->value < y->value);
}

/* What one call of fit_layout() works with. */
struct fitting {
    const struct recognise_input *input;
    const struct block_rule *rule;
    const struct bound_layout *bound;
    const char *block;
    struct arena *arena; /* for names in messages */
    struct error *err;
    bool stems; /* messages name stems, not weights */
};

static const struct tensor_info *hit_info(const struct fitting *f, const struct hit *hit)
{
    return f->input->tensors[hit->tensor];
}

/* The integer of a composite hole is word * experts + expert: the count of integers tells how
 * many experts. */
static int split_composites(const struct fitting *f, struct hit *hits, size_t n)
{
    uint64_t highest[FORMS_MAX] = {0};
    uint8_t n_words = f->rule->enumeration.n;

    for (size_t i = 0; i < n; i++) {
        if (n_words > 0 && hits[i].value == UINT64_MAX)
            return error_set(f->err, "%s: experts cannot be numbered up to %llu", hit_info(f, &hits[i])->name,
                             (unsigned long long)UINT64_MAX);
        if (hits[i].value >= highest[hits[i].form])
            highest[hits[i].form] = hits[i].value + 1;
    }
    for (size_t i = 0; i < n; i++) {
        const struct name_template *name = &f->bound->forms[hits[i].form].name;
        int hole = template_word_hole(name);
        if (hole < 0 || name->holes[hole].kind != HOLE_COMPOSITE)
            continue;
        uint64_t count = highest[hits[i].form];
        if (count % n_words != 0)
            return error_set(f->err, "%llu experts cannot be numbered through %u kinds",
                             (unsigned long long)count, n_words);
        hits[i].word = (uint8_t)(hits[i].value / (count / n_words));
        hits[i].value %= count / n_words;
    }
    return 0;
}

/* The name of form `form` that is missing; count: integers that there should be. */
static const char *missing_name(const struct fitting *f, unsigned form, uint8_t word, uint64_t value,
                                uint64_t count)
{
    const struct name_template *name = &f->bound->forms[form].name;
    int hole = template_integer_hole(name);
    uint64_t sizes[AXIS_WORDS_MAX] = {0};

    if (hole >= 0)
        sizes[name->holes[hole].axis] = count;
    const char *missing = template_name(name, f->block, word, sizes, value, f->arena);
    return f->stems ? arena_strndup(f->arena, missing, template_stem_length(missing)) : missing;
}

/* Whether the checkpoint has anything of the part. */
static bool part_present(const struct fitting *f, const struct fit *fit, uint8_t part)
{
    for (unsigned w = 0; w < fit->n_words; w++)
        for (unsigned k = 0; k < f->bound->n_forms; k++)
            if (f->bound->forms[k].part == part && fit->words[w].n_of_form[k] > 0)
                return true;
    return false;
}

/* Every form of every part that is there has the integers 0..n-1 of its axis, once each. */
static int check_complete(const struct fitting *f, const struct fit *fit, unsigned word)
{
    const struct fit_word *w = &fit->words[word];
    size_t most[AXIS_WORDS_MAX] = {0};

    for (unsigned k = 0; k < f->bound->n_forms; k++) {
        const struct name_template *name = &f->bound->forms[k].name;
        int hole = template_integer_hole(name);
        uint8_t axis = hole >= 0 ? name->holes[hole].axis : 0;
        if (w->n_of_form[k] > most[axis])
            most[axis] = w->n_of_form[k];
    }
    for (unsigned k = 0; k < f->bound->n_forms; k++) {
        const struct form *form = &f->bound->forms[k];
        int hole = template_integer_hole(&form->name);
        if (!part_present(f, fit, form->part))
            continue;
        if (w->n_of_form[k] == 0 && hole < 0)
            return error_set(f->err, "%s is missing", missing_name(f, k, (uint8_t)word, 0, 0));
        size_t n = hole >= 0 ? most[form->name.holes[hole].axis] : 0;
        if (hole >= 0 && n == 0)
            return error_set(f->err, "%s is missing", missing_name(f, k, (uint8_t)word, 0, 0));
        for (size_t v = 0; v < n; v++)
            if (v >= w->n_of_form[k] || w->of_form[k][v].value != v)
                return error_set(f->err, "%s %llu is missing (%s)",
                                 f->input->layouts->words.words[form->name.holes[hole].axis],
                                 (unsigned long long)v, missing_name(f, k, (uint8_t)word, v, n));
    }
    return 0;
}

static int check_one_shape(const struct fitting *f, const struct fit_word *w, unsigned k)
{
    const struct tensor_info *first = w->n_of_form[k] > 0 ? hit_info(f, w->of_form[k]) : NULL;

    for (size_t i = 1; i < w->n_of_form[k]; i++) {
        const struct tensor_info *other = hit_info(f, &w->of_form[k][i]);
        if (other->n_dims == first->n_dims &&
            memcmp(other->shape, first->shape, first->n_dims * sizeof *first->shape) == 0)
            continue;
        cleanup_free char *expected = text_of_shape(first->shape, first->n_dims);
        cleanup_free char *found = text_of_shape(other->shape, other->n_dims);
        return error_set(f->err, "%s has shape %s, but %s has %s", other->name, found, first->name, expected);
    }
    return 0;
}

/* One pass over all forms; *solved is set when a size was found. */
static int solve_once(const struct fitting *f, struct fit_word *w, bool *solved)
{
    const struct axis_words *words = &f->input->layouts->words;
    struct error cause = {0};

    for (unsigned k = 0; k < f->bound->n_forms; k++) {
        const struct form *form = &f->bound->forms[k];
        if (w->n_of_form[k] == 0)
            continue;
        const struct tensor_info *info = hit_info(f, w->of_form[k]);
        if (axes_solve(&form->axes, words, info->shape, info->n_dims, form->n_projs, w->sizes, solved,
                       &cause) == 0)
            continue;
        cleanup_free char *found = text_of_shape(info->shape, info->n_dims);
        error_set(f->err, "%s %s: %s", info->name, found, cause.text);
        error_free(&cause);
        return -1;
    }
    return 0;
}

static int solve(const struct fitting *f, struct fit_word *w)
{
    bool solved = true;

    while (solved) {
        solved = false;
        if (solve_once(f, w, &solved) < 0)
            return -1;
    }
    return 0;
}

#define CONFIG_NUMBERS_MAX 32

/* What config.json tells of the axis' size: how many numbers. */
static size_t told_sizes(const struct fitting *f, uint8_t axis, uint64_t numbers[CONFIG_NUMBERS_MAX])
{
    const char *paths = f->rule->config[axis];

    return paths ? config_numbers(f->input->config, paths, numbers, CONFIG_NUMBERS_MAX) : 0;
}

/* An axis that a form of the group needs and whose size is not known, or AXIS_NONE: the first that
 * config.json tells, else the first. */
static uint8_t find_unsolved(const struct fitting *f, const struct fit_word *w)
{
    const struct axis_words *words = &f->input->layouts->words;
    uint64_t numbers[CONFIG_NUMBERS_MAX];
    uint8_t first = AXIS_NONE;

    for (unsigned k = 0; k < f->bound->n_forms; k++)
        for (uint8_t a = 1; a < words->n; a++) {
            if (w->n_of_form[k] == 0 || !axes_contain(&f->bound->forms[k].axes, a) ||
                axis_size(words, a, w->sizes, f->bound->forms[k].n_projs) > 0)
                continue;
            if (told_sizes(f, a, numbers) == 1)
                return a;
            if (first == AXIS_NONE)
                first = a;
        }
    return first;
}

/* A size that the shapes leave open is config.json's, where that tells exactly one. */
static int solve_from_config(const struct fitting *f, struct fit_word *w)
{
    const struct axis_words *words = &f->input->layouts->words;
    uint64_t numbers[CONFIG_NUMBERS_MAX];

    for (uint8_t axis; (axis = find_unsolved(f, w)) != AXIS_NONE;) {
        const char *paths = f->rule->config[axis];
        if (told_sizes(f, axis, numbers) != 1 || numbers[0] == 0)
            return error_set(f->err, "the size of '%s' cannot be told from the shapes%s%s",
                             words->words[axis], paths ? ", and config.json does not say " : "",
                             paths ? paths : "");
        w->sizes[axis] = numbers[0];
        if (solve(f, w) < 0)
            return -1;
    }
    return 0;
}

/* Without a gate the shapes alone would let a transposed layout fit too. */
static int check_with_config(const struct fitting *f, const struct fit_word *w)
{
    const struct axis_words *words = &f->input->layouts->words;
    uint64_t numbers[CONFIG_NUMBERS_MAX];

    for (uint8_t a = 1; a < words->n; a++) {
        size_t n = w->sizes[a] > 0 ? told_sizes(f, a, numbers) : 0;
        bool found = n == 0;
        for (size_t i = 0; i < n; i++)
            found |= numbers[i] == w->sizes[a];
        if (!found)
            return error_set(f->err, "%s would be %llu, but config.json says %llu (%s)", words->words[a],
                             (unsigned long long)w->sizes[a], (unsigned long long)numbers[0],
                             f->rule->config[a]);
    }
    return 0;
}

/* gate and up transposed and down too fit a layout with inner and hidden exchanged. Where config.json confirms
 * neither size as read, and both the other way round, they are. */
static int check_not_transposed(const struct fitting *f, const struct fit_word *w)
{
    const struct axis_words *words = &f->input->layouts->words;
    const struct config *config = f->input->config;
    uint8_t hidden_axis = axis_find(words, "hidden"), inner_axis = axis_find(words, "inner");

    if (!config || hidden_axis == AXIS_NONE || inner_axis == AXIS_NONE)
        return 0;
    const struct config_set *hiddens = &config->hidden_sizes, *inners = &config->inner_sizes;
    uint64_t hidden = w->sizes[hidden_axis], inner = w->sizes[inner_axis];
    if (hidden == 0 || inner == 0 || (hiddens->n == 0 && inners->n == 0) || config_set_has(hiddens, hidden) ||
        config_set_has(inners, inner))
        return 0;
    if ((hiddens->n > 0 && !config_set_has(hiddens, inner)) ||
        (inners->n > 0 && !config_set_has(inners, hidden)))
        return 0;
    return error_set(f->err,
                     "inner would be %llu and hidden %llu, which config.json has the other way round: these "
                     "matrices are transposed",
                     (unsigned long long)inner, (unsigned long long)hidden);
}

static int fit_word(const struct fitting *f, struct fit *fit, unsigned word)
{
    struct fit_word *w = &fit->words[word];

    if (check_complete(f, fit, word) < 0)
        return -1;
    for (unsigned k = 0; k < f->bound->n_forms; k++) {
        int hole = template_integer_hole(&f->bound->forms[k].name);
        if (check_one_shape(f, w, k) < 0)
            return -1;
        if (hole >= 0 && w->n_of_form[k] > 0)
            w->sizes[f->bound->forms[k].name.holes[hole].axis] = w->n_of_form[k];
    }
    if (solve(f, w) < 0 || solve_from_config(f, w) < 0 || check_with_config(f, w) < 0)
        return -1;
    return check_not_transposed(f, w);
}

static int fit_words(const struct fitting *f, struct fit *fit)
{
    for (unsigned w = 0; w < fit->n_words; w++)
        if (fit_word(f, fit, w) < 0)
            return -1;
    return 0;
}

typedef bool part_test(const struct layouts *layouts, uint8_t part);

/* Copies the counts of hits of one part's forms. */
static void take_part(const struct fitting *f, const struct fit *from, uint8_t part, struct fit *to)
{
    for (unsigned w = 0; w < from->n_words; w++)
        for (unsigned k = 0; k < f->bound->n_forms; k++)
            if (f->bound->forms[k].part == part) {
                to->words[w].of_form[k] = from->words[w].of_form[k];
                to->words[w].n_of_form[k] = from->words[w].n_of_form[k];
            }
}

/* The same of all parts of a kind; false where the checkpoint has none of them. */
static bool take_parts(const struct fitting *f, const struct fit *from, part_test *is_wanted, struct fit *to)
{
    bool any = false;

    for (uint8_t p = 0; p < f->input->layouts->n_parts; p++)
        if (is_wanted(f->input->layouts, p)) {
            take_part(f, from, p, to);
            any |= part_present(f, to, p);
        }
    return any;
}

/* First the weights; then each kind of companion, which counts only where it is complete and fits the sizes
 * too: otherwise its tensors are companions that the layout does not describe. */
static int fit_parts(const struct fitting *f, const struct fit *all, struct fit *fit)
{
    *fit = (struct fit){.n_words = all->n_words};
    if (!take_parts(f, all, layouts_is_main, fit) && !take_parts(f, all, layouts_is_packed, fit))
        return error_set(f->err, "there are companions of weights, but no weights");
    if (fit_words(f, fit) < 0)
        return -1;
    for (uint8_t p = 0; p < f->input->layouts->n_parts; p++) {
        struct error reason = {0};
        struct fitting quiet = *f;
        struct fit with = *fit;
        quiet.err = &reason;
        take_part(f, all, p, &with);
        if (part_present(f, &with, p) && fit_words(&quiet, &with) == 0)
            *fit = with;
        error_free(&reason);
    }
    return 0;
}

/* Sorts the hits by form and integer, composites taken apart. */
static int sort_hits(const struct fitting *f, struct hit *hits, size_t n)
{
    if (split_composites(f, hits, n) < 0)
        return -1;
    qsort(hits, n, sizeof *hits, hit_compare);
    return 0;
}

static struct fit count_hits(const struct fitting *f, const struct hit *hits, size_t n)
{
    struct fit fit = {.n_words = f->rule->enumeration.n > 0 ? f->rule->enumeration.n : 1};

    for (size_t i = 0; i < n; i++) {
        struct fit_word *w = &fit.words[hits[i].word];
        if (w->n_of_form[hits[i].form]++ == 0)
            w->of_form[hits[i].form] = &hits[i];
    }
    return fit;
}

int fit_layout(const struct recognise_input *input, const struct block_rule *rule,
               const struct bound_layout *bound, const char *block, struct hit *hits, size_t n,
               struct arena *arena, struct fit *fit, struct error *err)
{
    const struct fitting f = {
        .input = input, .rule = rule, .bound = bound, .block = block, .arena = arena, .err = err};

    if (sort_hits(&f, hits, n) < 0)
        return -1;
    const struct fit all = count_hits(&f, hits, n);
    return fit_parts(&f, &all, fit);
}

int fit_stems(const struct recognise_input *input, const struct block_rule *rule,
              const struct bound_layout *bound, const char *block, struct hit *hits, size_t n,
              struct arena *arena, uint64_t *n_experts, struct error *err)
{
    const struct fitting f = {.input = input,
                              .rule = rule,
                              .bound = bound,
                              .block = block,
                              .arena = arena,
                              .err = err,
                              .stems = true};
    uint8_t expert = axis_find(&input->layouts->words, "expert");
    size_t kept = 0;

    *n_experts = 0;
    if (sort_hits(&f, hits, n) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || hit_compare(&hits[kept - 1], &hits[i]) != 0)
            hits[kept++] = hits[i];
    const struct fit fit = count_hits(&f, hits, kept);
    for (unsigned w = 0; w < fit.n_words; w++) {
        if (check_complete(&f, &fit, w) < 0)
            return -1;
        for (unsigned k = 0; k < bound->n_forms; k++) {
            int hole = template_integer_hole(&bound->forms[k].name);
            if (hole >= 0 && bound->forms[k].name.holes[hole].axis == expert && fit.words[w].n_of_form[k] > 0)
                *n_experts = fit.words[w].n_of_form[k];
        }
    }
    return 0;
}
