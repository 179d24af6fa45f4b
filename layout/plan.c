/* Building a plan: recognise, choose what each group becomes, compile, place, check. */
#include "plan.h"
#include "layout/base/array.h"
#include "placement.h"
#include "planning.h"
#include "refusals.h"
#include "rename.h"

#include <stdio.h>
#include <string.h>

static bool is_relative_target(const char *to)
{
    return strcmp(to, "v5") == 0 || strcmp(to, "original") == 0;
}

/* No name that holds "expert" or "moe", and no MoE layer in config.json. */
static bool is_dense(const struct checkpoint *checkpoint)
{
    if (!config_is_dense(&checkpoint->config))
        return false;
    for (uint32_t t = 0; t < checkpoint->n_tensors; t++) {
        const char *name = checkpoint->tensors[t].info.name;
        if (strcasestr(name, "expert") || strcasestr(name, "moe"))
            return false;
    }
    return true;
}

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

uint32_t planning_find_codes(const struct planning *p, const struct group *group)
{
    for (unsigned f = 0; f < group->bound->n_forms; f++) {
        uint8_t part = group->bound->forms[f].part;
        bool packed = layouts_is_packed(p->layouts, part);
        if (!packed && !layouts_is_main(p->layouts, part))
            continue;
        for (uint32_t i = 0; i < group->n_members[f]; i++) {
            uint32_t tensor = group->members[f][i];
            if (packed || !dtype_is_full_float(p->checkpoint->tensors[tensor].info.dtype))
                return tensor;
        }
    }
    return NO_TENSOR;
}

struct layout_list planning_wanted(const struct planning *p, const struct block_rule *rule, bool quantised)
{
    if (quantised && rule && rule->quantised.n > 0 && strcmp(p->to, "original") == 0)
        return rule->quantised;
    return recognise_meaning(p->layouts, rule, p->to);
}

/* ---- what each group becomes ---- */

/* "layers.{layer}.moe" with the number behind the last "layers." of the block. NULL where that has none. */
static const char *target_block(struct planning *p, const struct layout *layout, const char *block)
{
    static const char hole[] = "{layer}", word[] = "layers.";
    const char *number = NULL;

    if (!layout->block)
        return arena_strdup(&p->plan->arena, block);
    for (const char *at = strstr(block, word); at; at = strstr(at + 1, word))
        number = at + strlen(word);
    size_t digits = number ? strspn(number, "0123456789") : 0;
    const char *at = strstr(layout->block, hole);
    if (digits == 0 || !at)
        return NULL;
    cleanup_free char *result = xasprintf("%.*s%.*s%s", (int)(at - layout->block), layout->block, (int)digits,
                                          number, at + strlen(hole));
    return arena_strdup(&p->plan->arena, result);
}

static void choose_targets(struct planning *p)
{
    for (uint32_t g = 0; g < p->recognition->n_groups; g++) {
        const struct group *group = &p->recognition->groups[g];
        bool quantised = planning_find_codes(p, group) != NO_TENSOR;
        struct layout_list wanted = planning_wanted(p, group->rule, quantised);
        bool stays = planning_leaves(p, group->block) || wanted.n == 0;
        /* where blocks are numbered anew, there is no place for one that is beside the layers */
        stays |= wanted.n > 0 && wanted.list[0]->block && layouts_ignored(p->layouts, group->block);
        for (unsigned i = 0; i < wanted.n; i++)
            stays |=
                bound_same_placement(layouts_bound(p->layouts, group->rule, wanted.list[i]), group->bound);
        if (stays)
            continue;
        p->targets[g].bound = layouts_bound(p->layouts, group->rule, wanted.list[0]);
        p->targets[g].block = target_block(p, wanted.list[0], group->block);
    }
}

/* ---- compiling ---- */

/* What tensors in no group are called: back to what they were for the stored layout, then as the
 * target says. */
struct naming {
    struct renames *back, *there; /* or NULL */
    struct renames *again;        /* the target's names back, as a later --from will have them; or NULL */
    /* The first tensor whose name would not come back, and how many there are. */
    const char *lost, *lost_there, *lost_again;
    uint32_t n_lost;
};

static int naming_init(struct planning *p, struct naming *naming)
{
    const struct layout *from = p->from ? layouts_find(p->layouts, p->from) : NULL;
    const struct layout *to = layouts_find(p->layouts, p->to);

    *naming = (struct naming){0};
    if (from == to)
        return 0;
    if (from && renames_compile_back(from, &naming->back, p->err) < 0)
        return -1;
    if (!to || to->n_renames == 0)
        return 0;
    if (renames_compile(to, &naming->there, p->err) < 0)
        return -1;
    return renames_compile_back(to, &naming->again, p->err);
}

