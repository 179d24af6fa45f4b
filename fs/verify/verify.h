/* `moefs verify`: what its parts share.
 *
 * One side is where a checkpoint is read from: the source, or what is exposed (the plan's reader, and a mount
 * or a converted directory). A logical tensor is one part of one projection of one expert, as the per-expert
 * layout has it; it lies somewhere on every side. */
#ifndef MOEFS_FS_VERIFY_H
#define MOEFS_FS_VERIFY_H

#include "fs/source/directory.h"
#include "fs/read/reader.h"

#include "layout/base/hash.h"
#include "layout/plan.h"
#include "layout/recognise.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* ---- what was found ---- */

struct difference {
    uint64_t order;       /* the first one has the smallest */
    const char *kind;     /* "bytes", "missing", "shape", "function", "digest" ... */
    char *tensor;         /* owned: the logical tensor's name, or the file's */
    char *text;           /* owned: one sentence that says where */
    uint64_t row, column; /* UINT64_MAX: there are none */
    uint64_t digest;      /* of the logical tensor, in verify.digests, or UINT64_MAX */
};

struct block_result {
    const char *block;
    double max_abs, max_rel; /* of fused against eager; rel: to the layer's largest output */
    uint64_t token, column;  /* where max_abs is */
    uint64_t tokens, top_k, not_finite;
    bool routed;         /* by the checkpoint's own router */
    const char *skipped; /* why it was not computed, or NULL */
};

struct report {
    pthread_mutex_t lock;           /* guards everything but the counters */
    struct difference *differences; /* the first ones by order, sorted */
    unsigned n_differences, capacity;
    uint64_t n_found;
    struct block_result *blocks;
    uint32_t n_blocks;
    struct error failure; /* what ended the run */
    struct notes notes;   /* what a user must know beside the verdict */
    /* progress */
    atomic_uint_least64_t bytes; /* compared so far */
    uint64_t total;
    bool show_progress;
    struct timespec begin;
    atomic_uint_least64_t shown; /* milliseconds since begin */
};

void report_begin(struct report *report, uint64_t total);
void report_end(struct report *report); /* takes the progress bar away */
void report_free(struct report *report);
/* Thread-safe. where: order, kind, and what else is known of the place. */
void report_difference(struct report *report, const struct difference *where, const char *tensor,
                       const char *format, ...) __attribute__((format(printf, 4, 5)));
/* A place without row, column and digest. */
struct difference report_place(uint64_t order, const char *kind);
/* Thread-safe: keeps the first. Always returns -1. */
int report_failure(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));
void report_add_bytes(struct report *report, uint64_t bytes);
double report_seconds(const struct report *report);

/* ---- sides ---- */

#define SIDES_MAX 3 /* the source, the reader, a directory */

struct side_tensor {
    struct tensor_info info;
    uint64_t offset, length; /* bytes in its file */
    uint32_t file;
    bool claimed; /* it is what some source tensor became */
    UT_hash_handle hh;
};

struct side {
    const char *title; /* for messages */
    struct side_tensor *tensors;
    uint32_t n_tensors;
    struct side_tensor *by_name;
    struct reader *reader; /* or NULL: read from source */
    struct source *source;
    const struct plan *plan;
    const struct checkpoint *checkpoint;
};

/* Neither takes the reader's or the source's ownership. */
void side_of_checkpoint(struct side *side, const char *title, const struct checkpoint *checkpoint,
                        struct source *source);
void side_of_plan(struct side *side, const char *title, const struct plan *plan, struct reader *reader);
void side_free(struct side *side);
struct side_tensor *side_find(const struct side *side, const char *name);
const char *side_file_name(const struct side *side, uint32_t file);
/* 0, or an errno. Thread-safe. */
int side_read(const struct side *side, uint32_t file, uint64_t offset, void *buffer, size_t length);

/* ---- logical tensors ---- */

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
    const struct group *group;
    const char *title; /* "model.layers.0.mlp" */
    const char *block; /* as the exposed side calls it */
    const struct bound_layout *bound[2];
    const struct side_tensor **members[SIDES_MAX][FORMS_MAX]; /* by the integer in the name; NULL: missing */
    struct logical_form forms[LOGICAL_FORMS_MAX];
    uint8_t n_forms;
    uint64_t count; /* the largest of the forms' */
    uint64_t order; /* of its differences: they begin here */
};

/* Where a logical tensor lies: element (i, j, ...) is number first + i * stride[0] + ... of the tensor. */
struct logical_place {
    const struct side_tensor *tensor;
    uint64_t first;
    uint64_t stride[AXES_DIMS_MAX];
};

struct verify_options {
    const char *src, *other; /* other: MNT or DST, or NULL */
    const char *layers, *write_digests, *check_digests, *write_outputs;
    uint64_t tokens; /* 0: 16, and every expert is visited */
    uint64_t seed;
    bool json, source, before_down;
};

