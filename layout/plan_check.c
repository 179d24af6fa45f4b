/* What refuses a plan, and what its reader must be told. */
#include "layout/base/checked.h"
#include "planning.h"

#include <string.h>

#include <utstring.h>

const char *planning_model_type(const struct planning *p)
{
    return p->checkpoint->config.model_type ? p->checkpoint->config.model_type : "(none)";
}

bool planning_leaves(const struct planning *p, const char *block)
{
    const struct block_rule *rule = architecture_rule(p->architecture, block);

    if (strcmp(p->to, "v5") == 0 && layouts_ignored(p->layouts, block))
        return true;
    return recognise_meaning(p->layouts, rule, p->to).any;
}

/* ---- reasons to refuse ---- */

#define FP8_REASON                                                                                           \
    "merged FP8 loads as garbage without an error wherever the loader dequantises (no GPU, or compute "      \
    "capability "                                                                                            \
    "below 8.9)"

static bool is_scale(const char *companion)
{
    return strstr(companion, "scale") || strstr(companion, "packed") || strstr(companion, "zeros");
}

static void refuse_companions(struct planning *p, const struct group *group, const struct layout *target)
{
    const struct tensor *companion = &p->checkpoint->tensors[group->companion];
    const char *name = companion->info.name;
    const char *file = p->checkpoint->shards[companion->shard].name;
    const char *present = group->bound->layout->name;

    if (is_scale(name))
        error_add(p->err,
                  "%s: quantised experts: %s in %s (%u such tensors) goes with these weights, and %s cannot "
                  "be made "
                  "of them: " FP8_REASON
                  ". Keep them as they are with --to %s, or convert a dequantised copy",
                  group->block, name, file, group->n_companions, target->name, present);
    else
        error_add(
            p->err,
            "%s: %s in %s (%u such tensors) belongs to these experts, and layout %s does not say where it "
            "would go. Keep them as they are with --to %s",
            group->block, name, file, group->n_companions, target->name, present);
}

/* Parts that are converted only when the user asked for it. */
static void refuse_unasked(struct planning *p, const struct group *group, const struct layout *target)
{
    for (unsigned f = 0; f < group->bound->n_forms; f++) {
        uint8_t part = group->bound->forms[f].part;
        const char *option = layouts_part_option(p->layouts, target, part);
        if (group->n_members[f] == 0 || !option || p->options->fp8_keep)
            continue;
        const struct tensor *scale = &p->checkpoint->tensors[group->members[f][0]];
        error_add(p->err,
                  "%s: quantised experts: %s in %s goes with these weights: " FP8_REASON
                  ". Keep them as they are with --to %s, or say %s if the loader reads merged FP8",
                  group->block, scale->info.name, p->checkpoint->shards[scale->shard].name,
                  group->bound->layout->name, option);
        return;
    }
}

/* Quantised weights whose shapes no layout describes, under the names of a layout that is wanted:
 * they stay. */
static bool stays_quantised(const struct planning *p, const struct unfit_block *unfit)
{
    const struct block_rule *rule = architecture_rule(p->architecture, unfit->block);
    struct layout_list wanted = recognise_meaning(p->layouts, rule, p->to);
    bool named = false;

    for (unsigned i = 0; i < wanted.n; i++)
        named |= unfit->named >> (wanted.list[i] - p->layouts->layouts) & 1;
    return named && unfit->companion != NO_TENSOR;
}

static void refuse_quantised(struct planning *p, const struct unfit_block *unfit)
{
    const struct tensor *companion = &p->checkpoint->tensors[unfit->companion];
    unsigned l = 0;

    while (!(unfit->named >> l & 1))
        l++;
    error_add(
        p->err,
        "%s: quantised experts: %s in %s goes with these weights, and no layout describes them (%s). Keep "
        "them as they are with --to %s, or convert a dequantised copy",
        unfit->block, companion->info.name, p->checkpoint->shards[companion->shard].name, unfit->reason,
        p->layouts->layouts[l].name);
}

