/* The plan: which virtual files there are, what tensors they hold, and where each byte comes from.
 *
 * Pure data, immutable once built, the same for the same checkpoint and options on every machine. O(source
 * tensors): a run of bytes that moves as a whole is one copy extent; what has to be shuffled is one gather
 * extent per expert, described by at most a few boxes and computed when it is read. */
#ifndef MOEFS_LAYOUT_PLAN_H
#define MOEFS_LAYOUT_PLAN_H

#include "layout/format/checkpoint.h"
#include "layout/base/error.h"
#include "layout/base/memory.h"
#include "layout/format/safetensors.h"
#include "user_layout.h"

#include <stdbool.h>
#include <stdint.h>

#define PLAN_NO_GATHER UINT32_MAX
#define PLAN_NO_SHARD UINT32_MAX
#define GATHER_DIMS_MAX 4

/* A contiguous interval of one virtual tensor. A tensor's extents lie side by side in order and cover it. */
struct extent {
    uint64_t begin;  /* bytes, relative to the tensor */
    uint64_t length; /* bytes */
    uint64_t source; /* copy: byte offset in the shard's file */
    uint32_t shard;  /* copy: in checkpoint.shards. gather: the shard of its first box */
    uint32_t gather; /* in plan.gathers, or PLAN_NO_GATHER: a copy */
};

/* One axis of a box: n steps, strides in elements. */
struct gather_dim {
    uint64_t n;
    uint64_t target;
    uint64_t source;
};

/* A strided set of elements: element (i0, i1, ...) moves from source + sum i*dim.source to target + sum
 * i*dim.target. Dimensions are sorted by target stride, descending; none has n == 1 (n_dims 0: one element).
 * Different boxes of a gather, and different elements of a box, never share a target. */
struct gather_box {
    uint32_t shard;
    uint32_t n_dims;
    uint64_t source; /* bytes from the beginning of the shard's file */
    uint64_t target; /* bytes from the beginning of the gather's interval */
    struct gather_dim dims[GATHER_DIMS_MAX];
};

/* How the bytes of one gather extent are computed: boxes that together write every element once. */
struct gather {
    uint64_t length;    /* bytes, as its extent's */
    uint32_t first_box; /* in plan.boxes */
    uint32_t n_boxes;
    uint32_t element_size; /* bytes: 1, 2, 4 or 8 */
    /* Bytes of one row of the outermost target dimension, at whose multiples every box can be cut
     * (compile_gather_row); 0: it can only be computed whole. */
    uint64_t row;
};

struct planned_tensor {
    struct tensor_info info;
    uint64_t length; /* bytes */
    uint64_t offset; /* bytes from the beginning of its virtual file */
    uint32_t file;   /* in plan.files */
    uint32_t first_extent;
    uint32_t n_extents; /* 0 only for an empty tensor */
    uint32_t group;     /* in plan.groups, or UINT32_MAX: passes through */
    const char *holds;  /* of a converted one, in words: "gate up: expert (proj inner) hidden"; else NULL */
};

struct planned_file {
    const char *name;
    uint64_t size; /* bytes */
    /* PLAN_NO_SHARD, or: this file is that shard's file, verbatim (head is then empty) */
    uint32_t verbatim_shard;
    /* What lies before the tensors: the safetensors header. Of a file without tensors (the index): all. */
    const char *head;
    uint64_t head_length;
    uint32_t first_tensor; /* its tensors are contiguous in plan.tensors, by offset, without holes */
    uint32_t n_tensors;
    bool replaces; /* it is shown in place of the source's file of this name, which would pass through */
};

/* What happened to one set of experts: for people (plan, messages), not for reading. */
struct planned_group {
    const char *block;     /* "model.layers.0.mlp" */
    const char *from, *to; /* layouts' names; to == from: passes through */
    uint64_t experts;
    uint64_t inner, hidden; /* I, H; 0 where the group has no such axis */
};

struct layouts;
struct architecture;
struct recognition;

struct plan {
    struct arena arena;
    /* What it was made from, for as long as it lives; NULL in a plan that was made by hand. */
    const struct layouts *layouts;
    struct layouts *loaded;          /* the same where the plan loaded them itself, else NULL */
    struct recognition *recognition; /* of checkpoint.tensors; groups[g] is its group g */
    const struct architecture *architecture;
    struct planned_file *files; /* weight files by name, then the index if there is one */
    uint32_t n_files;
    uint32_t n_weight_files;
    struct planned_tensor *tensors;
    uint32_t n_tensors;
    struct extent *extents;
    uint32_t n_extents;
    struct gather *gathers;
    uint32_t n_gathers;
    struct gather_box *boxes;
    uint32_t n_boxes;
    struct planned_group *groups; /* by block */
    uint32_t n_groups;
    const char **source_holds; /* for each of checkpoint.tensors, as planned_tensor.holds; NULL: no group */
    uint64_t total_size;       /* bytes of all tensors: the index's total_size */
    bool dense;                /* no experts: everything passes through */
    struct notes notes;
};

struct plan_options {
    const char *to;   /* a layout's name, one of the user's (its path), "v5" or "original"; NULL: "v5" */
    const char *from; /* the same as `to`, or NULL: recognise */
    struct layout_text users[LAYOUTS_USER_MAX]; /* the user's layouts among them: needed while planning */
    /* The layouts, loaded already, the users among them: they must outlive the plan. NULL: it loads its own. */
    const struct layouts *layouts;
    bool fp8_keep;           /* convert FP8 experts with their scales, whatever a loader makes of them */
    uint64_t max_shard_size; /* bytes of tensors in one weight file at most; 0: shards mirror the source */
};

/* Builds the plan. The checkpoint must outlive it (names point into it). On refusal -1, with one line per
 * refused group in *err, and nothing to free. */
int plan_build(const struct checkpoint *checkpoint, const struct plan_options *options, struct plan *plan,
               struct error *err);
void plan_free(struct plan *plan);

/* What the bytes of a virtual file from one place on are: of its head, of the shard that the file is, or of
 * one extent. */
struct plan_location {
    const struct planned_file *file;
    const struct planned_tensor *tensor; /* NULL: in the head, or the file is a shard's, verbatim */
    const struct extent *extent;         /* of the tensor; NULL as above */
    uint64_t inside;                     /* bytes from the beginning of the head, the file or the extent */
    uint64_t left;                       /* bytes from there to its end; > 0 */
};

/* offset < file->size. O(log n). */
struct plan_location plan_locate(const struct plan *plan, const struct planned_file *file, uint64_t offset);
/* Goes to the beginning of what lies behind it; false at the end of the file. */
bool plan_locate_next(const struct plan *plan, struct plan_location *location);

#endif
