/* A local directory as a source: which names it has, and its files, open. */
#ifndef MOEFS_FS_LOCAL_H
#define MOEFS_FS_LOCAL_H

#include "listing.h"
#include "scan.h"
#include "source.h"

#include "layout/base/error.h"

/* Lists SRC, which must have a config.json, and opens every regular file that is listed (raising the soft
 * RLIMIT_NOFILE to the hard one first). Refused: a link that dangles or leads out, an unfinished download, a
 * directory that cannot be read. Notes say what is not shown. The source, or NULL with *err set and nothing
 * to free; listing_free() gives back the listing. */
struct source *local_open(const char *src, const struct scan_options *options, struct listing *listing,
                          struct error *err);

#endif
