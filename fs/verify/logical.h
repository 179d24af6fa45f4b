/* Logical tensors: one part of one projection of one expert, as the per-expert layout has it. Each lies
 * somewhere on every side; where follows from the layouts' definitions alone, not from the plan's extents. */
#ifndef MOEFS_FS_VERIFY_LOGICAL_H
#define MOEFS_FS_VERIFY_LOGICAL_H

#include "report.h"
#include "sides.h"

#include "layout/recognise.h"

/* One part of one projection, of all experts of a group. */
struct logical_form {
    uint8_t part, proj;
    uint8_t n_axes, axis[AXES_DIMS_MAX]; /* as per-expert has them */
    uint64_t n[AXES_DIMS_MAX];
    uint64_t elements;
    uint8_t number_axis; /* the axis of the expert's number, or AXIS_NONE */
    uint64_t count;      /* of experts */
    const struct name_template *name;
    const char *part_name; /* in place of ".weight" at the name's end; NULL: as it is */
    struct {
        uint8_t form; /* in bound->forms */
        uint8_t position;
    } at[2]; /* in the source's layout and in the exposed one */
    uint64_t first_digest;
};

#define LOGICAL_FORMS_MAX (FORMS_MAX * PROJ_COUNT)

struct logical_group {
    const struct layouts *layouts;
    const struct group *group;
    const char *title; /* "model.layers.0.mlp" */
    const char *block; /* as the exposed side calls it */
    const struct bound_layout *bound[2];
    const struct side_tensor **members[SIDES_MAX][FORMS_MAX]; /* by the integer in the name; NULL: missing */
    struct logical_form forms[LOGICAL_FORMS_MAX];
    uint8_t n_forms;
    uint64_t count;  /* the largest of the forms' */
    uint64_t number; /* among the groups: its differences begin at number << 32 */
};

/* A source's tensor in no group: it is a logical tensor by itself. */
struct ungrouped {
    const struct side_tensor *tensor;
    const char *name; /* on the exposed sides */
};

struct logical {
    struct arena arena;
    struct logical_group *groups;
    uint32_t n_groups;
    struct ungrouped *ungrouped;
    uint32_t n_ungrouped;
};

struct logical_input {
    const struct checkpoint *checkpoint;
    const struct plan *plan;
    const char *from, *to; /* what the plan was made with */
    struct side *sides;    /* sides[0]: the source. Tensors that are found are marked as claimed */
    unsigned n_sides;
    const char *layers; /* takes only these, or NULL */
};

/* Finds the groups and the tensors in none, and what each side has in their place; reports what is missing,
 * what has another dtype or shape, and what comes from nothing in the source. logical_free() in any case. */
int logical_find(const struct logical_input *input, struct logical *logical, struct report *report,
                 struct error *err);
void logical_free(struct logical *logical);

/* Whether a list of layers ("0,3-5"; NULL: all) has the first number in the name. */
bool logical_takes(const char *layers, const char *name);

/* Where a logical tensor lies: element (i, j, ...) is number first + i * stride[0] + ... of the tensor. */
struct logical_place {
    const struct side_tensor *tensor; /* NULL: it is missing */
    uint64_t first;
    uint64_t stride[AXES_DIMS_MAX];
};

void logical_locate(const struct logical_group *group, const struct logical_form *form, unsigned side,
                    uint64_t expert, struct logical_place *place);
/* The name of the form's logical tensor of one expert; malloc'd. */
char *logical_name(const struct logical_group *group, const struct logical_form *form, uint64_t expert);

/* A part of logical_find(): sets the group's forms from its group and layouts. */
int logical_add_forms(struct logical_group *group, struct error *err);

#endif
