/* The compile step: copies and gathers that make one group's tensors in the target layout. */
#include "compile.h"
#include "layout/base/checked.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const UT_icd tensor_icd = {sizeof(struct planned_tensor), NULL, NULL, NULL};
static const UT_icd extent_icd = {sizeof(struct extent), NULL, NULL, NULL};
static const UT_icd gather_icd = {sizeof(struct gather), NULL, NULL, NULL};
static const UT_icd box_icd = {sizeof(struct gather_box), NULL, NULL, NULL};

void compile_output_init(struct compile_output *output, struct arena *arena)
{
    output->arena = arena;
    utarray_new(output->tensors, &tensor_icd);
    utarray_new(output->extents, &extent_icd);
    utarray_new(output->gathers, &gather_icd);
    utarray_new(output->boxes, &box_icd);
}

void compile_output_free(struct compile_output *output)
{
    utarray_free(output->tensors);
    utarray_free(output->extents);
    utarray_free(output->gathers);
    utarray_free(output->boxes);
}

/* One conversion: a form of the target, and what the group is stored as. */
struct conversion {
    const struct layouts *layouts;
    const struct checkpoint *checkpoint;
    const struct group *group;
    const struct compile_target *target;
    const struct form *form; /* of the target */
    const char *title;       /* the group's, for messages */
    uint64_t element_size;
    uint64_t target_stride[AXIS_WORDS_MAX];
    /* The axis along which the target is cut into slabs (AXIS_NONE: one slab), and its size. */
    uint8_t slab_axis;
    uint64_t n_slabs;
    UT_array *boxes; /* struct gather_box of the slab at hand */
};

/* The stored form that holds this projection, and the projection's position in it; FORMS_MAX where the
 * checkpoint has none. */
static unsigned find_source_form(const struct conversion *c, enum proj proj, uint8_t *position)
{
    unsigned f = bound_find_form(c->group->bound, c->form->part, proj, position);

    return f != FORMS_MAX && c->group->n_members[f] > 0 ? f : FORMS_MAX;
}

/* The axis of the integer in the form's names, or AXIS_NONE. */
static uint8_t name_axis(const struct form *form)
{
    int hole = template_integer_hole(&form->name);

    return hole >= 0 ? form->name.holes[hole].axis : AXIS_NONE;
}

static int dim_compare(const void *a, const void *b)
{
    const struct gather_dim *x = a, *y = b;

    return (x->target < y->target) - (x->target > y->target);
}

/* Sorts by target stride, descending, and fuses neighbours that are one run on both sides. */
static int box_finish(struct gather_box *box, struct gather_dim *dims, unsigned n, const char *name,
                      struct error *err)
{
    unsigned kept = 0;

    qsort(dims, n, sizeof *dims, dim_compare);
    for (unsigned i = 0; i < n; i++) {
        struct gather_dim *outer = kept > 0 ? &dims[kept - 1] : NULL;
        if (outer && outer->target == dims[i].n * dims[i].target &&
            outer->source == dims[i].n * dims[i].source) {
            outer->n *= dims[i].n;
            outer->target = dims[i].target;
            outer->source = dims[i].source;
        } else {
            dims[kept++] = dims[i];
        }
    }
    if (kept > GATHER_DIMS_MAX)
        return error_set(err, "%s: its elements move along %u independent axes; at most %d are supported",
                         name, kept, GATHER_DIMS_MAX);
    box->n_dims = kept;
    memcpy(box->dims, dims, kept * sizeof *dims);
    return 0;
}

/* Adds the box that brings one projection of one stored tensor into the slab.
 * values[a]: the integer of axis a that is fixed here (by a name or by the slab), for axes in `fixed`. */
static int add_box(struct conversion *c, enum proj proj, unsigned position, const bool fixed[AXIS_WORDS_MAX],
                   const uint64_t values[AXIS_WORDS_MAX], const char *name, struct error *err)
{
    const struct group *group = c->group;
    uint8_t source_position = 0;
    unsigned f = find_source_form(c, proj, &source_position);
    const struct form *form = &group->bound->forms[f];
    uint8_t axis = name_axis(form);
    uint32_t member = group->members[f][axis != AXIS_NONE ? values[axis] : 0];
    const struct tensor *tensor = &c->checkpoint->tensors[member];
    uint64_t source_stride[AXIS_WORDS_MAX];
    struct gather_dim dims[AXIS_WORDS_MAX];
    unsigned n = 0;
    uint64_t source = 0, target = position * c->target_stride[AXIS_PROJ];

    axes_strides(&form->axes, &c->layouts->words, group->sizes, form->n_projs, source_stride);
    source += source_position * source_stride[AXIS_PROJ];
    for (uint8_t a = 1; a < c->layouts->words.n; a++) {
        if (fixed[a]) {
            source += values[a] * source_stride[a];
            if (a != c->slab_axis) /* a slab counts its targets from its own beginning */
                target += values[a] * c->target_stride[a];
        } else if (c->target_stride[a] > 0) {
            uint64_t size = axis_size(&c->layouts->words, a, group->sizes, form->n_projs);
            if (size > 1)
                dims[n++] = (struct gather_dim){size, c->target_stride[a], source_stride[a]};
        }
    }
    struct gather_box box = {.shard = tensor->shard,
                             .source = tensor->offset + source * c->element_size,
                             .target = target * c->element_size};
    if (box_finish(&box, dims, n, name, err) < 0)
        return -1;
    utarray_push_back(c->boxes, &box);
    return 0;
}

