/* XXH3-128 digests of logical tensors and of exposed files, as a list that other machines can compare with: a
 * line each, much as sha256sum writes them. A logical tensor's line is the same in every layout. */
#ifndef MOEFS_FS_VERIFY_DIGESTS_H
#define MOEFS_FS_VERIFY_DIGESTS_H

#include "logical.h"
#include "report.h"
#include "sides.h"

struct digest {
    char *name; /* owned; "file:..." for files */
    char *type; /* owned: "BF16[6,4]", the dtype and the logical shape; NULL for files */
    XXH128_hash_t hash;
    XXH128_hash_t found; /* of what is exposed there, where that differs */
};

struct digests {
    struct digest *list; /* logical tensors group by group, then those in no group, then files */
    uint64_t n_tensors;
    uint64_t first_ungrouped; /* of the tensors in no group */
    uint32_t n_files;
};

/* Names and types of the logical tensors; sets each form's first_digest. Their hashes are whoever's reads
 * them. */
void digests_number(struct digests *digests, struct logical *logical);
void digests_free(struct digests *digests);

/* Adds those of the side's files. 0, or -1 with the failure reported. */
int digests_add_files(struct digests *digests, const struct side *side, struct report *report);
int digests_write(const struct digests *digests, const char *path, struct error *err);
/* Compares with a list that digests_write() wrote. partial: only some layers are looked at, so that names
 * which the list has besides are no difference. */
int digests_check(const struct digests *digests, const char *path, bool partial, struct report *report,
                  struct error *err);

/* Which other logical tensor has the bytes that were found in this one's place; NULL: none, or digest is
 * DIFFERENCE_NONE. */
const char *digests_owner(const struct digests *digests, uint64_t digest);

#endif