/* The new name of a tensor in no group. */
static const char *naming_apply(struct naming *naming, const char *stored, struct arena *arena)
{
    const char *name = renames_apply(naming->back, stored, arena);
    const char *there = renames_apply(naming->there, name, arena);
    const char *again = renames_apply(naming->again, there, arena);

    if (naming->again && strcmp(again, name) != 0 && naming->n_lost++ == 0) {
        naming->lost = name;
        naming->lost_there = there;
        naming->lost_again = again;
    }
    return there;
}

/* rename is the user's, so it is used all the same: the copy may be meant for others. */
static void warn_lost_names(struct planning *p, const struct naming *naming)
{
    cleanup_free char *others =
        naming->n_lost > 1 ? xasprintf(" (and %u more)", naming->n_lost - 1) : xstrdup("");

    if (naming->n_lost > 0)
        notes_add(
            &p->plan->notes, NOTE_WARNING,
            "%s%s: layout %s calls it %s, and --from %s would read that name as %s: these pairs of rename "
            "have no way back",
            naming->lost, others, p->to, naming->lost_there, p->to, naming->lost_again);
}

static void pass_through(struct planning *p, uint32_t t, struct naming *naming)
{
    const struct tensor *tensor = &p->checkpoint->tensors[t];
    struct planned_tensor planned = {.info = tensor->info,
                                     .length = tensor->length,
                                     .offset = tensor->offset,
                                     .file = tensor->shard,
                                     .first_extent = utarray_len(p->output.extents),
                                     .n_extents = tensor->length > 0,
                                     .group = UINT32_MAX};
    struct extent copy = {
        .length = tensor->length, .source = tensor->offset, .shard = tensor->shard, .gather = PLAN_NO_GATHER};

    if (p->recognition->group_of[t] == NO_GROUP)
        planned.info.name = naming_apply(naming, tensor->info.name, &p->plan->arena);
    p->passes[t] = strcmp(planned.info.name, tensor->info.name) == 0;
    if (tensor->length > 0)
        utarray_push_back(p->output.extents, &copy);
    utarray_push_back(p->output.tensors, &planned);
}

static int pass_through_all(struct planning *p)
{
    struct naming naming;
    int result = naming_init(p, &naming);

    for (uint32_t t = 0; t < p->checkpoint->n_tensors && result == 0; t++) {
        uint32_t group = p->recognition->group_of[t];
        if (group == NO_GROUP || !p->targets[group].bound)
            pass_through(p, t, &naming);
    }
    warn_lost_names(p, &naming);
    renames_free(naming.back);
    renames_free(naming.there);
    renames_free(naming.again);
    return result;
}

/* A reason that compile_group() gave: it begins with the group's title. */
static void refuse_compiled(struct planning *p, struct refusals *refusals, const struct group *group,
                            const char *reason)
{
    const char *title = group_title(group, &p->recognition->arena);
    size_t length = strlen(title);

    if (strncmp(reason, title, length) == 0 && strncmp(reason + length, ": ", 2) == 0)
        reason += length + 2;
    refusals_add(refusals, group->block, title, "%s", reason);
}

static int compile_all(struct planning *p)
{
    const struct recognition *r = p->recognition;
    struct refusals refusals = {0};

    if (pass_through_all(p) < 0)
        return -1;
    for (uint32_t g = 0; g < r->n_groups; g++) {
        struct error cause = {0};
        if (p->targets[g].bound && compile_group(p->layouts, p->checkpoint, &r->groups[g], g, &p->targets[g],
                                                 &p->output, &cause) < 0)
            refuse_compiled(p, &refusals, &r->groups[g], cause.text);
        error_free(&cause);
    }
    return refusals_report(&refusals, p->err);
}

static bool same_info(const struct tensor_info *a, const struct tensor_info *b)
{
    return a->dtype == b->dtype && a->n_dims == b->n_dims && strcmp(a->name, b->name) == 0 &&
           memcmp(a->shape, b->shape, a->n_dims * sizeof *a->shape) == 0;
}

/* A conversion leaves some tensors as they are (down_proj, from merged to stacked): these pass through, and a
 * shard that holds nothing else stays the source's file. */
static void pass_unchanged(struct planning *p)
{
    for (uint32_t t = 0; t < utarray_len(p->output.tensors); t++) {
        struct planned_tensor *planned = array_at(p->output.tensors, t);
        if (planned->group == UINT32_MAX || planned->n_extents != 1)
            continue;
        const struct extent *extent = array_at(p->output.extents, planned->first_extent);
        if (extent->gather != PLAN_NO_GATHER)
            continue;
        const struct tensor *tensor = checkpoint_find_tensor(p->checkpoint, extent->shard, extent->source);
        if (tensor->offset != extent->source || !same_info(&planned->info, &tensor->info))
            continue;
        planned->group = UINT32_MAX;
        planned->offset = tensor->offset;
        p->passes[tensor - p->checkpoint->tensors] = true;
    }
}

