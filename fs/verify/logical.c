/* Which logical tensors there are, and where each lies on every side: from the layouts' definitions, without
 * the plan's extents. */
#include "verify.h"

#include "layout/base/text.h"
#include "layout/rename.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <utstring.h>

/* ---- the element formula ---- */

uint64_t logical_element(const struct verify *verify, const struct group *group, const struct form *form,
                         const uint64_t coordinates[AXIS_WORDS_MAX])
{
    uint64_t at = 0;

    for (unsigned d = 0; d < form->axes.n_dims; d++)
        for (unsigned i = 0; i < form->axes.dims[d].n; i++) {
            const uint8_t axis = form->axes.dims[d].axis[i];
            at = at * axis_size(&verify->layouts->words, axis, group->sizes, form->n_projs) +
                 coordinates[axis];
        }
    return at;
}

static bool has_number(const struct form *form)
{
    return template_integer_hole(&form->name) >= 0;
}

void logical_locate(const struct verify *verify, const struct logical_group *group,
                    const struct logical_form *form, unsigned side, uint64_t expert,
                    struct logical_place *place)
{
    const unsigned which = side > 0;
    const unsigned f = form->at[which].form;
    const struct form *stored = &group->bound[which]->forms[f];
    uint64_t coordinates[AXIS_WORDS_MAX] = {0};

    place->tensor = group->members[side][f][has_number(stored) ? expert : 0];
    coordinates[AXIS_PROJ] = form->at[which].position;
    if (form->number_axis != AXIS_NONE)
        coordinates[form->number_axis] = expert;
    place->first = logical_element(verify, group->group, stored, coordinates);
    for (unsigned i = 0; i < form->n_axes; i++) {
        coordinates[form->axis[i]] = 1;
        place->stride[i] = logical_element(verify, group->group, stored, coordinates) - place->first;
        coordinates[form->axis[i]] = 0;
    }
}

/* ---- names ---- */

char *logical_name(const struct verify *verify, const struct logical_group *group,
                   const struct logical_form *form, uint64_t expert)
{
    static const char ending[] = ".weight";
    struct arena arena = {0};

    (void)verify;
    const char *name = template_name(form->name, group->group->block, group->group->word, group->group->sizes,
                                     expert, &arena);
    size_t length = strlen(name);
    if (form->part_name && length > strlen(ending) && strcmp(name + length - strlen(ending), ending) == 0)
        length -= strlen(ending);
    char *result = form->part_name ? xasprintf("%.*s.%s", (int)length, name, form->part_name) : xstrdup(name);
    arena_free(&arena);
    return result;
}

bool verify_takes(const struct verify *verify, const char *name)
{
    const char *list = verify->options->layers;
    uint64_t layer = UINT64_MAX;

    if (!list)
        return true;
    for (const char *at = name; *at && layer == UINT64_MAX; at += strcspn(at, "."), at += *at == '.') {
        const size_t digits = strspn(at, "0123456789");
        if (digits > 0 && digits < 10 && (at[digits] == '.' || !at[digits]))
            layer = strtoul(at, NULL, 10);
    }
    for (const char *at = list; layer != UINT64_MAX && *at;) {
        char *end;
        const unsigned long first = strtoul(at, &end, 10),
                            last = *end == '-' ? strtoul(end + 1, &end, 10) : first;
        if (layer >= first && layer <= last)
            return true;
        at = end + (*end == ',');
    }
    return false;
}

/* ---- forms ---- */

/* The axes of the form that are a logical tensor's: all but the projection and the expert's number. */
static uint8_t matrix_axes(const struct form *form, uint8_t number_axis, uint8_t axis[AXES_DIMS_MAX])
{
    uint8_t n = 0;

    for (unsigned d = 0; d < form->axes.n_dims; d++)
        for (unsigned i = 0; i < form->axes.dims[d].n; i++) {
            const uint8_t a = form->axes.dims[d].axis[i];
            if (a != AXIS_PROJ && a != number_axis && n < AXES_DIMS_MAX)
                axis[n++] = a;
        }
    return n;
}

static bool same_axes(const uint8_t *a, uint8_t n_a, const uint8_t *b, uint8_t n_b)
{
    unsigned found = 0;

    for (unsigned i = 0; i < n_a; i++)
        for (unsigned k = 0; k < n_b; k++)
            found += a[i] == b[k];
    return n_a == n_b && found == n_a;
}

