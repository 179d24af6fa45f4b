/* What refuses a plan before anything is compiled. */
#include "layout/base/checked.h"
#include "planning.h"
#include "refusals.h"

#include <string.h>

#include <utstring.h>

static const char *tensor_name(const struct planning *p, uint32_t tensor)
{
    return p->checkpoint->tensors[tensor].info.name;
}

static const char *file_name(const struct planning *p, uint32_t tensor)
{
    return p->checkpoint->shards[p->checkpoint->tensors[tensor].shard].name;
}

static const char *tensor_dtype(const struct planning *p, uint32_t tensor)
{
    return dtype_name(p->checkpoint->tensors[tensor].info.dtype);
}

/* ---- groups ---- */

/* Scales that the group's layout describes, or NO_TENSOR. */
static uint32_t find_scales(const struct planning *p, const struct group *group)
{
    for (unsigned f = 0; f < group->bound->n_forms; f++)
        if (group->n_members[f] > 0 && layouts_is_scale(p->layouts, group->bound->forms[f].part))
            return group->members[f][0];
    return NO_TENSOR;
}

static void refuse_companions(struct planning *p, struct refusals *refusals, const struct group *group,
                              const struct layout *target, uint32_t codes)
{
    const char *present = group->bound->layout->name;

    if (codes != NO_TENSOR)
        refusals_add(refusals, group->block, group->block,
                     "quantised experts: %s in %s is %s, %s in %s (%u such tensors) goes with it, and layout "
                     "%s does not say where it would go. Keep them as they are with --to %s, or convert a "
                     "dequantised copy",
                     tensor_name(p, codes), file_name(p, codes), tensor_dtype(p, codes),
                     tensor_name(p, group->companion), file_name(p, group->companion), group->n_companions,
                     target->name, present);
    else
        refusals_add(refusals, group->block, group->block,
                     "%s in %s (%u such tensors) belongs to these experts, and layout %s does not say where "
                     "it would go. Keep them as they are with --to %s",
                     tensor_name(p, group->companion), file_name(p, group->companion), group->n_companions,
                     target->name, present);
}

/* Codes mean nothing without their scales, so they are never moved without them. */
static void refuse_bare_codes(struct planning *p, struct refusals *refusals, const struct group *group,
                              uint32_t codes)
{
    refusals_add(refusals, group->block, group->block,
                 "quantised experts: %s in %s is %s, and there are no scales of it that a layout describes. "
                 "Keep them as they are with --to %s, or convert a dequantised copy",
                 tensor_name(p, codes), file_name(p, codes), tensor_dtype(p, codes),
                 group->bound->layout->name);
}

/* Parts that are converted only when the user asked for it. */
static void refuse_unasked(struct planning *p, struct refusals *refusals, const struct group *group,
                           const struct layout *target, uint32_t codes)
{
    for (unsigned f = 0; f < group->bound->n_forms; f++) {
        const char *option = layouts_part_option(p->layouts, target, group->bound->forms[f].part);
        if (group->n_members[f] == 0 || !option || p->options->fp8_keep)
            continue;
        bool fp8 = codes != NO_TENSOR && strncmp(tensor_dtype(p, codes), "F8_", 3) == 0;
        uint32_t scale = group->members[f][0];
        refusals_add(refusals, group->block, group->block,
                     "quantised experts: %s in %s goes with these weights: %s. Keep them as they are with "
                     "--to %s, or say %s if the loader reads %s with scales in layout %s",
                     tensor_name(p, scale), file_name(p, scale),
                     fp8 ? "merged FP8 loads as garbage without an error wherever the loader dequantises (no "
                           "GPU, or compute capability below 8.9)"
                         : "few loaders read such weights in this layout",
                     group->bound->layout->name, option,
                     codes != NO_TENSOR ? tensor_dtype(p, codes) : "weights", target->name);
        return;
    }
}

static bool is_unfit(const struct planning *p, const char *block)
{
    for (uint32_t i = 0; i < p->recognition->n_unfit; i++)
        if (strcmp(p->recognition->unfit[i].block, block) == 0)
            return true;
    return false;
}

/* Whether both dimensions are products of the same axes, in whatever order. */
static bool same_product(const struct axes *a, const struct axes *b, uint8_t d)
{
    unsigned common = 0;

    for (uint8_t i = 0; i < a->dims[d].n; i++)
        for (uint8_t j = 0; j < b->dims[d].n; j++)
            common += a->dims[d].axis[i] == b->dims[d].axis[j];
    return common == a->dims[d].n && common == b->dims[d].n;
}

