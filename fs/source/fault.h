/* A source over another one that fails or delays on demand: what tests put under the cache.
 *
 * Its text is one or more rules with ';' between them, each `error:` or `delay:` and conditions with ','
 * between them:
 *
 *     error:nth=5                       the fifth read fails with EIO
 *     error:every=3,errno=12            every third read fails with errno 12
 *     error:file=0,begin=100,end=200    reads that touch bytes [100, 200) of file 0 fail
 *     delay:ms=20,file=1                reads of file 1 take 20 ms longer
 *     error:trigger=/tmp/broken         reads fail while /tmp/broken exists
 *
 * All conditions of a rule must hold. nth and every count the reads that meet the rule's other conditions,
 * from 1; a rule whose trigger does not exist neither acts nor counts. */
#ifndef MOEFS_FS_SOURCE_FAULT_H
#define MOEFS_FS_SOURCE_FAULT_H

#include "layout/base/error.h"
#include "source.h"

/* Closing it closes `under`. Where the text is wrong: NULL with *err set; `under` is then still the
 * caller's. */
struct source *source_fault_open(struct source *under, const char *text, struct error *err);

#endif