/* What is compared: all open, and the caller's. */
struct verify_input {
    const struct plan_options *plan_options;
    const struct directory *source_directory;
    const struct plan *plan;
    struct reader *reader;                   /* of the plan */
    const struct directory *other_directory; /* not looked at without options.other */
};

/* Compares and prints the report. 0: equal; 1: a difference was found; -1 with *err set: a failure. */
int verify_run(const struct verify_options *options, const struct verify_input *input, struct error *err);

/* What one block was given and gave: kept for --write-outputs. */
struct block_output {
    const char *block;
    uint64_t tokens, top_k, hidden;
    float *x, *weights, *output; /* owned: [tokens, hidden], [tokens, top_k], [tokens, hidden] */
    uint32_t *experts;           /* owned: [tokens, top_k] */
};

struct digest {
    char *name; /* owned; "file:..." for files */
    char *type; /* owned: "BF16[6,4]", the dtype and the logical shape; NULL for files */
    XXH128_hash_t hash;
    XXH128_hash_t found; /* of what is exposed there, where that differs */
};

struct verify {
    const struct verify_options *options;
    const struct plan_options *plan_options;
    const struct layouts *layouts;
    const struct checkpoint *checkpoint;
    const struct plan *plan;
    struct arena arena;
    struct side sides[SIDES_MAX];
    unsigned n_sides;
    struct logical_group *groups;
    uint32_t n_groups;
    const struct side_tensor **others; /* the source's tensors that are in no group, with their new names */
    const char **other_names;
    uint32_t n_others;
    struct digest *digests; /* logical tensors group by group, then others, then files */
    uint64_t n_digests;     /* of tensors */
    uint32_t n_files;       /* whose digests are behind those */
    bool hashes;            /* all digests are wanted */
    struct block_output *outputs;
    uint32_t n_outputs;
    unsigned n_threads;
    struct report report;
};

/* Finds the groups, the others, and what each side has in their place; reports what is missing or has another
 * shape. */
int verify_find(struct verify *verify, struct error *err);
/* Whether --layers takes this name. */
bool verify_takes(const struct verify *verify, const char *name);
/* The name of the form's logical tensor of one expert; malloc'd. */
char *logical_name(const struct verify *verify, const struct logical_group *group,
                   const struct logical_form *form, uint64_t expert);
/* The number of the element with these coordinates in a tensor of the form: the layout's definition. */
uint64_t logical_element(const struct verify *verify, const struct group *group, const struct form *form,
                         const uint64_t coordinates[AXIS_WORDS_MAX]);
void logical_locate(const struct verify *verify, const struct logical_group *group,
                    const struct logical_form *form, unsigned side, uint64_t expert,
                    struct logical_place *place);

/* What one thread holds of one expert: every tensor's piece, on every side. */
struct slab {
    const struct side_tensor *tensor;
    uint64_t begin, end; /* elements of the tensor */
    unsigned char *bytes;
    size_t capacity;
};
struct worker_memory {
    struct slab slabs[SIDES_MAX][FORMS_MAX];
    unsigned char *plain[2]; /* logical tensors in their own order of elements */
    size_t plain_size[2];
    struct function_expert *function; /* level 2's, or NULL */
};

/* Level 1, and level 2 beside it while an expert is in memory. */
int verify_bytes(struct verify *verify);
/* The digests of the groups' tensors, where verify_bytes() was not asked for them: to tell whose bytes it is
 * that lie in another one's place. */
int verify_hash(struct verify *verify);

/* ---- level 2 ---- */

struct function_run; /* of one group */
/* NULL where the group's function is not computed (the block's result says why). */
struct function_run *function_begin(struct verify *verify, const struct logical_group *group,
                                    struct block_result *result);
/* What one expert gives its tokens, in this thread: opened, then shown its weights' rows [first, first + n)
 * while they are in the slabs (biases and scales, which must be loaded before, stay there; rows of down come
 * last), then closed. run may be NULL. */
void function_open(struct function_run *run, struct worker_memory *memory, uint64_t expert);
void function_rows(struct worker_memory *memory, const struct logical_form *form, uint64_t first, uint64_t n);
void function_close(struct worker_memory *memory);
void function_free(struct worker_memory *memory); /* what a thread keeps for the next expert */
/* Compares fused with eager, reports and frees. */
int function_end(struct function_run *run);
/* --write-outputs: what the runs have kept, as a safetensors file. */
int function_write(const struct verify *verify, struct error *err);

/* ---- digests ---- */

/* Those of the exposed files; not with --layers. */
int digests_of_files(struct verify *verify);
int digests_write(const struct verify *verify, const char *path, struct error *err);
int digests_check(struct verify *verify, const char *path, struct error *err);

/* ---- files ---- */

/* Level 0. */
int verify_source(struct verify *verify, const struct directory *directory, struct error *err);
/* Whether the directory's index names every tensor of its files and where it is. */
int verify_index(struct verify *verify, const char *title, const struct directory *directory,
                 struct error *err);

void report_print_text(const struct verify *verify);
void report_print_json(const struct verify *verify);

#endif
