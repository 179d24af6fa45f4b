/* Axis expressions: which coordinate lies in which dimension of a tensor (einops' notation).
 *
 *     axes := dim*    dim := word | "(" word+ ")"      left is outer, row-major; "" is a scalar
 *
 * A coordinate is a word. `proj` is the position among the projections that the tensor holds; every other
 * word (`expert`, `inner`, `hidden`, ...) is an axis whose size is one number for a whole group of tensors. */
#ifndef MOEFS_LAYOUT_AXES_H
#define MOEFS_LAYOUT_AXES_H

#include "layout/base/error.h"
#include "layout/base/memory.h"

#include <stdbool.h>
#include <stdint.h>

#define AXIS_WORDS_MAX 24 /* different axes in all layouts together */
#define AXES_DIMS_MAX 6
#define AXIS_PROJ 0 /* the number of the word `proj`: it is in every table of words */
#define AXIS_NONE UINT8_MAX

/* The axes of all layouts, numbered as they occur. */
struct axis_words {
    const char *words[AXIS_WORDS_MAX]; /* as written: "inner", "inner/128", "16" */
    uint8_t base[AXIS_WORDS_MAX];      /* of "inner/128": inner; otherwise AXIS_NONE */
    uint64_t number[AXIS_WORDS_MAX];   /* of "inner/128" and of "16": the number; otherwise 0 */
    uint8_t n;
};

struct axes {
    uint8_t n_dims;
    struct {
        uint8_t n;
        uint8_t axis[AXES_DIMS_MAX]; /* outer to inner */
    } dims[AXES_DIMS_MAX];
};

/* Makes the table with `proj` in it. */
void axis_words_init(struct axis_words *words);

/* The number of an axis, added where it is new: letters, digits and "_", then perhaps "/" and a number.
 * AXIS_NONE when it is malformed or the table is full. */
uint8_t axis_word(struct axis_words *words, const char *text, size_t length, struct arena *arena);

/* The number of a word that is there, or AXIS_NONE. */
uint8_t axis_find(const struct axis_words *words, const char *text);

/* The size of an axis: 0 where it is not known. */
uint64_t axis_size(const struct axis_words *words, uint8_t axis, const uint64_t sizes[AXIS_WORDS_MAX],
                   unsigned n_projs);

/* Parses an expression. A word given twice in one expression is refused. */
int axes_parse(const char *text, struct axis_words *words, struct arena *arena, struct axes *axes,
               struct error *err);

bool axes_contain(const struct axes *axes, uint8_t axis);

/* Narrows sizes[] by a tensor's shape: each dimension's extent is the product of its axes' sizes. sizes[a] ==
 * 0 means unknown; n_projs is the size of `proj`. Solves dimensions with one unknown by exact division;
 * *solved is set when one was found. -1 when the shape contradicts the sizes: *err says how, in words
 * ("dimension 1 holds 7, not proj 2 x inner 5"). */
int axes_solve(const struct axes *axes, const struct axis_words *words, const uint64_t *shape, uint8_t n_dims,
               unsigned n_projs, uint64_t sizes[AXIS_WORDS_MAX], bool *solved, struct error *err);

/* The row-major stride of each axis of the expression, in elements; 0 for axes that are not in it.
 * sizes[] holds every axis but proj. Overflow is impossible for shapes that were checked as tensors. */
void axes_strides(const struct axes *axes, const struct axis_words *words,
                  const uint64_t sizes[AXIS_WORDS_MAX], unsigned n_projs, uint64_t strides[AXIS_WORDS_MAX]);

/* The shape that the sizes give: n_dims numbers. False on overflow. */
bool axes_shape(const struct axes *axes, const struct axis_words *words, const uint64_t sizes[AXIS_WORDS_MAX],
                unsigned n_projs, uint64_t shape[AXES_DIMS_MAX]);

/* The expression as text, in the arena: for messages and `moefs layouts`. */
const char *axes_text(const struct axes *axes, const struct axis_words *words, struct arena *arena);

#endif