/* Per-expert's own order of axes where it has this part, cut alike; else the order in which it is stored. */
static void set_axes(const struct verify *verify, const struct logical_group *group,
                     const struct bound_layout *per_expert, struct logical_form *form)
{
    const struct form *stored = &group->bound[0]->forms[form->at[0].form];
    uint8_t axis[AXES_DIMS_MAX], position;

    form->n_axes = matrix_axes(stored, form->number_axis, form->axis);
    unsigned f = bound_find_form(per_expert, form->part, form->proj, &position);
    uint8_t n = f < FORMS_MAX ? matrix_axes(&per_expert->forms[f], form->number_axis, axis) : 0;
    if (f < FORMS_MAX && same_axes(axis, n, form->axis, form->n_axes)) {
        memcpy(form->axis, axis, n);
        form->name = &per_expert->forms[f].name;
        form->part_name = NULL;
    }
    form->elements = 1;
    for (unsigned i = 0; i < form->n_axes; i++) {
        form->n[i] = axis_size(&verify->layouts->words, form->axis[i], group->group->sizes, 1);
        form->elements *= form->n[i];
    }
}

static int add_form(const struct verify *verify, struct logical_group *group,
                    const struct bound_layout *per_expert, unsigned part, unsigned proj)
{
    struct logical_form *form = &group->forms[group->n_forms];
    uint8_t position;

    *form = (struct logical_form){
        .part = (uint8_t)part, .proj = (uint8_t)proj, .number_axis = AXIS_NONE, .count = 1};
    const unsigned from = bound_find_form(group->bound[0], (uint8_t)part, proj, &form->at[0].position);
    if (from == FORMS_MAX || group->group->n_members[from] == 0)
        return 0;
    const unsigned to = bound_find_form(group->bound[1], (uint8_t)part, proj, &form->at[1].position);
    const unsigned main_form = bound_find_form(per_expert, 0, proj, &position);
    if (to == FORMS_MAX || main_form == FORMS_MAX)
        return -1;
    form->at[0].form = (uint8_t)from;
    form->at[1].form = (uint8_t)to;
    form->name = &per_expert->forms[main_form].name;
    form->part_name = verify->layouts->parts[part];
    const int hole = template_integer_hole(form->name);
    if (hole >= 0) {
        form->number_axis = form->name->holes[hole].axis;
        form->count = group->group->sizes[form->number_axis];
    }
    set_axes(verify, group, per_expert, form);
    if (form->count > group->count)
        group->count = form->count;
    group->n_forms++;
    return 0;
}

/* ---- members ---- */

static bool same_shape(const struct tensor_info *info, const uint64_t *shape, unsigned n_dims)
{
    return info->n_dims == n_dims && memcmp(info->shape, shape, n_dims * sizeof *shape) == 0;
}

/* The tensor of that name, claimed, when it is what it should be; NULL, reported, otherwise. */
static const struct side_tensor *claim(struct verify *verify, unsigned s, const char *name,
                                       const uint64_t *shape, unsigned n_dims, enum dtype dtype,
                                       uint64_t order)
{
    struct side *side = &verify->sides[s];
    struct side_tensor *tensor = side_find(side, name);
    struct difference place = report_place(order, "shape");

    if (!tensor) {
        place = report_place(order, "missing");
        report_difference(&verify->report, &place, name, "%s has no such tensor", side->title);
        return NULL;
    }
    tensor->claimed = true;
    if (same_shape(&tensor->info, shape, n_dims) && tensor->info.dtype == dtype)
        return tensor;
    cleanup_free char *got = text_of_shape(tensor->info.shape, tensor->info.n_dims);
    cleanup_free char *want = text_of_shape(shape, n_dims);
    report_difference(&verify->report, &place, name, "%s has it as %s %s in %s, not as %s %s", side->title,
                      dtype_name(tensor->info.dtype), got, side_file_name(side, tensor->file),
                      dtype_name(dtype), want);
    return NULL;
}

static void find_source_members(struct verify *verify, struct logical_group *group)
{
    for (unsigned f = 0; f < group->bound[0]->n_forms; f++) {
        const uint32_t n = group->group->n_members[f];
        group->members[0][f] = arena_alloc(&verify->arena, (n + 1) * sizeof *group->members[0][f]);
        for (uint32_t i = 0; i < n; i++) {
            struct side_tensor *tensor = &verify->sides[0].tensors[group->group->members[f][i]];
            tensor->claimed = true;
            group->members[0][f][i] = tensor;
        }
    }
}

