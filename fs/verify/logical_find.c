/* Finds, for each logical tensor, the stored tensors that hold it on every side; reports what is not as it
 * should be. */
#include "logical.h"

#include "layout/base/text.h"
#include "layout/rename.h"

#include <string.h>

/* What one call of logical_find() works on. */
struct finding {
    const struct logical_input *input;
    struct logical *logical;
    struct report *report;
};

/* ---- members ---- */

static bool same_shape(const struct tensor_info *info, const uint64_t *shape, unsigned n_dims)
{
    return info->n_dims == n_dims && memcmp(info->shape, shape, n_dims * sizeof *shape) == 0;
}

/* What a side should have: a tensor that is compared, or whose absence is reported, under this order. */
struct expected {
    const char *name;
    const uint64_t *shape;
    unsigned n_dims;
    enum dtype dtype;
    enum difference_order order;
    uint64_t sequence;
};

/* The tensor of that name, claimed, when it is what it should be; NULL, reported, otherwise. */
static const struct side_tensor *claim(const struct finding *finding, unsigned s,
                                       const struct expected *expected)
{
    const struct side *side = &finding->input->sides[s];
    struct side_tensor *tensor = side_find(side, expected->name);
    struct difference place = report_place(expected->order, expected->sequence, tensor ? "shape" : "missing");

    if (!tensor) {
        report_difference(finding->report, &place, expected->name, "%s has no such tensor", side->title);
        return NULL;
    }
    tensor->claimed = true;
    if (same_shape(&tensor->info, expected->shape, expected->n_dims) && tensor->info.dtype == expected->dtype)
        return tensor;
    cleanup_free char *got = text_of_shape(tensor->info.shape, tensor->info.n_dims);
    cleanup_free char *want = text_of_shape(expected->shape, expected->n_dims);
    report_difference(finding->report, &place, expected->name, "%s has it as %s %s in %s, not as %s %s",
                      side->title, dtype_name(tensor->info.dtype), got, side_file_name(side, tensor->file),
                      dtype_name(expected->dtype), want);
    return NULL;
}

static void find_source_members(const struct finding *finding, struct logical_group *group)
{
    for (unsigned f = 0; f < group->bound[0]->n_forms; f++) {
        const uint32_t n = group->group->n_members[f];
        group->members[0][f] = arena_alloc(&finding->logical->arena, (n + 1) * sizeof *group->members[0][f]);
        for (uint32_t i = 0; i < n; i++) {
            struct side_tensor *tensor = &finding->input->sides[0].tensors[group->group->members[f][i]];
            tensor->claimed = true;
            group->members[0][f][i] = tensor;
        }
    }
}

/* What the exposed form f holds of the group, or NULL: nothing. */
static const struct logical_form *form_at(const struct logical_group *group, unsigned f)
{
    for (unsigned i = 0; i < group->n_forms; i++)
        if (group->forms[i].at[1].form == f)
            return &group->forms[i];
    return NULL;
}

static void find_exposed_members(const struct finding *finding, struct logical_group *group, unsigned s)
{
    struct arena *arena = &finding->logical->arena;

    for (unsigned f = 0; f < group->bound[1]->n_forms; f++) {
        const struct form *form = &group->bound[1]->forms[f];
        const struct logical_form *logical = form_at(group, f);
        const int hole = template_integer_hole(&form->name);
        const uint64_t n = hole >= 0 ? group->group->sizes[form->name.holes[hole].axis] : 1;
        uint64_t shape[AXES_DIMS_MAX];
        if (!logical)
            continue;
        /* the plan has the same shape and has checked the product */
        if (!axes_shape(&form->axes, &group->layouts->words, group->group->sizes, form->n_projs, shape))
            continue;
        struct expected expected = {.shape = shape,
                                    .n_dims = form->axes.n_dims,
                                    .dtype = group->members[0][logical->at[0].form][0]->info.dtype,
                                    .order = DIFFERENCE_GROUPS,
                                    .sequence = group->number << 32};
        group->members[s][f] = arena_alloc(arena, n * sizeof *group->members[s][f]);
        for (uint64_t v = 0; v < n; v++) {
            expected.name =
                template_name(&form->name, group->block, group->group->word, group->group->sizes, v, arena);
            group->members[s][f][v] = claim(finding, s, &expected);
        }
    }
}

/* ---- groups ---- */

/* What the exposed side calls the group's block: from the planned names, which begin with it. */
static const char *exposed_block(const struct finding *finding, uint32_t g, const struct bound_layout *bound)
{
    const struct plan *plan = finding->input->plan;

    for (uint32_t t = 0; t < plan->n_tensors; t++) {
        const char *name = plan->tensors[t].info.name;
        struct name_match match;
        if (plan->tensors[t].group != g)
            continue;
        for (unsigned f = 0; f < bound->n_forms; f++)
            if (template_match(&bound->forms[f].name, name, strlen(name), &match))
                return arena_strndup(&finding->logical->arena, name, match.block_length);
    }
    return plan->recognition->groups[g].block;
}

/* Elements that do not fill whole bytes have no address: such groups are compared as they are stored. */
static bool is_addressable(const struct checkpoint *checkpoint, const struct group *group)
{
    for (unsigned f = 0; f < group->bound->n_forms; f++)
        for (uint32_t i = 0; i < group->n_members[f]; i++)
            if (dtype_bits(checkpoint->tensors[group->members[f][i]].info.dtype) % 8 != 0)
                return false;
    return true;
}

