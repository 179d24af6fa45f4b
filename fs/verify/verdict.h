/* The report of a run, printed to standard output. */
#ifndef MOEFS_FS_VERIFY_VERDICT_H
#define MOEFS_FS_VERIFY_VERDICT_H

#include "digests.h"
#include "forward.h"
#include "fs/base/progress.h"
#include "report.h"

struct verdict {
    const struct report *report;
    const struct progress *progress;
    const struct digests *digests;
    const struct block_result *blocks;
    uint32_t n_blocks;
    const char *to; /* the layout that was compared with, as --to names it */
};

/* For people; the last line is the verdict. */
void verdict_print_text(const struct verdict *verdict);
void verdict_print_json(const struct verdict *verdict);

#endif
