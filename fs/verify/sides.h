/* Where a checkpoint is read from. One side is the source, or what is exposed: the plan's reader, and a mount
 * or a converted directory. */
#ifndef MOEFS_FS_VERIFY_SIDES_H
#define MOEFS_FS_VERIFY_SIDES_H

#include "fs/read/reader.h"
#include "fs/source/source.h"

#include "layout/base/hash.h"
#include "layout/plan.h"

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

#endif
