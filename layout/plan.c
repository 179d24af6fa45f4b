#include "plan.h"
#include "array.h"
#include "compile.h"
#include "placement.h"
#include "recognise.h"

#include <stdio.h>
#include <string.h>

struct planning {
    const struct checkpoint *checkpoint;
    const char *to, *from;
    struct layouts layouts;
    const struct architecture *architecture;
    struct recognition recognition;
    const struct bound_layout **targets; /* for each group: what it becomes; NULL: passes through */
    bool *passes;                        /* for each tensor */
    struct compile_output output;
    struct plan *plan;
    struct error *err;
};

static const char *model_type(const struct planning *p)
{
    return p->checkpoint->config.model_type ? p->checkpoint->config.model_type : "(none)";
}

static bool is_relative_target(const char *to)
{
    return strcmp(to, "v5") == 0 || strcmp(to, "original") == 0;
}

/* No name with a component that holds "expert" or "moe", and no expert count in config.json. */
static bool is_dense(const struct checkpoint *checkpoint)
{
    if (checkpoint->config.n_expert_counts > 0)
        return false;
    for (uint32_t t = 0; t < checkpoint->n_tensors; t++) {
        const char *name = checkpoint->tensors[t].info.name;
        if (strcasestr(name, "expert") || strcasestr(name, "moe"))
            return false;
    }
    return true;
}

/* ---- what each group becomes ---- */

/* Whether `to` leaves the block as it is, whatever that is. */
static bool left_alone(const struct planning *p, const char *block)
{
    const struct block_rule *rule = architecture_rule(p->architecture, block);

    if (strcmp(p->to, "v5") == 0 && layouts_ignored(&p->layouts, block))
        return true;
    return recognise_meaning(&p->layouts, rule, p->to).any;
}

static void choose_targets(struct planning *p)
{
    for (uint32_t g = 0; g < p->recognition.n_groups; g++) {
        const struct group *group = &p->recognition.groups[g];
        struct layout_list wanted = recognise_meaning(&p->layouts, group->rule, p->to);
        p->targets[g] = NULL;
        if (!left_alone(p, group->block) && wanted.n > 0 && !layout_list_has(&wanted, group->bound->layout))
            p->targets[g] = layouts_bound(&p->layouts, wanted.list[0]);
    }
}

/* ---- reasons to refuse ---- */

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
        error_add(
            p->err,
            "%s: quantised experts: %s in %s (%u such tensors) goes with these weights, and %s cannot be "
            "made of them: merged FP8 loads as garbage without an error wherever the loader dequantises. "
            "Keep them as they are with --to %s, or convert a dequantised copy",
            group->block, name, file, group->n_companions, target->name, present);
    else
        error_add(
            p->err,
            "%s: %s in %s (%u such tensors) belongs to these experts, and layout %s does not say where it "
            "would go. Keep them as they are with --to %s",
            group->block, name, file, group->n_companions, target->name, present);
}

static void refuse_unfit(struct planning *p)
{
    for (uint32_t i = 0; i < p->recognition.n_unfit; i++) {
        const struct unfit_block *unfit = &p->recognition.unfit[i];
        if (!left_alone(p, unfit->block))
            error_add(p->err, "%s: %s", unfit->block, unfit->reason);
    }
}

static void refuse_groups(struct planning *p)
{
    for (uint32_t g = 0; g < p->recognition.n_groups; g++) {
        const struct group *group = &p->recognition.groups[g];
        const struct layout *present = group->bound->layout;
        if (!p->targets[g])
            continue;
        if (group->n_companions > 0)
            refuse_companions(p, group, p->targets[g]->layout);
        if (group->ambiguous)
            error_add(
                p->err,
                "%s: looks like %s, but nothing in its names or shapes tells whether gate or up comes first "
                "or whether they alternate, and model_type %s is not known: if you know, say --from %s",
                group->block, present->name, model_type(p), present->name);
    }
}