/* Adds the boxes of one projection: one for each stored tensor that holds a piece of the slab's. */
static int add_projection(struct conversion *c, unsigned position, const bool fixed[AXIS_WORDS_MAX],
                          const uint64_t values[AXIS_WORDS_MAX], const char *name, struct error *err)
{
    enum proj proj = c->form->projs[position];
    uint8_t unused;
    unsigned f = find_source_form(c, proj, &unused);
    bool all_fixed[AXIS_WORDS_MAX];
    uint64_t all_values[AXIS_WORDS_MAX];

    assert(f != FORMS_MAX); /* check_axes() has found it */
    uint8_t axis = name_axis(&c->group->bound->forms[f]);
    memcpy(all_fixed, fixed, sizeof all_fixed);
    memcpy(all_values, values, sizeof all_values);
    if (axis == AXIS_NONE || fixed[axis])
        return add_box(c, proj, position, all_fixed, all_values, name, err);
    all_fixed[axis] = true;
    for (uint64_t v = 0; v < c->group->sizes[axis]; v++) {
        all_values[axis] = v;
        if (add_box(c, proj, position, all_fixed, all_values, name, err) < 0)
            return -1;
    }
    return 0;
}

static bool box_is_run(const struct gather_box *box)
{
    return box->n_dims == 0 || (box->n_dims == 1 && box->dims[0].target == 1 && box->dims[0].source == 1);
}

static uint64_t box_elements(const struct gather_box *box)
{
    uint64_t n = 1;

    for (unsigned d = 0; d < box->n_dims; d++)
        n *= box->dims[d].n;
    return n;
}

static int box_compare(const void *a, const void *b)
{
    const struct gather_box *x = a, *y = b;

    return (x->target > y->target) - (x->target < y->target);
}

static void add_copy(struct compile_output *output, uint32_t first_extent, const struct extent *copy)
{
    struct extent *last = (struct extent *)utarray_back(output->extents);

    if (utarray_len(output->extents) > first_extent && last->gather == PLAN_NO_GATHER &&
        last->shard == copy->shard && last->source + last->length == copy->source)
        last->length += copy->length;
    else
        utarray_push_back(output->extents, copy);
}

/* Elements from the first to the last that the dimensions reach in the target, both included. */
static uint64_t target_span(const struct gather_dim *dims, uint32_t n)
{
    uint64_t span = 1;

    for (uint32_t i = 0; i < n; i++)
        span += (dims[i].n - 1) * dims[i].target;
    return span;
}

uint64_t compile_gather_row(const struct gather_box *boxes, uint32_t n, unsigned element_size)
{
    uint64_t outermost = 1;

    for (uint32_t i = 0; i < n; i++)
        if (boxes[i].n_dims > 0)
            outermost = max_u64(outermost, boxes[i].dims[0].target);
    const uint64_t row = outermost * element_size;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t outer = boxes[i].n_dims > 0 && boxes[i].dims[0].target == outermost;
        const uint64_t span = target_span(boxes[i].dims + outer, boxes[i].n_dims - outer) * element_size;
        if (boxes[i].target % row + span > row)
            return 0;
    }
    return row;
}

/* The slab's boxes as extents: runs as copies, anything else as one gather. */
static void add_slab(struct conversion *c, uint64_t begin, uint64_t length, uint32_t first_extent,
                     struct compile_output *output)
{
    bool runs = true;