/* Whether the group has anything of the form's part and projections. */
static const struct logical_form *form_at(const struct logical_group *group, unsigned f)
{
    for (unsigned i = 0; i < group->n_forms; i++)
        if (group->forms[i].at[1].form == f)
            return &group->forms[i];
    return NULL;
}

static void find_exposed_members(struct verify *verify, struct logical_group *group, unsigned s)
{
    for (unsigned f = 0; f < group->bound[1]->n_forms; f++) {
        const struct form *form = &group->bound[1]->forms[f];
        const struct logical_form *logical = form_at(group, f);
        const int hole = template_integer_hole(&form->name);
        const uint64_t n = hole >= 0 ? group->group->sizes[form->name.holes[hole].axis] : 1;
        uint64_t shape[AXES_DIMS_MAX];
        if (!logical)
            continue;
        const enum dtype dtype = group->members[0][logical->at[0].form][0]->info.dtype;
        /* it is the plan's, too, which has checked the product */
        if (!axes_shape(&form->axes, &verify->layouts->words, group->group->sizes, form->n_projs, shape))
            continue;
        group->members[s][f] = arena_alloc(&verify->arena, n * sizeof *group->members[s][f]);
        for (uint64_t v = 0; v < n; v++) {
            const char *name = template_name(&form->name, group->block, group->group->word,
                                             group->group->sizes, v, &verify->arena);
            group->members[s][f][v] = claim(verify, s, name, shape, form->axes.n_dims, dtype, group->order);
        }
    }
}

/* ---- groups ---- */

/* What the exposed side calls the group's block: from the planned names, which begin with it. */
static const char *exposed_block(struct verify *verify, uint32_t g, const struct bound_layout *bound)
{
    for (uint32_t t = 0; t < verify->plan->n_tensors; t++) {
        const struct planned_tensor *tensor = &verify->plan->tensors[t];
        struct name_match match;
        if (tensor->group != g)
            continue;
        for (unsigned f = 0; f < bound->n_forms; f++)
            if (template_match(&bound->forms[f].name, tensor->info.name, strlen(tensor->info.name), &match))
                return arena_strndup(&verify->arena, tensor->info.name, match.block_length);
    }
    return verify->plan->recognition->groups[g].block;
}

/* Elements that do not fill whole bytes have no address: such groups are compared as they are stored. */
static bool is_addressable(const struct verify *verify, const struct group *group)
{
    for (unsigned f = 0; f < group->bound->n_forms; f++)
        for (uint32_t i = 0; i < group->n_members[f]; i++)
            if (dtype_bits(verify->checkpoint->tensors[group->members[f][i]].info.dtype) % 8 != 0)
                return false;
    return true;
}

static int add_group(struct verify *verify, uint32_t g, struct error *err)
{
    const struct group *group = &verify->plan->recognition->groups[g];
    const struct bound_layout *per_expert =
        layouts_bound(verify->layouts, group->rule, layouts_find(verify->layouts, "per-expert"));
    const struct layout *to = layouts_find(verify->layouts, verify->plan->groups[g].to);
    struct logical_group *result = &verify->groups[verify->n_groups];

    if (!to)
        return error_set(err, "%s: layout %s is not known", group->block, verify->plan->groups[g].to);
    *result = (struct logical_group){.group = group,
                                     .title = verify->plan->groups[g].block,
                                     .bound = {group->bound, layouts_bound(verify->layouts, group->rule, to)},
                                     .order = (uint64_t)(verify->n_groups + 1) << 32};
    result->block = exposed_block(verify, g, result->bound[1]);
    for (unsigned part = 0; part < verify->layouts->n_parts; part++)
        for (unsigned proj = 0; proj < PROJ_COUNT; proj++)
            if (add_form(verify, result, per_expert, part, proj) != 0)
                return error_set(err, "%s: its %s have no per-expert form", result->title,
                                 verify->layouts->parts[part]);
    find_source_members(verify, result);
    for (unsigned s = 1; s < verify->n_sides; s++)
        find_exposed_members(verify, result, s);
    verify->n_groups++;
    return 0;
}