/* The names cannot show that the last expert is missing in all projections; config.json can. */
static void check_expert_counts(struct planning *p)
{
    const struct config *config = &p->checkpoint->config;
    const struct group *odd = NULL;

    for (uint32_t g = 0; g < p->recognition.n_groups && config->n_expert_counts > 0; g++) {
        const struct group *group = &p->recognition.groups[g];
        bool found = layouts_ignored(&p->layouts, group->block);
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
    const struct recognition *r = &p->recognition;

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

static int check_groups(struct planning *p)
{
    if (p->from && check_from(p) < 0)
        return -1;
    refuse_unfit(p);
    refuse_groups(p);
    check_expert_counts(p);
    if (!p->err->text && p->recognition.n_groups == 0 && p->recognition.n_unfit == 0)
        error_set(p->err,
                  "no experts found in any known layout, though this is no dense model (model_type %s)",
                  model_type(p));
    return p->err->text ? -1 : 0;
}

/* ---- compiling ---- */

static void pass_through(struct planning *p, uint32_t t)
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

    if (tensor->length > 0)
        utarray_push_back(p->output.extents, &copy);
    utarray_push_back(p->output.tensors, &planned);
}

static int compile_all(struct planning *p)
{
    const struct recognition *r = &p->recognition;

    for (uint32_t t = 0; t < p->checkpoint->n_tensors; t++) {
        uint32_t group = r->group_of[t];
        p->passes[t] = group == NO_GROUP || !p->targets[group];
        if (p->passes[t])
            pass_through(p, t);
    }
    for (uint32_t g = 0; g < r->n_groups; g++) {
        struct error cause = {0};
        if (p->targets[g] && compile_group(&p->layouts, p->checkpoint, &r->groups[g], g, p->targets[g],
                                           &p->output, &cause) < 0)
            error_add(p->err, "%s", cause.text);
        error_free(&cause);
    }
    return p->err->text ? -1 : 0;
}

static void take_extents(struct planning *p)
{
    struct plan *plan = p->plan;

    plan->extents = array_take(p->output.extents, &plan->arena, &plan->n_extents);
    plan->gathers = array_take(p->output.gathers, &plan->arena, &plan->n_gathers);
    plan->boxes = array_take(p->output.boxes, &plan->arena, &plan->n_boxes);
}

/* ---- how the result will be read ---- */

static const struct group *find_group(const struct recognition *recognition, const char *block)
{
    size_t low = 0, high = recognition->n_groups;

    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(recognition->groups[middle].block, block);
        if (order == 0)
            return &recognition->groups[middle];
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

/* Recognises the planned names and shapes again: what would be read as something else is said now, and what
 * could not be read at all is refused. */
static int check_way_back(struct planning *p)
{
    const struct tensor_info **infos = xmalloc(p->plan->n_tensors * sizeof *infos);
    struct recognition back;
    const struct group *misread = NULL;
    const char *seen = NULL, *made = NULL;

    for (uint32_t i = 0; i < p->plan->n_tensors; i++)
        infos[i] = &p->plan->tensors[i].info;
    struct recognise_input input = {.layouts = &p->layouts,
                                    .architecture = p->architecture,
                                    .tensors = infos,
                                    .n_tensors = p->plan->n_tensors};
    recognise(&input, &back);
    for (uint32_t g = 0; g < p->recognition.n_groups; g++) {
        const struct group *was = &p->recognition.groups[g];
        const struct group *is = find_group(&back, was->block);
        const char *unfit = find_unfit(&back, was->block);
        if (!p->targets[g])
            continue;
        if (unfit || !is) {
            error_add(p->err, "%s: as %s it could not be read again: %s", was->block,
                      p->targets[g]->layout->name, unfit ? unfit : "no experts would be seen");
        } else if (!misread && (is->bound != p->targets[g] || is->ambiguous)) {
            misread = was;
            seen = is->bound->layout->name;
            made = p->targets[g]->layout->name;
        }
    }
    if (misread && strcmp(seen, made) != 0)
        notes_add(&p->plan->notes, NOTE_WARNING,
                  "%s: as %s it will be taken for %s by whoever reads it back: that needs --from %s",
                  misread->block, made, seen, made);
    else if (misread)
        notes_add(&p->plan->notes, NOTE_WARNING,
                  "%s: model_type %s is not known, so reading this copy back needs --from %s", misread->block,
                  model_type(p), made);
    recognition_free(&back);
    free(infos);
    return p->err->text ? -1 : 0;
}

/* ---- what people are told ---- */

static uint64_t group_size(const struct planning *p, const struct group *group, const char *axis)
{
    const struct axis_words *words = &p->layouts.words;

    for (uint8_t a = 0; a < words->n; a++)
        if (strcmp(words->words[a], axis) == 0)
            return group->sizes[a];
    return 0;
}

static void describe_groups(struct planning *p)
{
    struct plan *plan = p->plan;

    plan->n_groups = p->recognition.n_groups;
    plan->groups = arena_alloc(&plan->arena, plan->n_groups * sizeof *plan->groups);
    for (uint32_t g = 0; g < plan->n_groups; g++) {
        const struct group *group = &p->recognition.groups[g];
        const struct layout *from = group->bound->layout;
        const struct layout *to = p->targets[g] ? p->targets[g]->layout : from;
        plan->groups[g] = (struct planned_group){.block = arena_strdup(&plan->arena, group->block),
                                                 .from = arena_strdup(&plan->arena, from->name),
                                                 .to = arena_strdup(&plan->arena, to->name),
                                                 .experts = group->n_experts,
                                                 .inner = group_size(p, group, "inner"),
                                                 .hidden = group_size(p, group, "hidden")};
    }
}

/* One line for each pair of layouts. */
static void summarise_groups(struct plan *plan)
{
    for (uint32_t g = 0; g < plan->n_groups; g++) {
        const struct planned_group *group = &plan->groups[g];
        uint32_t n = 0;
        bool first = true;
        for (uint32_t i = 0; i < plan->n_groups; i++) {
            bool same =
                strcmp(plan->groups[i].from, group->from) == 0 && strcmp(plan->groups[i].to, group->to) == 0;
            if (same && i < g)
                first = false;
            n += same;
        }
        if (!first)
            continue;
        bool converted = strcmp(group->from, group->to) != 0;
        notes_add(&plan->notes, NOTE_INFO, "%u %s of experts (%s%s): %s%s%s", n, n == 1 ? "group" : "groups",
                  group->block, n > 1 ? ", ..." : "", converted ? group->from : "stays ",
                  converted ? " -> " : "", group->to);
    }
}

static int plan_dense(struct planning *p)
{
    p->plan->dense = true;
    notes_add(&p->plan->notes, NOTE_INFO,
              "no experts here (a dense model): everything passes through unchanged");
    return 0;
}

static int plan_experts(struct planning *p)
{
    if (p->architecture == &p->layouts.unknown && is_relative_target(p->to))
        return error_set(
            p->err,
            "config.json: model_type %s is not known, so --to %s has no meaning for it: name a layout "
            "(moefs layouts lists them)",
            model_type(p), p->to);
    choose_targets(p);
    return check_groups(p);
}

static int run(struct planning *p)
{
    const struct checkpoint *checkpoint = p->checkpoint;
    const struct tensor_info **infos;

    if (layouts_check_name(&p->layouts, "--to", p->to, p->err) < 0 ||
        (p->from && layouts_check_name(&p->layouts, "--from", p->from, p->err) < 0))
        return -1;
    p->architecture = layouts_architecture(&p->layouts, checkpoint->config.model_type);
    infos = arena_alloc(&p->plan->arena, checkpoint->n_tensors * sizeof *infos);
    for (uint32_t t = 0; t < checkpoint->n_tensors; t++)
        infos[t] = &checkpoint->tensors[t].info;
    struct recognise_input input = {.layouts = &p->layouts,
                                    .architecture = p->architecture,
                                    .tensors = infos,
                                    .n_tensors = checkpoint->n_tensors,
                                    .absent = checkpoint->absent,
                                    .n_absent = checkpoint->n_absent,
                                    .from = p->from};
    recognise(&input, &p->recognition);
    p->targets = xcalloc(p->recognition.n_groups, sizeof(const struct bound_layout *));
    if ((is_dense(checkpoint) && !p->from ? plan_dense(p) : plan_experts(p)) < 0)
        return -1;
    if (compile_all(p) < 0)
        return -1;
    take_extents(p);
    if (placement_build(checkpoint, &p->output, p->passes, p->plan, p->err) < 0)
        return -1;
    describe_groups(p);
    summarise_groups(p->plan);
    return check_way_back(p);
}

int plan_build(const struct checkpoint *checkpoint, const struct plan_options *options, struct plan *plan,
               struct error *err)
{
    struct planning p = {.checkpoint = checkpoint,
                         .to = options->to ? options->to : "v5",
                         .from = options->from,
                         .plan = plan,
                         .err = err};

    *plan = (struct plan){0};
    if (layouts_load(&p.layouts, err) < 0)
        return -1;
    compile_output_init(&p.output, &plan->arena);
    p.passes = xcalloc(checkpoint->n_tensors, sizeof *p.passes);
    int result = run(&p);
    compile_output_free(&p.output);
    recognition_free(&p.recognition);
    free(p.passes);
    free(p.targets);
    layouts_free(&p.layouts);
    if (result < 0)
        plan_free(plan);
    return result;
}

void plan_free(struct plan *plan)
{
    notes_free(&plan->notes);
    arena_free(&plan->arena);
    *plan = (struct plan){0};
}

const struct planned_tensor *plan_find_tensor(const struct plan *plan, const struct planned_file *file,
                                              uint64_t offset)
{
    size_t low = 0, high = file->n_tensors;

    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct planned_tensor *tensor = &plan->tensors[file->first_tensor + middle];
        if (offset < tensor->offset)
            high = middle;
        else if (offset >= tensor->offset + tensor->length)
            low = middle + 1;
        else
            return tensor;
    }
    return NULL;
}

const struct extent *plan_find_extent(const struct plan *plan, const struct planned_tensor *tensor,
                                      uint64_t offset)
{
    size_t low = 0, high = tensor->n_extents;

    while (low + 1 < high) {
        size_t middle = (low + high) / 2;
        if (offset < plan->extents[tensor->first_extent + middle].begin)
            high = middle;
        else
            low = middle;
    }
    return &plan->extents[tensor->first_extent + low];
}
