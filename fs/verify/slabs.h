/* Level 1's own parts: pieces of stored tensors in memory, and tensors in no group. */
#ifndef MOEFS_FS_VERIFY_SLABS_H
#define MOEFS_FS_VERIFY_SLABS_H

#include "verify.h"

/* memory, or new memory without its contents where it is smaller than wanted. */
void *slab_grow(void *memory, size_t *size, size_t wanted);

uint64_t slab_element_bytes(const struct side_tensor *tensor);

/* Elements [begin, end) of the tensor, where they are not there already. 0, or -1 with the failure reported.
 */
int slab_load(struct verify *verify, unsigned s, const struct side_tensor *tensor, uint64_t begin,
              uint64_t end, struct slab *slab);

/* What stored form f of side s holds of one expert: of all its projections at once, which may lie between
 * each other. */
int slab_load_form(struct verify *verify, const struct logical_group *group, unsigned s, unsigned f,
                   uint64_t expert, struct slab *slab);

/* Whether the logical tensor lies there in its own order, without gaps. */
bool slab_is_plain(const struct logical_form *form, const struct logical_place *place);

/* The logical tensor's bytes in its own order: where they are already so, in the slab; else copied. */
const unsigned char *slab_plain_bytes(const struct logical_form *form, const struct logical_place *place,
                                      const struct slab *slab, unsigned char **copy, size_t *copy_size);

/* parallel_work over verify.others. */
struct other_work {
    struct verify *verify;
    struct worker_memory *memories; /* one a thread */
};
int verify_other(void *context, unsigned thread, uint64_t t);

#endif
