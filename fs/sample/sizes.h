/* The named sizes of a sample and the expressions over them: "2*intermediate", "a*b+c". A size is a number,
 * an expression, or an array, which counts as its length. */
#ifndef MOEFS_FS_SAMPLE_SIZES_H
#define MOEFS_FS_SAMPLE_SIZES_H

#include "layout/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct cJSON;

/* The value of one expression: sums of products of names and integers. */
int sample_sizes_evaluate(const struct cJSON *sizes, const char *expression, size_t length, uint64_t *value,
                          struct error *err);

/* Replaces every string "{expression}" in the tree by its value (an array's name alone: by the array). */
int sample_sizes_fill(const struct cJSON *sizes, struct cJSON *tree, struct error *err);

#endif
