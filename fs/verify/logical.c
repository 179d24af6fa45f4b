/* Which logical tensors a group has, what they are called, and where each lies. */
#include "logical.h"

#include <string.h>

/* ---- the element formula ---- */

/* The number of the element with these coordinates in a tensor of the form: the layout's definition. */
static uint64_t element_number(const struct logical_group *group, const struct form *form,
                               const uint64_t coordinates[AXIS_WORDS_MAX])
{
    uint64_t at = 0;

    for (unsigned d = 0; d < form->axes.n_dims; d++)
        for (unsigned i = 0; i < form->axes.dims[d].n; i++) {
            const uint8_t axis = form->axes.dims[d].axis[i];
            at = at * axis_size(&group->layouts->words, axis, group->group->sizes, form->n_projs) +
                 coordinates[axis];
        }
    return at;
}

static bool has_number(const struct form *form)
{
    return template_integer_hole(&form->name) >= 0;
}

void logical_locate(const struct logical_group *group, const struct logical_form *form, unsigned side,
                    uint64_t expert, struct logical_place *place)
{
    const unsigned which = side > 0;
    const unsigned f = form->at[which].form;
    const struct form *stored = &group->bound[which]->forms[f];
    uint64_t coordinates[AXIS_WORDS_MAX] = {0};

    place->tensor = group->members[side][f][has_number(stored) ? expert : 0];
    coordinates[AXIS_PROJ] = form->at[which].position;
    if (form->number_axis != AXIS_NONE)
        coordinates[form->number_axis] = expert;
    place->first = element_number(group, stored, coordinates);
    for (unsigned i = 0; i < form->n_axes; i++) {
        coordinates[form->axis[i]] = 1;
        place->stride[i] = element_number(group, stored, coordinates) - place->first;
        coordinates[form->axis[i]] = 0;
    }
}

/* ---- names ---- */

char *logical_name(const struct logical_group *group, const struct logical_form *form, uint64_t expert)
{
    static const char ending[] = ".weight";
    struct arena arena = {0};

    const char *name = template_name(form->name, group->group->block, group->group->word, group->group->sizes,
                                     expert, &arena);
    size_t length = strlen(name);
    if (form->part_name && length > strlen(ending) && strcmp(name + length - strlen(ending), ending) == 0)
        length -= strlen(ending);
    char *result = form->part_name ? xasprintf("%.*s.%s", (int)length, name, form->part_name) : xstrdup(name);
    arena_free(&arena);
    return result;
}

bool logical_takes(const char *layers, const char *name)
{
    uint64_t layer = UINT64_MAX;

    if (!layers)
        return true;
    for (const char *at = name; *at && layer == UINT64_MAX; at += strcspn(at, "."), at += *at == '.') {
        const size_t digits = strspn(at, "0123456789");
        if (digits > 0 && digits < 10 && (at[digits] == '.' || !at[digits]))
            layer = strtoul(at, NULL, 10);
    }
    for (const char *at = layers; layer != UINT64_MAX && *at;) {
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
static void set_axes(const struct logical_group *group, const struct bound_layout *per_expert,
                     struct logical_form *form)
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
        form->n[i] = axis_size(&group->layouts->words, form->axis[i], group->group->sizes, 1);
        form->elements *= form->n[i];
    }
}

static int add_form(struct logical_group *group, const struct bound_layout *per_expert, unsigned part,
                    unsigned proj)
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
    form->part_name = group->layouts->parts[part];
    const int hole = template_integer_hole(form->name);
    if (hole >= 0) {
        form->number_axis = form->name->holes[hole].axis;
        form->count = group->group->sizes[form->number_axis];
    }
    set_axes(group, per_expert, form);
    if (form->count > group->count)
        group->count = form->count;
    group->n_forms++;
    return 0;
}

int logical_add_forms(struct logical_group *group, struct error *err)
{
    const struct layouts *layouts = group->layouts;
    const struct bound_layout *per_expert =
        layouts_bound(layouts, group->group->rule, layouts_find(layouts, "per-expert"));

    for (unsigned part = 0; part < layouts->n_parts; part++)
        for (unsigned proj = 0; proj < PROJ_COUNT; proj++)
            if (add_form(group, per_expert, part, proj) < 0)
                return error_set(err, "%s: its %s have no per-expert form", group->title,
                                 layouts->parts[part]);
    return 0;
}
