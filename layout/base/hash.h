/* uthash with xxHash's XXH3 in place of its built-in function: faster on long names, and without the
 * fallthroughs that clang warns of. Include this instead of <uthash.h>. */
#ifndef MOEFS_LAYOUT_HASH_H
#define MOEFS_LAYOUT_HASH_H

#include <xxhash.h>

#define HASH_FUNCTION(key, length, hash) ((hash) = (unsigned)XXH3_64bits(key, length))

#include <uthash.h>

#endif