/* Whether names and shapes of the two are the same, whatever the order of what they hold. */
static bool looks_the_same(const struct form *a, const struct form *b)
{
    bool same = a->part == b->part && a->n_projs == b->n_projs && a->axes.n_dims == b->axes.n_dims &&
                strcmp(a->name.text, b->name.text) == 0;

    for (uint8_t d = 0; d < a->axes.n_dims && same; d++)
        same = same_product(&a->axes, &b->axes, d);
    return same;
}

/* Whether the layout could be the group's as well as the one that it is taken for. */
static bool could_be(const struct group *group, const struct bound_layout *other)
{
    for (unsigned f = 0; f < group->bound->n_forms; f++) {
        bool found = group->n_members[f] == 0;
        for (unsigned g = 0; g < other->n_forms; g++)
            found |= looks_the_same(&group->bound->forms[f], &other->forms[g]);
        if (!found)
            return false;
    }
    return true;
}

/* Neither names nor shapes prove any of these layouts, so none is recommended. */
static void refuse_ambiguous(struct planning *p, struct refusals *refusals, const struct group *group)
{
    UT_string names;

    utstring_init(&names);
    for (unsigned l = 0; l < p->layouts->n_layouts; l++) {
        const struct layout *layout = &p->layouts->layouts[l];
        if (!layout->user && could_be(group, layouts_bound(p->layouts, group->rule, layout)))
            utstring_printf(&names, "%s--from %s", utstring_len(&names) > 0 ? ", " : "", layout->name);
    }
    refusals_add(refusals, group->block, group->block,
                 "nothing in its names or shapes tells whether gate or up comes first or whether they "
                 "alternate, and model_type %s is not known. Look into the model's code, and say which it "
                 "is: %s",
                 planning_model_type(p), utstring_body(&names));
    utstring_done(&names);
}

/* Of the reasons against one group only the first that counts: what comes after it may follow from it. */
static void refuse_group(struct planning *p, struct refusals *refusals, const struct group *group,
                         const struct compile_target *target)
{
    uint32_t codes = planning_find_codes(p, group);

    if (!target->block)
        refusals_add(refusals, group->block, group->block,
                     "layout %s puts experts under %s, and the name of this MoE layer has no number",
                     target->bound->layout->name, target->bound->layout->block);
    if (group->n_companions > 0 && !is_unfit(p, group->block))
        refuse_companions(p, refusals, group, target->bound->layout, codes);
    else if (codes != NO_TENSOR && find_scales(p, group) == NO_TENSOR)
        refuse_bare_codes(p, refusals, group, codes);
    else
        refuse_unasked(p, refusals, group, target->bound->layout, codes);
    if (group->ambiguous)
        refuse_ambiguous(p, refusals, group);
}

static void refuse_groups(struct planning *p, struct refusals *refusals)
{
    for (uint32_t g = 0; g < p->recognition->n_groups; g++)
        if (p->targets[g].bound)
            refuse_group(p, refusals, &p->recognition->groups[g], &p->targets[g]);
}

/* By the target's block, then by the word, then by their numbers. */
static int compare_landings(const void *a, const void *b, void *context)
{
    const struct planning *p = context;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    int order = strcmp(p->targets[x].block, p->targets[y].block);

    if (order == 0)
        order = p->recognition->groups[x].word - p->recognition->groups[y].word;
    return order ? order : (x > y) - (x < y);
}

static bool land_together(const struct planning *p, uint32_t x, uint32_t y)
{
    const struct form *form = &p->targets[x].bound->forms[0];

    return strcmp(p->targets[x].block, p->targets[y].block) == 0 &&
           (template_word_hole(&form->name) < 0 ||
            p->recognition->groups[x].word == p->recognition->groups[y].word);
}

/* Groups that the layout would give one place: each block twice, and all of a model's are told at once. */
static void refuse_collisions(struct planning *p)
{
    uint32_t *landings = xmalloc(p->recognition->n_groups * sizeof *landings);
    uint32_t n = 0, first = 0, collisions = 0;

    for (uint32_t g = 0; g < p->recognition->n_groups; g++)
        if (p->targets[g].bound && p->targets[g].block)
            landings[n++] = g;
    if (n > 0)
        qsort_r(landings, n, sizeof *landings, compare_landings, p);
    for (uint32_t i = 1; i < n; i++)
        if (land_together(p, landings[i - 1], landings[i]) && collisions++ == 0)
            first = i;
    if (collisions > 0) {
        struct arena *arena = &p->recognition->arena;
        const struct compile_target *target = &p->targets[landings[first]];
        cleanup_free char *others =
            collisions > 1 ? xasprintf(" (and %u more)", collisions - 1) : xstrdup("");
        error_add(p->err, "%s and %s: layout %s would call the experts of both %s%s",
                  group_title(&p->recognition->groups[landings[first - 1]], arena),
                  group_title(&p->recognition->groups[landings[first]], arena), target->bound->layout->name,
                  target->block, others);
    }
    free(landings);
}

