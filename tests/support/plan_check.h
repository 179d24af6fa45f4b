/* What must hold for every plan, whatever the checkpoint: for unit tests and fuzzing. Aborts with
 * a message. */
#ifndef MOEFS_TESTS_PLAN_CHECK_H
#define MOEFS_TESTS_PLAN_CHECK_H

#include "layout/layouts.h"
#include "layout/plan.h"
#include "layout/recognise.h"

#include <stdio.h>
#include <string.h>

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                                  \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fputc('\n', stderr);                                                                             \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* Every element of the box: `visit` gets byte offsets in the gather and in the shard's file. */
static void check_visit_box(const struct gather_box *box, unsigned element_size,
                            void (*visit)(uint64_t target, uint64_t source, void *context), void *context)
{
    uint64_t i[GATHER_DIMS_MAX] = {0};

    for (;;) {
        uint64_t target = box->target, source = box->source;
        unsigned d = 0;
        for (unsigned k = 0; k < box->n_dims; k++) {
            target += i[k] * box->dims[k].target * element_size;
            source += i[k] * box->dims[k].source * element_size;
        }
        visit(target, source, context);
        while (d < box->n_dims && ++i[d] == box->dims[d].n)
            i[d++] = 0;
        if (d == box->n_dims)
            return;
    }
}

/* ---- where an element must come from: the layouts' definition, by dividing with remainder ---- */

/* A target tensor and what it is made of. */
struct check_formula {
    const struct checkpoint *checkpoint;
    const struct layouts *layouts;
    const struct group *group; /* NULL: the tensor passes through */
    const struct form *form;   /* the target's */
    uint64_t value;            /* the integer in its name */
    unsigned size;             /* bytes of an element */
};

static uint8_t check_name_axis(const struct form *form)
{
    int hole = template_integer_hole(&form->name);

    return hole >= 0 ? form->name.holes[hole].axis : AXIS_NONE;
}

/* The element's coordinates, from its number in the target. */
static void check_coordinates(const struct check_formula *c, uint64_t element, uint64_t at[AXIS_WORDS_MAX])
{
    const struct axes *axes = &c->form->axes;

    memset(at, 0, AXIS_WORDS_MAX * sizeof *at);
    for (unsigned d = axes->n_dims; d-- > 0;)
        for (unsigned i = axes->dims[d].n; i-- > 0;) {
            uint8_t axis = axes->dims[d].axis[i];
            uint64_t size = axis_size(&c->layouts->words, axis, c->group->sizes, c->form->n_projs);
            at[axis] = element % size;
            element /= size;
        }
    CHECK(element == 0, "%s", c->form->name.text);
    if (check_name_axis(c->form) != AXIS_NONE)
        at[check_name_axis(c->form)] = c->value;
}

/* Its byte in the source: the shard's number in *shard. */
static uint64_t check_source_of(const struct check_formula *c, uint64_t element, uint32_t *shard)
{
    uint64_t at[AXIS_WORDS_MAX];

    check_coordinates(c, element, at);
    uint8_t proj = c->form->projs[at[AXIS_PROJ]];
    for (unsigned f = 0; f < c->group->bound->n_forms; f++) {
        const struct form *form = &c->group->bound->forms[f];
        unsigned position = 0;
        uint64_t place = 0;
        while (position < form->n_projs && form->projs[position] != proj)
            position++;
        if (form->part != c->form->part || position == form->n_projs || c->group->n_members[f] == 0)
            continue;
        at[AXIS_PROJ] = position;
        for (unsigned d = 0; d < form->axes.n_dims; d++)
            for (unsigned i = 0; i < form->axes.dims[d].n; i++) {
                uint8_t axis = form->axes.dims[d].axis[i];
                place =
                    place * axis_size(&c->layouts->words, axis, c->group->sizes, form->n_projs) + at[axis];
            }
        uint8_t axis = check_name_axis(form);
        const struct tensor *tensor =
            &c->checkpoint->tensors[c->group->members[f][axis == AXIS_NONE ? 0 : at[axis]]];
        *shard = tensor->shard;
        return tensor->offset + place * c->size;
    }
    CHECK(false, "%s: no stored tensor has it", c->form->name.text);
    return 0;
}