static void refuse_unfit(struct planning *p)
{
    const struct unfit_block *first = NULL;
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->recognition->n_unfit; i++) {
        const struct unfit_block *unfit = &p->recognition->unfit[i];
        if (planning_leaves(p, unfit->block))
            continue;
        if (stays_quantised(p, unfit)) {
            first = first ? first : unfit;
            n++;
        } else if (unfit->companion != NO_TENSOR) {
            refuse_quantised(p, unfit);
        } else {
            error_add(p->err, "%s: %s", unfit->block, unfit->reason);
        }
    }
    if (first)
        notes_add(&p->plan->notes, NOTE_INFO, "%u %s of quantised experts (%s%s): stay as they are", n,
                  n == 1 ? "block" : "blocks", first->block, n > 1 ? ", ..." : "");
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
static void refuse_ambiguous(struct planning *p, const struct group *group)
{
    UT_string names;

    utstring_init(&names);
    for (unsigned l = 0; l < p->layouts->n_layouts; l++) {
        const struct layout *layout = &p->layouts->layouts[l];
        if (!layout->user && could_be(group, layouts_bound(p->layouts, group->rule, layout)))
            utstring_printf(&names, "%s--from %s", utstring_len(&names) > 0 ? ", " : "", layout->name);
    }
    error_add(
        p->err,
        "%s: nothing in its names or shapes tells whether gate or up comes first or whether they "
        "alternate, and model_type %s is not known. Look into the model's code, and say which it is: %s",
        group->block, planning_model_type(p), utstring_body(&names));
    utstring_done(&names);
}

static void refuse_groups(struct planning *p)
{
    for (uint32_t g = 0; g < p->recognition->n_groups; g++) {
        const struct group *group = &p->recognition->groups[g];
        const struct compile_target *target = &p->targets[g];
        if (!target->bound)
            continue;
        if (!target->block)
            error_add(p->err,
                      "%s: layout %s puts experts under %s, and this block's name has no layer number",
                      group->block, target->bound->layout->name, target->bound->layout->block);
        if (group->n_companions > 0)
            refuse_companions(p, group, target->bound->layout);
        refuse_unasked(p, group, target->bound->layout);
        if (group->ambiguous)
            refuse_ambiguous(p, group);
    }
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
        if (told && !checked_add(*sum, number, sum))
            return false;
        at += length + (at[length] == ' ');
    }
    return true;
}

/* Where the architecture says which numbers of config.json count an axis: whether it does for the experts. A
 * number of experts that a loader could not use is said once. */
static bool check_told_counts(struct planning *p, const struct group *group, bool *warned)
{
    const struct axis_words *words = &p->layouts->words;
    const char *const *counts = group->rule->counts;
    uint64_t least, sum;

    for (uint8_t a = 1; a < words->n; a++) {
        if (!counts[a] || group->sizes[a] == 0 ||
            !read_count(&p->checkpoint->config, counts[a], &least, &sum))
            continue;
        if (group->sizes[a] < least) {
            error_add(p->err,
                      "%s: has %llu along '%s', but config.json says %llu (%s): the last ones are missing",
                      group->block, (unsigned long long)group->sizes[a], words->words[a],
                      (unsigned long long)least, counts[a]);
        } else if (group->sizes[a] != sum && !*warned) {
            notes_add(&p->plan->notes, NOTE_WARNING,
                      "%s: has %llu along '%s', and config.json's %s add up to %llu: a loader that wants all "
                      "of them "
                      "cannot load this, in any layout",
                      group->block, (unsigned long long)group->sizes[a], words->words[a], counts[a],
                      (unsigned long long)sum);
            *warned = true;
        }
    }
    uint8_t expert = axis_find(words, "expert");
    return expert != AXIS_NONE && counts[expert];
}