/* ---- blocks that no layout fits ---- */

/* Quantised weights, and weights under names that an adapter gave them, stay as they are where a layout is
 * wanted whose names these follow. */
static bool stays_as_it_is(const struct planning *p, const struct unfit_block *unfit)
{
    const struct block_rule *rule = architecture_rule(p->architecture, unfit->block);
    struct layout_list wanted = planning_wanted(p, rule, unfit->codes != NO_TENSOR);
    bool named = false;

    for (unsigned i = 0; i < wanted.n; i++)
        named |= unfit->named >> (wanted.list[i] - p->layouts->layouts) & 1;
    return named && unfit->companion != NO_TENSOR && (unfit->codes != NO_TENSOR || !unfit->exact);
}

/* What stays must still be whole: false, with the reason, where config.json counts more experts. */
static bool check_unfit_count(struct planning *p, struct refusals *refusals, const struct unfit_block *unfit)
{
    const struct config *config = &p->checkpoint->config;

    if (unfit->n_experts == 0 || config->expert_counts.n == 0 || layouts_ignored(p->layouts, unfit->block))
        return true;
    if (config_set_has(&config->expert_counts, unfit->n_experts) ||
        unfit->n_experts > config->expert_counts.numbers[0])
        return true;
    refusals_add(refusals, unfit->block, unfit->block,
                 "has %llu experts, but config.json says %llu: the last ones are missing (incomplete "
                 "download?)",
                 (unsigned long long)unfit->n_experts, (unsigned long long)config->expert_counts.numbers[0]);
    return false;
}

/* The first layout whose names the block follows. */
static const char *named_layout(const struct planning *p, const struct unfit_block *unfit)
{
    unsigned l = 0;

    while (!(unfit->named >> l & 1))
        l++;
    return p->layouts->layouts[l].name;
}

static void refuse_unfit_block(struct planning *p, struct refusals *refusals, const struct unfit_block *unfit)
{
    if (unfit->codes != NO_TENSOR && unfit->companion != NO_TENSOR && unfit->named)
        refusals_add(refusals, unfit->block, unfit->block,
                     "quantised experts: %s in %s is %s, %s in %s goes with it, and no layout describes "
                     "them. Keep them as they are with --to %s, or convert a dequantised copy",
                     tensor_name(p, unfit->codes), file_name(p, unfit->codes), tensor_dtype(p, unfit->codes),
                     tensor_name(p, unfit->companion), file_name(p, unfit->companion),
                     named_layout(p, unfit));
    else if (unfit->companion != NO_TENSOR && unfit->named && !unfit->exact)
        refusals_add(refusals, unfit->block, unfit->block,
                     "%s in %s belongs to experts whose names no layout describes. Keep them as they are "
                     "with --to %s",
                     tensor_name(p, unfit->companion), file_name(p, unfit->companion),
                     named_layout(p, unfit));
    else
        refusals_add(refusals, unfit->block, unfit->block, "%s", unfit->reason);
}

static void refuse_unfit(struct planning *p, struct refusals *refusals)
{
    const struct unfit_block *first = NULL;
    uint32_t n = 0;
    bool quantised = true;

    for (uint32_t i = 0; i < p->recognition->n_unfit; i++) {
        const struct unfit_block *unfit = &p->recognition->unfit[i];
        if (planning_leaves(p, unfit->block))
            continue;
        if (!stays_as_it_is(p, unfit)) {
            refuse_unfit_block(p, refusals, unfit);
        } else if (check_unfit_count(p, refusals, unfit)) {
            first = first ? first : unfit;
            quantised &= unfit->codes != NO_TENSOR;
            n++;
        }
    }
    if (first)
        notes_add(&p->plan->notes, NOTE_INFO, "%u MoE %s with %s (%s%s): stay as they are", n,
                  n == 1 ? "layer" : "layers",
                  quantised ? "quantised experts" : "experts that no layout fits", first->block,
                  n > 1 ? ", ..." : "");
}

/* ---- counts ---- */