/* What the plan's tensor is by the layouts: the target's form whose name it has. */
static struct check_formula check_formula_of(const struct checkpoint *checkpoint, const struct plan *plan,
                                             const struct planned_tensor *tensor)
{
    struct check_formula c = {.checkpoint = checkpoint, .layouts = plan->layouts};
    const char *name = tensor->info.name;
    struct name_match match;

    if (!plan->recognition || tensor->group == UINT32_MAX)
        return c;
    const struct group *group = &plan->recognition->groups[tensor->group];
    const struct layout *to = layouts_find(plan->layouts, plan->groups[tensor->group].to);
    const struct bound_layout *bound = layouts_bound(plan->layouts, group->rule, to);
    c.size = dtype_bits((enum dtype)tensor->info.dtype) / 8;
    for (unsigned f = 0; f < bound->n_forms; f++) {
        const struct name_template *template = &bound->forms[f].name;
        int word = template_word_hole(template), hole = template_integer_hole(template);
        if (!template_match(template, name, strlen(name), &match))
            continue;
        bool composite = word >= 0 && template->holes[word].kind == HOLE_COMPOSITE;
        uint64_t value = hole >= 0 ? match.values[hole] : 0;
        uint64_t first = composite ? group->word * group->sizes[template->holes[word].axis] : 0;
        if ((word >= 0 && !composite && match.values[word] != group->word) || value < first)
            continue;
        CHECK(!c.form, "%s has two meanings", name);
        c.form = &bound->forms[f];
        c.value = value - first;
        c.group = group;
    }
    CHECK(c.form, "%s is no tensor of layout %s", name, to->name);
    return c;
}

/* The bytes [target, target + length) of the tensor come from `source` on in the shard's file. */
static void check_bytes(const struct check_formula *c, uint64_t target, uint64_t length, uint32_t shard,
                        uint64_t source)
{
    for (uint64_t at = 0; c->group && at < length; at += c->size) {
        uint32_t right_shard;
        uint64_t right = check_source_of(c, (target + at) / c->size, &right_shard);
        CHECK(right == source + at && right_shard == shard, "%s %llu: byte %llu is at %llu",
              c->form->name.text, (unsigned long long)c->value, (unsigned long long)(target + at),
              (unsigned long long)right);
    }
}

struct check_gather {
    const struct checkpoint *checkpoint;
    const struct check_formula *formula;
    const struct gather *gather;
    const struct gather_box *box;
    uint64_t begin; /* of the extent */
    unsigned char *written;
};

static void check_element(uint64_t target, uint64_t source, void *context)
{
    struct check_gather *c = context;
    unsigned size = c->gather->element_size;

    CHECK(target + size <= c->gather->length, "target %llu", (unsigned long long)target);
    CHECK(source + size <= c->checkpoint->shards[c->box->shard].size, "source %llu",
          (unsigned long long)source);
    CHECK(target % size == 0 && !c->written[target / size], "target %llu twice", (unsigned long long)target);
    c->written[target / size] = 1;
    check_bytes(c->formula, c->begin + target, size, c->box->shard, source);
}

static void check_extent(const struct checkpoint *checkpoint, const struct plan *plan,
                         const struct extent *extent, const struct check_formula *formula)
{
    CHECK(extent->shard < checkpoint->n_shards, "shard %u", extent->shard);
    if (extent->gather == PLAN_NO_GATHER) {
        CHECK(extent->source + extent->length <= checkpoint->shards[extent->shard].size, "source %llu",
              (unsigned long long)extent->source);
        check_bytes(formula, extent->begin, extent->length, extent->shard, extent->source);
        return;
    }
    const struct gather *gather = &plan->gathers[extent->gather];
    CHECK(gather->length == extent->length, "gather %u", extent->gather);
    CHECK(gather->first_box + gather->n_boxes <= plan->n_boxes, "gather %u", extent->gather);
    struct check_gather c = {
        .checkpoint = checkpoint, .formula = formula, .gather = gather, .begin = extent->begin};
    uint64_t n = gather->length / gather->element_size;
    c.written = calloc(1, n ? n : 1);
    for (uint32_t b = 0; b < gather->n_boxes; b++) {
        c.box = &plan->boxes[gather->first_box + b];
        check_visit_box(c.box, gather->element_size, check_element, &c);
    }
    CHECK(!memchr(c.written, 0, n), "gather %u leaves elements out", extent->gather);
    free(c.written);
}

