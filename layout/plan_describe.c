/* What a plan says of itself to people: which groups there are, what each tensor holds, notes. */
#include "planning.h"

#include <string.h>

static uint64_t group_size(const struct planning *p, const struct group *group, const char *word)
{
    uint8_t axis = axis_find(&p->layouts->words, word);

    return axis == AXIS_NONE ? 0 : group->sizes[axis];
}

/* What each stored tensor of a group holds. */
static void describe_sources(struct planning *p)
{
    const char **holds = arena_alloc(&p->plan->arena, p->checkpoint->n_tensors * sizeof *holds);

    memset(holds, 0, p->checkpoint->n_tensors * sizeof *holds);
    for (uint32_t g = 0; g < p->recognition->n_groups; g++) {
        const struct group *group = &p->recognition->groups[g];
        for (unsigned f = 0; f < group->bound->n_forms; f++) {
            if (group->n_members[f] == 0)
                continue;
            const char *text = form_text(p->layouts, &group->bound->forms[f], &p->plan->arena);
            for (uint32_t i = 0; i < group->n_members[f]; i++)
                holds[group->members[f][i]] = text;
        }
    }
    p->plan->source_holds = holds;
}

static void describe_groups(struct planning *p)
{
    struct plan *plan = p->plan;

    plan->n_groups = p->recognition->n_groups;
    plan->groups = arena_alloc(&plan->arena, plan->n_groups * sizeof *plan->groups);
    for (uint32_t g = 0; g < plan->n_groups; g++) {
        const struct group *group = &p->recognition->groups[g];
        const struct bound_layout *from = group->bound;
        const struct bound_layout *to = p->targets[g].bound ? p->targets[g].bound : from;
        plan->groups[g] = (struct planned_group){.block = group_title(group, &plan->arena),
                                                 .from = from->layout->name,
                                                 .to = to->layout->name,
                                                 .experts = group->n_experts,
                                                 .inner = group_size(p, group, "inner"),
                                                 .hidden = group_size(p, group, "hidden")};
    }
}

/* One line for each pair of layouts. */
static void summarise_groups(const struct recognition *r, struct plan *plan)
{
    for (uint32_t g = 0; g < plan->n_groups; g++) {
        const struct planned_group *group = &plan->groups[g];
        const char *layer = ""; /* the last one that was counted: two sets of experts in a layer are one */
        uint32_t n = 0;
        bool first = true;
        for (uint32_t i = 0; i < plan->n_groups; i++) {
            if (strcmp(plan->groups[i].from, group->from) != 0 || strcmp(plan->groups[i].to, group->to) != 0)
                continue;
            first &= i >= g;
            n += strcmp(r->groups[i].block, layer) != 0;
            layer = r->groups[i].block;
        }
        if (!first)
            continue;
        bool converted = strcmp(group->from, group->to) != 0;
        notes_add(&plan->notes, NOTE_INFO, "%u MoE %s (%s%s): %s%s%s", n, n == 1 ? "layer" : "layers",
                  group->block, n > 1 ? ", ..." : "", converted ? group->from : "stays ",
                  converted ? " -> " : "", group->to);
    }
}

void plan_describe_inferred(struct planning *p)
{
    const struct recognition *r = p->recognition;

    if (p->architecture != &p->layouts->unknown)
        return;
    for (uint32_t g = 0; g < r->n_groups; g++) {
        uint32_t same = 0;
        bool first = true;
        for (uint32_t i = 0; i < r->n_groups; i++)
            if (r->groups[i].bound == r->groups[g].bound) {
                first &= i >= g;
                same++;
            }
        if (first)
            notes_add(&p->plan->notes, NOTE_INFO, "model_type %s is not known: %u MoE %s (%s%s) read as %s%s",
                      planning_model_type(p), same, same == 1 ? "layer" : "layers", r->groups[g].block,
                      same > 1 ? ", ..." : "", r->groups[g].bound->layout->name,
                      r->groups[g].from_option ? " because --from says so" : " by their names and shapes");
    }
}

void plan_describe(struct planning *p)
{
    describe_groups(p);
    describe_sources(p);
    summarise_groups(p->recognition, p->plan);
}