    utarray_sort(c->boxes, box_compare);
    struct gather_box *boxes = (struct gather_box *)utarray_front(c->boxes);
    uint32_t n = utarray_len(c->boxes);
    for (uint32_t i = 0; i < n; i++)
        runs &= box_is_run(&boxes[i]);
    if (runs) {
        for (uint32_t i = 0; i < n; i++) {
            struct extent copy = {.begin = begin + boxes[i].target,
                                  .length = box_elements(&boxes[i]) * c->element_size,
                                  .source = boxes[i].source,
                                  .shard = boxes[i].shard,
                                  .gather = PLAN_NO_GATHER};
            add_copy(output, first_extent, &copy);
        }
        return;
    }
    struct extent extent = {
        .begin = begin, .length = length, .shard = boxes[0].shard, .gather = utarray_len(output->gathers)};
    struct gather gather = {.length = length,
                            .first_box = utarray_len(output->boxes),
                            .n_boxes = n,
                            .element_size = (uint32_t)c->element_size,
                            .row = compile_gather_row(boxes, n, (unsigned)c->element_size)};
    for (uint32_t i = 0; i < n; i++)
        utarray_push_back(output->boxes, &boxes[i]);
    utarray_push_back(output->extents, &extent);
    utarray_push_back(output->gathers, &gather);
}

/* The outermost axis of the target, if some layout keeps it in the name (the expert): the tensor is then
 * described slab by slab along it. */
static void choose_slabs(struct conversion *c)
{
    const struct axes *axes = &c->form->axes;

    c->slab_axis = AXIS_NONE;
    c->n_slabs = 1;
    if (axes->n_dims == 0 || !c->layouts->enumerated[axes->dims[0].axis[0]])
        return;
    c->slab_axis = axes->dims[0].axis[0];
    c->n_slabs = c->group->sizes[c->slab_axis];
}

/* One target tensor; value: the integer in its name. */
static int compile_tensor(struct conversion *c, uint64_t value, const struct planned_tensor *pattern,
                          struct compile_output *output, struct error *err)
{
    struct planned_tensor tensor = *pattern;
    bool fixed[AXIS_WORDS_MAX] = {false};
    uint64_t values[AXIS_WORDS_MAX] = {0};
    uint64_t slab_length = tensor.length / c->n_slabs;
    uint8_t axis = name_axis(c->form);

    tensor.info.name = template_name(&c->form->name, c->target->block, c->group->word, c->group->sizes, value,
                                     output->arena);
    tensor.first_extent = utarray_len(output->extents);
    if (axis != AXIS_NONE) {
        fixed[axis] = true;
        values[axis] = value;
    }
    if (c->slab_axis != AXIS_NONE)
        fixed[c->slab_axis] = true;
    for (uint64_t slab = 0; slab < c->n_slabs; slab++) {
        utarray_clear(c->boxes);
        if (c->slab_axis != AXIS_NONE)
            values[c->slab_axis] = slab;
        for (unsigned p = 0; p < c->form->n_projs; p++)
            if (add_projection(c, p, fixed, values, tensor.info.name, err) < 0)
                return -1;
        add_slab(c, slab * slab_length, slab_length, tensor.first_extent, output);
    }
    tensor.n_extents = utarray_len(output->extents) - tensor.first_extent;
    utarray_push_back(output->tensors, &tensor);
    return 0;
}

/* All stored tensors of one part must have one dtype; it is the target's. */
static int check_dtype(const struct conversion *c, uint8_t *dtype, struct error *err)
{
    const struct checkpoint *checkpoint = c->checkpoint;
    const struct tensor *first = NULL;

    for (unsigned f = 0; f < c->group->bound->n_forms; f++) {
        if (c->group->bound->forms[f].part != c->form->part)
            continue;
        for (uint32_t i = 0; i < c->group->n_members[f]; i++) {
            const struct tensor *tensor = &checkpoint->tensors[c->group->members[f][i]];
            if (!first)
                first = tensor;
            if (tensor->info.dtype != first->info.dtype)
                return error_set(err, "%s: mixed dtypes: %s in %s is %s, but %s in %s is %s", c->title,
                                 first->info.name, checkpoint->shards[first->shard].name,
                                 dtype_name(first->info.dtype), tensor->info.name,
                                 checkpoint->shards[tensor->shard].name, dtype_name(tensor->info.dtype));
        }
    }
    assert(first); /* compile_group() comes here only with parts that the group has */
    *dtype = first->info.dtype;
    if (dtype_bits(*dtype) % 8 != 0)
        return error_set(err, "%s: %s is %s, whose elements do not fill whole bytes", c->title,
                         first->info.name, dtype_name(*dtype));
    return 0;
}

/* A scale for 128 elements of gate and up one behind the other is only right where each has whole blocks of
 * 128. */