static int find_groups(struct verify *verify, struct error *err)
{
    verify->groups = xcalloc(verify->plan->recognition->n_groups, sizeof *verify->groups);
    for (uint32_t g = 0; g < verify->plan->recognition->n_groups; g++) {
        const struct group *group = &verify->plan->recognition->groups[g];
        if (verify_takes(verify, group->block) && is_addressable(verify, group) &&
            add_group(verify, g, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- other tensors ---- */

static int find_others(struct verify *verify, struct error *err)
{
    const char *to = verify->plan_options->to;
    const struct layout *layout = to ? layouts_find(verify->layouts, to) : NULL;
    struct renames *renames = NULL;

    if (layout && renames_compile(layout, &renames, err) < 0)
        return -1;
    verify->others = xcalloc(verify->sides[0].n_tensors, sizeof *verify->others);
    verify->other_names = xcalloc(verify->sides[0].n_tensors, sizeof *verify->other_names);
    for (uint32_t t = 0; t < verify->sides[0].n_tensors; t++) {
        const struct side_tensor *tensor = &verify->sides[0].tensors[t];
        const char *name = tensor->info.name;
        if (tensor->claimed || !verify_takes(verify, name))
            continue;
        if (verify->plan->recognition->group_of[t] == NO_GROUP)
            name = renames_apply(renames, name, &verify->arena);
        for (unsigned s = 1; s < verify->n_sides; s++)
            claim(verify, s, name, tensor->info.shape, tensor->info.n_dims, tensor->info.dtype,
                  (UINT64_C(1) << 62) + t);
        verify->others[verify->n_others] = tensor;
        verify->other_names[verify->n_others++] = arena_strdup(&verify->arena, name);
    }
    renames_free(renames);
    return 0;
}

static void find_strangers(struct verify *verify)
{
    for (unsigned s = 1; s < verify->n_sides; s++)
        for (uint32_t t = 0; t < verify->sides[s].n_tensors; t++) {
            const struct side_tensor *tensor = &verify->sides[s].tensors[t];
            const struct difference place = report_place((UINT64_C(2) << 62) + t, "unexpected");
            if (!tensor->claimed && verify_takes(verify, tensor->info.name))
                report_difference(&verify->report, &place, tensor->info.name,
                                  "%s has it in %s, and nothing in the source becomes it",
                                  verify->sides[s].title, side_file_name(&verify->sides[s], tensor->file));
        }
}

/* ---- digests' places and names ---- */

/* The same in every layout, as the name is: of an expert's tensor, the shape that per-expert gives it. */
static char *type_text(enum dtype dtype, const uint64_t *shape, unsigned n_dims)
{
    UT_string text;

    utstring_init(&text);
    utstring_printf(&text, "%s[", dtype_name(dtype));
    for (unsigned d = 0; d < n_dims; d++)
        utstring_printf(&text, "%s%" PRIu64, d ? "," : "", shape[d]);
    utstring_printf(&text, "]");
    return utstring_body(&text);
}

static void number_digests(struct verify *verify)
{
    uint64_t n = 0;

    for (uint32_t g = 0; g < verify->n_groups; g++)
        for (unsigned f = 0; f < verify->groups[g].n_forms; f++) {
            verify->groups[g].forms[f].first_digest = n;
            n += verify->groups[g].forms[f].count;
        }
    verify->n_digests = n + verify->n_others;
    verify->digests = xcalloc(verify->n_digests, sizeof *verify->digests);
    for (uint32_t g = 0; g < verify->n_groups; g++)
        for (unsigned f = 0; f < verify->groups[g].n_forms; f++) {
            const struct logical_form *form = &verify->groups[g].forms[f];
            for (uint64_t e = 0; e < form->count; e++) {
                struct digest *digest = &verify->digests[form->first_digest + e];
                struct logical_place place;
                digest->name = logical_name(verify, &verify->groups[g], form, e);
                logical_locate(verify, &verify->groups[g], form, 0, e, &place);
                digest->type = type_text(place.tensor->info.dtype, form->n, form->n_axes);
            }
        }
    for (uint32_t t = 0; t < verify->n_others; t++) {
        const struct tensor_info *info = &verify->others[t]->info;
        verify->digests[n + t].name = xstrdup(info->name);
        verify->digests[n + t].type = type_text(info->dtype, info->shape, info->n_dims);
    }
}

int verify_find(struct verify *verify, struct error *err)
{
    if (find_groups(verify, err) < 0 || find_others(verify, err) < 0)
        return -1;
    find_strangers(verify);
    number_digests(verify);
    return 0;
}
