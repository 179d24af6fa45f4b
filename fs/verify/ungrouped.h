/* Level 1 for the tensors that are in no group: compared as they are stored. */
#ifndef MOEFS_FS_VERIFY_UNGROUPED_H
#define MOEFS_FS_VERIFY_UNGROUPED_H

#include "bytes.h"

/* 0, or -1 with the failure reported. */
int ungrouped_compare(struct bytes *bytes, const struct ungrouped *ungrouped, uint32_t n);

#endif
