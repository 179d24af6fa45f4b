/* How much memory this process may use before its control group is reclaimed from: pages that it populates
 * count against that limit. */
#ifndef MOEFS_FS_MEMORY_LIMIT_H
#define MOEFS_FS_MEMORY_LIMIT_H

#include <stdint.h>

#define MEMORY_LIMIT_NONE UINT64_MAX

/* The least limit, in bytes, of the process's memory control group and of those above it that are visible:
 * memory.max (version 2) or memory.limit_in_bytes (version 1). MEMORY_LIMIT_NONE where there is none or where
 * /proc does not say. root: "" - or a directory that holds /proc/self/cgroup, /proc/self/mountinfo and what
 * the latter names, for tests. Thread-safe. */
uint64_t memory_limit_find(const char *root);

#endif