/* Byte `inside` of the extent is found where the plan says that it lies. */
static void check_location(const struct plan *plan, const struct planned_tensor *tensor,
                           const struct extent *extent, uint64_t inside)
{
    const struct planned_file *file = &plan->files[tensor->file];

    if (file->verbatim_shard != PLAN_NO_SHARD)
        return;
    const struct plan_location at = plan_locate(plan, file, tensor->offset + extent->begin + inside);
    CHECK(at.file == file && at.tensor == tensor && at.extent == extent && at.inside == inside &&
              at.left == extent->length - inside,
          "%s: byte %llu of an extent", tensor->info.name, (unsigned long long)inside);
}

/* One location after the other is the whole file. */
static void check_walk(const struct plan *plan, const struct planned_file *file)
{
    struct plan_location at;
    uint64_t length = 0;

    if (file->size == 0)
        return;
    at = plan_locate(plan, file, 0);
    do {
        CHECK(at.inside == 0 && at.left > 0, "%s: at %llu", file->name, (unsigned long long)length);
        CHECK(!at.tensor || at.tensor->offset + at.extent->begin == length, "%s: at %llu", file->name,
              (unsigned long long)length);
        length += at.left;
    } while (plan_locate_next(plan, &at));
    CHECK(length == file->size, "%s: %llu of %llu bytes", file->name, (unsigned long long)length,
          (unsigned long long)file->size);
}

static void check_tensor(const struct checkpoint *checkpoint, const struct plan *plan,
                         const struct planned_tensor *tensor)
{
    const struct check_formula formula = check_formula_of(checkpoint, plan, tensor);
    uint64_t at = 0, bytes;

    CHECK(safetensors_tensor_bytes(&tensor->info, &bytes) && bytes == tensor->length, "%s",
          tensor->info.name);
    for (uint32_t e = 0; e < tensor->n_extents; e++) {
        const struct extent *extent = &plan->extents[tensor->first_extent + e];
        CHECK(extent->begin == at && extent->length > 0, "%s: extent %u", tensor->info.name, e);
        check_extent(checkpoint, plan, extent, &formula);
        check_location(plan, tensor, extent, 0);
        check_location(plan, tensor, extent, extent->length - 1);
        at += extent->length;
    }
    CHECK(at == tensor->length, "%s: %llu bytes covered", tensor->info.name, (unsigned long long)at);
}

static void plan_check(const struct checkpoint *checkpoint, const struct plan *plan)
{
    uint32_t seen = 0;

    for (uint32_t f = 0; f < plan->n_files; f++) {
        const struct planned_file *file = &plan->files[f];
        bool verbatim = file->verbatim_shard != PLAN_NO_SHARD;
        uint64_t at = file->head_length;
        CHECK(f == 0 || f >= plan->n_weight_files || strcmp(plan->files[f - 1].name, file->name) < 0, "%s",
              file->name);
        for (uint32_t t = 0; t < file->n_tensors; t++, seen++) {
            const struct planned_tensor *tensor = &plan->tensors[file->first_tensor + t];
            CHECK(tensor->file == f, "%s in %s", tensor->info.name, file->name);
            CHECK(t == 0 ? verbatim || tensor->offset == at : tensor->offset == at, "%s", tensor->info.name);
            check_tensor(checkpoint, plan, tensor);
            at = tensor->offset + tensor->length;
        }
        CHECK(at == file->size || (verbatim && file->n_tensors == 0), "%s: %llu of %llu bytes", file->name,
              (unsigned long long)at, (unsigned long long)file->size);
        check_walk(plan, file);
    }
    CHECK(seen == plan->n_tensors, "%u of %u tensors", seen, plan->n_tensors);
}

#endif