static void take_extents(struct planning *p)
{
    struct plan *plan = p->plan;

    plan->extents = array_take(p->output.extents, &plan->arena, &plan->n_extents);
    plan->gathers = array_take(p->output.gathers, &plan->arena, &plan->n_gathers);
    plan->boxes = array_take(p->output.boxes, &plan->arena, &plan->n_boxes);
}

static int plan_dense(struct planning *p)
{
    p->plan->dense = true;
    notes_add(&p->plan->notes, NOTE_INFO,
              "no MoE layer here (a dense model): everything passes through unchanged");
    return 0;
}

static int plan_experts(struct planning *p)
{
    if (p->architecture == &p->layouts->unknown && is_relative_target(p->to))
        return error_set(
            p->err,
            "config.json: model_type %s is not known, so --to %s has no meaning for it: name a layout "
            "(moefs layouts lists them)",
            planning_model_type(p), p->to);
    if (p->architecture->n_rules == 0) {
        notes_add(&p->plan->notes, NOTE_INFO,
                  "model_type %s has experts that are never converted: everything "
                  "passes through unchanged",
                  planning_model_type(p));
        return 0;
    }
    choose_targets(p);
    plan_describe_inferred(p);
    return plan_check_groups(p);
}

static int run(struct planning *p)
{
    const struct checkpoint *checkpoint = p->checkpoint;
    const struct tensor_info **infos;

    if (layouts_check_name(p->layouts, "--to", p->to, p->err) < 0 ||
        (p->from && layouts_check_name(p->layouts, "--from", p->from, p->err) < 0))
        return -1;
    p->architecture = p->plan->architecture = layouts_architecture(p->layouts, checkpoint->config.model_type);
    infos = arena_alloc(&p->plan->arena, checkpoint->n_tensors * sizeof *infos);
    for (uint32_t t = 0; t < checkpoint->n_tensors; t++)
        infos[t] = &checkpoint->tensors[t].info;
    struct recognise_input input = {.layouts = p->layouts,
                                    .architecture = p->architecture,
                                    .config = &checkpoint->config,
                                    .tensors = infos,
                                    .n_tensors = checkpoint->n_tensors,
                                    .absent = checkpoint->absent,
                                    .n_absent = checkpoint->n_absent,
                                    .from = p->from};
    recognise(&input, p->recognition);
    p->targets = xcalloc(p->recognition->n_groups, sizeof *p->targets);
    if ((is_dense(checkpoint) && !p->from ? plan_dense(p) : plan_experts(p)) < 0)
        return -1;
    if (compile_all(p) < 0)
        return -1;
    pass_unchanged(p);
    take_extents(p);
    if (placement_build(checkpoint, p->options, &p->output, p->passes, p->plan, p->err) < 0)
        return -1;
    plan_describe(p);
    return plan_check_way_back(p);
}

int plan_build(const struct checkpoint *checkpoint, const struct plan_options *options, struct plan *plan,
               struct error *err)
{
    struct planning p = {.checkpoint = checkpoint,
                         .options = options,
                         .to = options->to ? options->to : "v5",
                         .from = options->from,
                         .plan = plan,
                         .err = err};

    *plan = (struct plan){0};
    plan->recognition = arena_alloc(&plan->arena, sizeof *plan->recognition);
    *plan->recognition = (struct recognition){0};
    plan->layouts = options->layouts;
    if (!plan->layouts) {
        struct layouts *loaded = arena_alloc(&plan->arena, sizeof *loaded);
        if (layouts_load(loaded, options->users, err) < 0) {
            arena_free(&plan->arena);
            *plan = (struct plan){0};
            return -1;
        }
        plan->layouts = plan->loaded = loaded;
    }
    p.layouts = plan->layouts;
    p.recognition = plan->recognition;
    compile_output_init(&p.output, &plan->arena);
    p.passes = xcalloc(checkpoint->n_tensors, sizeof *p.passes);
    int result = run(&p);
    compile_output_free(&p.output);
    free(p.passes);
    free(p.targets);
    if (result < 0)
        plan_free(plan);
    return result;
}

void plan_free(struct plan *plan)
{
    if (plan->recognition)
        recognition_free(plan->recognition);
    if (plan->loaded)
        layouts_free(plan->loaded);
    notes_free(&plan->notes);
    arena_free(&plan->arena);
    *plan = (struct plan){0};
}