/* What config.json says of an axis: at least the first path's number, and all of them added up. */
static bool read_count(const struct config *config, const char *paths, uint64_t *least, uint64_t *sum)
{
    uint64_t number;

    *least = *sum = 0;
    for (const char *at = paths; *at;) {
        size_t length = strcspn(at, " ");
        cleanup_free char *path = xstrndup(at, length);
        bool told = config_numbers(config, path, &number, 1) == 1;
        if (at == paths && !told)
            return false;
        if (at == paths)
            *least = number;
        if (told && !checked_add(*sum, number, sum)) /* not with two paths: a number is at most 2^53 */
            return false;
        at += length + (at[length] == ' ');
    }
    return true;
}

/* Where the architecture says which numbers of config.json count an axis: whether it does for the experts. A
 * number of experts that a loader could not use is said once. */
static bool check_told_counts(struct planning *p, struct refusals *refusals, const struct group *group,
                              bool *warned)
{
    const struct axis_words *words = &p->layouts->words;
    const char *const *counts = group->rule->counts;
    uint64_t least, sum;

    for (uint8_t a = 1; a < words->n; a++) {
        if (!counts[a] || group->sizes[a] == 0 ||
            !read_count(&p->checkpoint->config, counts[a], &least, &sum))
            continue;
        if (group->sizes[a] < least) {
            refusals_add(refusals, group->block, group->block,
                         "has %llu along '%s', but config.json says %llu (%s): the last ones are missing",
                         (unsigned long long)group->sizes[a], words->words[a], (unsigned long long)least,
                         counts[a]);
        } else if (group->sizes[a] != sum && !*warned) {
            notes_add(&p->plan->notes, NOTE_WARNING,
                      "%s: has %llu along '%s', and config.json's %s add up to %llu: a loader that wants all "
                      "of them cannot load this, in any layout",
                      group->block, (unsigned long long)group->sizes[a], words->words[a], counts[a],
                      (unsigned long long)sum);
            *warned = true;
        }
    }
    uint8_t expert = axis_find(words, "expert");
    return expert != AXIS_NONE && counts[expert];
}

/* The names cannot show that the last expert is missing in all projections; config.json can. */
static void check_expert_counts(struct planning *p, struct refusals *refusals)
{
    const struct config *config = &p->checkpoint->config;
    const struct group *odd = NULL;
    bool warned = false;

    for (uint32_t g = 0; g < p->recognition->n_groups && config->expert_counts.n > 0; g++) {
        const struct group *group = &p->recognition->groups[g];
        bool found =
            layouts_ignored(p->layouts, group->block) || check_told_counts(p, refusals, group, &warned);
        found |= config_set_has(&config->expert_counts, group->n_experts);
        if (found)
            continue;
        if (group->n_experts < config->expert_counts.numbers[0])
            refusals_add(refusals, group->block, group->block,
                         "has %llu experts, but config.json says %llu: the last ones are missing (incomplete "
                         "download?)",
                         (unsigned long long)group->n_experts,
                         (unsigned long long)config->expert_counts.numbers[0]);
        else if (!odd)
            odd = group;
    }
    if (odd)
        notes_add(&p->plan->notes, NOTE_WARNING,
                  "%s: has %llu experts, a number that config.json does not hold", odd->block,
                  (unsigned long long)odd->n_experts);
}

static int check_from(struct planning *p)
{
    const struct recognition *r = p->recognition;

    for (uint32_t g = 0; g < r->n_groups; g++)
        if (r->groups[g].from_option)
            return 0;
    if (r->n_groups > 0)
        return error_set(p->err, "--from %s: fits no MoE layer (%s is %s)", p->from, r->groups[0].block,
                         r->groups[0].bound->layout->name);
    if (r->n_unfit > 0)
        return error_set(p->err, "--from %s: fits no MoE layer (%s: %s)", p->from, r->unfit[0].block,
                         r->unfit[0].reason);
    return error_set(p->err, "--from %s: fits no MoE layer: there is none", p->from);
}

int plan_check_groups(struct planning *p)
{
    struct refusals refusals = {0};

    if (p->from && check_from(p) < 0)
        return -1;
    refuse_unfit(p, &refusals);
    refuse_groups(p, &refusals);
    check_expert_counts(p, &refusals);
    refusals_report(&refusals, p->err);
    refuse_collisions(p);
    if (!p->err->text && p->recognition->n_groups == 0 && p->recognition->n_unfit == 0)
        plan_refuse_unknown(p);
    return p->err->text ? -1 : 0;
}
