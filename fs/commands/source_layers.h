/* What a mount and a conversion put over a directory's files before they read them. */
#ifndef MOEFS_FS_SOURCE_LAYERS_H
#define MOEFS_FS_SOURCE_LAYERS_H

#include "fs/source/directory.h"

#include <stdbool.h>

/* keep_cache: the page cache keeps what is read of the directory's files. The variable MOEFS_FAULT adds reads
 * that fail (fs/source/fault.h). To be called once, after the opening and before the first read. */
int source_layers_add(struct directory *directory, bool keep_cache, struct error *err);

#endif
