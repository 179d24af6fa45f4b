/* model.safetensors.index.json: which tensor lies in which file. Read in one pass, written as transformers
 * does. */
#ifndef MOEFS_LAYOUT_INDEX_H
#define MOEFS_LAYOUT_INDEX_H

#include "layout/base/error.h"
#include "layout/base/memory.h"

#include <stddef.h>
#include <stdint.h>

#define INDEX_LENGTH_MAX (UINT64_C(1) << 30) /* bytes of an index that is read; 200,000 tensors take 20 MB */

struct index_entry {
    const char *tensor;
    uint32_t file; /* in index.files */
};

struct index {
    struct index_entry *entries; /* in the order of the file; one per name (a name given twice is refused) */
    size_t n_entries;
    const char **files; /* distinct file names, by bytes */
    size_t n_files;
    const char *metadata; /* the raw JSON text of its "metadata" object, or NULL when it has none */
    size_t metadata_length;
};

/* Refuses what is not an object with a weight_map of strings, and file names that are absolute, hold a "/" or
 * are
 * ".", ".." or empty. `text` must stay alive as long as the index (metadata points into it); the rest is
 * taken from the arena. path is for messages. */
int index_parse(const char *path, const char *text, size_t length, struct arena *arena, struct index *index,
                struct error *err);

/* The index as transformers writes it: json.dumps(..., indent=2, sort_keys=True) + "\n", ASCII-escaped. The
 * source's metadata is kept (raw, or NULL), with total_size replaced or added; total_parameters is never
 * added. tensors[i] lies in files[i]; any order. Returns a malloc'd text and its length. */
char *index_write(const char *metadata, size_t metadata_length, uint64_t total_size,
                  const char *const *tensors, const char *const *files, size_t n, uint64_t *length);

#endif