static int add_group(const struct finding *finding, uint32_t g, struct error *err)
{
    const struct plan *plan = finding->input->plan;
    const struct group *group = &plan->recognition->groups[g];
    const struct layout *to = layouts_find(plan->layouts, plan->groups[g].to);
    struct logical_group *result = &finding->logical->groups[finding->logical->n_groups];

    if (!to)
        return error_set(err, "%s: layout %s is not known", group->block, plan->groups[g].to);
    *result = (struct logical_group){.layouts = plan->layouts,
                                     .group = group,
                                     .title = plan->groups[g].block,
                                     .bound = {group->bound, layouts_bound(plan->layouts, group->rule, to)},
                                     .number = finding->logical->n_groups};
    result->block = exposed_block(finding, g, result->bound[1]);
    if (logical_add_forms(result, err) < 0)
        return -1;
    find_source_members(finding, result);
    for (unsigned s = 1; s < finding->input->n_sides; s++)
        find_exposed_members(finding, result, s);
    finding->logical->n_groups++;
    return 0;
}

static int find_groups(const struct finding *finding, struct error *err)
{
    const struct logical_input *input = finding->input;
    const struct recognition *recognition = input->plan->recognition;

    finding->logical->groups = xcalloc(recognition->n_groups, sizeof *finding->logical->groups);
    for (uint32_t g = 0; g < recognition->n_groups; g++) {
        const struct group *group = &recognition->groups[g];
        if (logical_takes(input->layers, group->block) && is_addressable(input->checkpoint, group) &&
            add_group(finding, g, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- tensors in no group ---- */

/* How the layouts that --from and --to name call these tensors. */
struct naming {
    struct renames *back, *there; /* or NULL */
};

static int open_naming(const struct logical_input *input, struct naming *naming, struct error *err)
{
    const struct layout *from = input->from ? layouts_find(input->plan->layouts, input->from) : NULL;
    const struct layout *to = input->to ? layouts_find(input->plan->layouts, input->to) : NULL;

    *naming = (struct naming){0};
    if (from == to)
        return 0;
    if (from && renames_compile_back(from, &naming->back, err) < 0)
        return -1;
    return to ? renames_compile(to, &naming->there, err) : 0;
}

static void add_ungrouped(const struct finding *finding, uint32_t t, const struct naming *naming)
{
    const struct logical_input *input = finding->input;
    struct logical *logical = finding->logical;
    const struct side_tensor *tensor = &input->sides[0].tensors[t];
    const char *name = tensor->info.name;

    if (input->plan->recognition->group_of[t] == NO_GROUP) {
        name = renames_apply(naming->back, name, &logical->arena);
        name = arena_strdup(&logical->arena, renames_apply(naming->there, name, &logical->arena));
    }
    const struct expected expected = {.name = name,
                                      .shape = tensor->info.shape,
                                      .n_dims = tensor->info.n_dims,
                                      .dtype = tensor->info.dtype,
                                      .order = DIFFERENCE_UNGROUPED,
                                      .sequence = t};
    for (unsigned s = 1; s < input->n_sides; s++)
        claim(finding, s, &expected);
    logical->ungrouped[logical->n_ungrouped++] = (struct ungrouped){tensor, name};
}

static int find_ungrouped(const struct finding *finding, struct error *err)
{
    const struct side *source = &finding->input->sides[0];
    struct naming naming;
    int result = open_naming(finding->input, &naming, err);

    finding->logical->ungrouped = xcalloc(source->n_tensors, sizeof *finding->logical->ungrouped);
    for (uint32_t t = 0; t < source->n_tensors && result == 0; t++)
        if (!source->tensors[t].claimed &&
            logical_takes(finding->input->layers, source->tensors[t].info.name))
            add_ungrouped(finding, t, &naming);
    renames_free(naming.back);
    renames_free(naming.there);
    return result;
}

static void find_unexpected(const struct finding *finding)
{
    for (unsigned s = 1; s < finding->input->n_sides; s++) {
        const struct side *side = &finding->input->sides[s];
        for (uint32_t t = 0; t < side->n_tensors; t++) {
            const struct side_tensor *tensor = &side->tensors[t];
            const struct difference place = report_place(DIFFERENCE_UNEXPECTED, t, "unexpected");
            if (!tensor->claimed && logical_takes(finding->input->layers, tensor->info.name))
                report_difference(finding->report, &place, tensor->info.name,
                                  "%s has it in %s, and nothing in the source becomes it", side->title,
                                  side_file_name(side, tensor->file));
        }
    }
}

int logical_find(const struct logical_input *input, struct logical *logical, struct report *report,
                 struct error *err)
{
    const struct finding finding = {input, logical, report};

    *logical = (struct logical){0};
    if (find_groups(&finding, err) < 0 || find_ungrouped(&finding, err) < 0)
        return -1;
    find_unexpected(&finding);
    return 0;
}

void logical_free(struct logical *logical)
{
    free(logical->groups);
    free(logical->ungrouped);
    arena_free(&logical->arena);
    *logical = (struct logical){0};
}
