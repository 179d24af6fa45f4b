/* Level 0: files that are named by the sha256 of their contents, as a Hugging Face cache's blobs, have it. */
#ifndef MOEFS_FS_VERIFY_BLOBS_H
#define MOEFS_FS_VERIFY_BLOBS_H

#include "report.h"

#include "fs/source/source.h"

/* *n_checked: how many files are named so. -1 with *err set where one cannot be read. */
int blobs_check(struct source *source, uint64_t *n_checked, struct report *report, struct error *err);

#endif
