/* Pieces of stored tensors in one thread's memory, and logical tensors cut out of them. */
#ifndef MOEFS_FS_VERIFY_SLABS_H
#define MOEFS_FS_VERIFY_SLABS_H

#include "logical.h"

struct slab {
    const struct side_tensor *tensor; /* NULL: empty */
    uint64_t begin, end;              /* elements of the tensor */
    unsigned char *bytes;
    size_t capacity;
};

/* What one thread holds of one expert: every tensor's piece, on every side. */
struct slabs {
    struct slab of[SIDES_MAX][FORMS_MAX];
    unsigned char
        *row_major[2]; /* logical tensors in their own order of elements: the source's and another side's */
    size_t row_major_size[2];
};

void slabs_free(struct slabs *slabs);

/* memory, or new memory without its contents where it is smaller than wanted. */
void *slab_grow(void *memory, size_t *size, size_t wanted);

/* Of the tensor's dtype; 0 where it does not fill whole bytes. */
uint64_t slab_element_bytes(const struct side_tensor *tensor);

/* Elements [begin, end) of the side's tensor, where they are not there already. 0, or -1 with the failure
 * reported. */
int slab_load(const struct side *side, const struct side_tensor *tensor, uint64_t begin, uint64_t end,
              struct slab *slab, struct report *report);

/* What stored form f of side s holds of one expert: of all its projections at once, which may lie between
 * each other.
 */
int slab_load_form(const struct side *sides, unsigned s, const struct logical_group *group, unsigned f,
                   uint64_t expert, struct slab *slab, struct report *report);

/* Whether the logical tensor lies there in its own order, without gaps. */
bool slab_is_row_major(const struct logical_form *form, const struct logical_place *place);

/* The logical tensor's bytes in its own order: where they are already so, in the slab; else copied, by a
 * plain loop that has nothing in common with the code that is being checked. */
const unsigned char *slab_row_major_bytes(const struct logical_form *form, const struct logical_place *place,
                                          const struct slab *slab, unsigned char **copy, size_t *copy_size);

#endif