static int check_grains(const struct conversion *c, struct error *err)
{
    const struct axis_words *words = &c->layouts->words;

    for (unsigned d = 0; d < c->form->axes.n_dims; d++)
        for (unsigned i = 0; i < c->form->axes.dims[d].n && c->form->axes.dims[d].n > 1; i++) {
            uint8_t axis = c->form->axes.dims[d].axis[i], base = words->base[axis];
            if (base != AXIS_NONE && c->group->sizes[base] % words->number[axis] != 0)
                return error_set(err,
                                 "%s: %s is %llu, no multiple of %llu: the blocks of its %s cannot be merged",
                                 c->title, words->words[base], (unsigned long long)c->group->sizes[base],
                                 (unsigned long long)words->number[axis], c->layouts->parts[c->form->part]);
        }
    return 0;
}

/* Both sides must place the same coordinates: in a shape or in a name. */
static int check_axes(const struct conversion *c, struct error *err)
{
    const struct axis_words *words = &c->layouts->words;
    uint8_t position;

    for (unsigned p = 0; p < c->form->n_projs; p++) {
        unsigned f = find_source_form(c, c->form->projs[p], &position);
        assert(f !=
               FORMS_MAX); /* a part has each projection of the architecture, and a group all of a part */
        const struct form *source = &c->group->bound->forms[f];
        for (uint8_t a = 1; a < words->n; a++) {
            bool stored = axes_contain(&source->axes, a) || name_axis(source) == a;
            bool wanted = axes_contain(&c->form->axes, a) || name_axis(c->form) == a;
            if (stored != wanted)
                return error_set(err, "%s: layout %s %s the axis '%s' of its %s, layout %s does not",
                                 c->title,
                                 stored ? c->group->bound->layout->name : c->target->bound->layout->name,
                                 "has", words->words[a], c->layouts->parts[c->form->part],
                                 stored ? c->target->bound->layout->name : c->group->bound->layout->name);
        }
    }
    return check_grains(c, err);
}

static int compile_form(struct conversion *c, uint32_t group_number, struct compile_output *output,
                        struct error *err)
{
    const struct form *form = c->form;
    uint64_t shape[AXES_DIMS_MAX];
    struct planned_tensor pattern = {.group = group_number};

    if (check_axes(c, err) < 0 || check_dtype(c, &pattern.info.dtype, err) < 0)
        return -1;
    c->element_size = dtype_bits(pattern.info.dtype) / 8;
    pattern.info.n_dims = form->axes.n_dims;
    pattern.holds = form_text(c->layouts, form, output->arena);
    bool fits = axes_shape(&form->axes, &c->layouts->words, c->group->sizes, form->n_projs, shape);
    pattern.info.shape = arena_memdup(output->arena, shape, form->axes.n_dims * sizeof *shape);
    if (!fits || !safetensors_tensor_bytes(&pattern.info, &pattern.length))
        return error_set(err, "%s: the sizes of layout %s overflow", c->title,
                         c->target->bound->layout->name);
    axes_strides(&form->axes, &c->layouts->words, c->group->sizes, form->n_projs, c->target_stride);
    choose_slabs(c);
    uint8_t axis = name_axis(form);
    uint64_t n = axis != AXIS_NONE ? c->group->sizes[axis] : 1;
    for (uint64_t value = 0; value < n; value++)
        if (compile_tensor(c, value, &pattern, output, err) < 0)
            return -1;
    return 0;
}

/* Whether the group holds anything of the part. */
static bool group_has_part(const struct group *group, uint8_t part)
{
    for (unsigned f = 0; f < group->bound->n_forms; f++)
        if (group->bound->forms[f].part == part && group->n_members[f] > 0)
            return true;
    return false;
}

int compile_group(const struct layouts *layouts, const struct checkpoint *checkpoint,
                  const struct group *group, uint32_t group_number, const struct compile_target *target,
                  struct compile_output *output, struct error *err)
{
    struct conversion c = {.layouts = layouts,
                           .checkpoint = checkpoint,
                           .group = group,
                           .target = target,
                           .title = group_title(group, output->arena)};
    int result = 0;

    for (uint8_t p = 0; p < layouts->n_parts; p++)
        if (group_has_part(group, p) && !bound_has_part(target->bound, p))
            return error_set(err, "%s: layout %s has no place for its %s. Keep it as it is with --to %s",
                             c.title, target->bound->layout->name, layouts->parts[p],
                             group->bound->layout->name);
    utarray_new(c.boxes, &box_icd);
    for (unsigned f = 0; f < target->bound->n_forms && result == 0; f++) {
        c.form = &target->bound->forms[f];
        if (group_has_part(group, c.form->part))
            result = compile_form(&c, group_number, output, err);
    }
    utarray_free(c.boxes);
    return result;
}