/* The names cannot show that the last expert is missing in all projections; config.json can. */
static void check_expert_counts(struct planning *p)
{
    const struct config *config = &p->checkpoint->config;
    const struct group *odd = NULL;
    bool warned = false;

    for (uint32_t g = 0; g < p->recognition->n_groups && config->n_expert_counts > 0; g++) {
        const struct group *group = &p->recognition->groups[g];
        bool found = layouts_ignored(p->layouts, group->block) || check_told_counts(p, group, &warned);
        for (size_t i = 0; i < config->n_expert_counts; i++)
            found |= config->expert_counts[i] == group->n_experts;
        if (found)
            continue;
        if (group->n_experts < config->expert_counts[0])
            error_add(
                p->err,
                "%s: has %llu experts, but config.json says %llu: the last ones are missing (incomplete "
                "download?)",
                group->block, (unsigned long long)group->n_experts,
                (unsigned long long)config->expert_counts[0]);
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
        return error_set(p->err, "--from %s: fits no group of experts (%s is %s)", p->from,
                         r->groups[0].block, r->groups[0].bound->layout->name);
    if (r->n_unfit > 0)
        return error_set(p->err, "--from %s: fits no group of experts (%s: %s)", p->from, r->unfit[0].block,
                         r->unfit[0].reason);
    return error_set(p->err, "--from %s: fits no group of experts: there is none", p->from);
}

int plan_check_groups(struct planning *p)
{
    if (p->from && check_from(p) < 0)
        return -1;
    refuse_unfit(p);
    refuse_groups(p);
    refuse_collisions(p);
    check_expert_counts(p);
    if (!p->err->text && p->recognition->n_groups == 0 && p->recognition->n_unfit == 0)
        error_set(p->err,
                  "no experts found in any known layout, though this is no dense model (model_type %s)",
                  planning_model_type(p));
    return p->err->text ? -1 : 0;
}

/* ---- how the result will be read ---- */

static const struct group *find_group(const struct recognition *recognition, const char *block, uint8_t word)
{
    size_t low = 0, high = recognition->n_groups;

    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct group *group = &recognition->groups[middle];
        int order = strcmp(group->block, block);
        if (order == 0)
            order = group->word - word;
        if (order == 0)
            return group;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static const char *find_unfit(const struct recognition *recognition, const char *block)
{
    for (uint32_t i = 0; i < recognition->n_unfit; i++)
        if (strcmp(recognition->unfit[i].block, block) == 0)
            return recognition->unfit[i].reason;
    return NULL;
}

/* How the result is read without being told anything, and as what it was made. */
struct way_back {
    struct recognition plain, told;
};

static bool reads_as(const struct recognition *recognition, const struct group *was,
                     const struct compile_target *target)
{
    const struct group *is = find_group(recognition, target->block, was->word);

    return is && !find_unfit(recognition, target->block) && !is->ambiguous &&
           bound_same_placement(is->bound, target->bound);
}

static void warn_misread(struct planning *p, const struct group *was, const struct group *seen,
                         const char *made)
{
    if (!seen)
        notes_add(&p->plan->notes, NOTE_WARNING,
                  "%s: as %s its experts will not be recognised: reading it back needs --from %s", was->block,
                  made, made);
    else if (strcmp(seen->bound->layout->name, made) != 0)
        notes_add(
            &p->plan->notes, NOTE_WARNING,
            "%s: as %s it will be taken for %s, without an error, by whoever loads that; reading it back "
            "needs --from %s",
            was->block, made, seen->bound->layout->name, made);
    else
        notes_add(&p->plan->notes, NOTE_WARNING,
                  "%s: model_type %s is not known, so reading this copy back needs --from %s", was->block,
                  planning_model_type(p), made);
}

/* Not even --from reads it. A layout that is made for others only is the user's business. */
static void report_unreadable(struct planning *p, const struct group *was,
                              const struct compile_target *target, const char *reason)
{
    const char *made = target->bound->layout->name;

    if (target->bound->layout->generic)
        error_add(p->err, "%s: as %s it could not be read again: %s", was->block, made, reason);
    else
        notes_add(&p->plan->notes, NOTE_WARNING, "%s: as %s it cannot be read back: %s", was->block, made,
                  reason);
}

static void compare_way_back(struct planning *p, const struct way_back *back)
{
    bool warned = false;

    for (uint32_t g = 0; g < p->recognition->n_groups; g++) {
        const struct group *was = &p->recognition->groups[g];
        const struct compile_target *target = &p->targets[g];
        if (!target->bound || reads_as(&back->plain, was, target))
            continue;
        const char *reason = find_unfit(&back->told, target->block);
        bool readable = reads_as(&back->told, was, target);
        if (!readable && (!warned || target->bound->layout->generic))
            report_unreadable(p, was, target, reason ? reason : "no experts would be seen");
        else if (!warned)
            warn_misread(p, was, find_group(&back->plain, target->block, was->word),
                         target->bound->layout->name);
        warned = true;
    }
}

static bool all_read(const struct planning *p, const struct recognition *back)
{
    bool all = true;

    for (uint32_t g = 0; g < p->recognition->n_groups && all; g++)
        all = !p->targets[g].bound || reads_as(back, &p->recognition->groups[g], &p->targets[g]);
    return all;
}

int plan_check_way_back(struct planning *p)
{
    const struct tensor_info **infos = xreallocarray(NULL, p->plan->n_tensors, sizeof *infos);
    struct way_back back;

    for (uint32_t i = 0; i < p->plan->n_tensors; i++)
        infos[i] = &p->plan->tensors[i].info;
    struct recognise_input input = {.layouts = p->layouts,
                                    .architecture = p->architecture,
                                    .config = &p->checkpoint->config,
                                    .tensors = infos,
                                    .n_tensors = p->plan->n_tensors};
    recognise(&input, &back.plain);
    if (!all_read(p, &back.plain)) {
        input.from = p->to;
        recognise(&input, &back.told);
        compare_way_back(p, &back);
        recognition_free(&back.told);
    }
    recognition_free(&back.plain);
    free(infos);
    return p->err->text ? -1 : 0;
}
