#include "axes.h"
#include "checked.h"

#include <string.h>

#include <utstring.h>

uint8_t axis_word(struct axis_words *words, const char *text, size_t length, struct arena *arena)
{
    for (uint8_t i = 0; i < words->n; i++)
        if (strlen(words->words[i]) == length && memcmp(words->words[i], text, length) == 0)
            return i;
    if (words->n == AXIS_WORDS_MAX)
        return AXIS_NONE;
    words->words[words->n] = arena_strndup(arena, text, length);
    return words->n++;
}

bool axes_contain(const struct axes *axes, uint8_t axis)
{
    for (uint8_t d = 0; d < axes->n_dims; d++)
        for (uint8_t i = 0; i < axes->dims[d].n; i++)
            if (axes->dims[d].axis[i] == axis)
                return true;
    return false;
}

static int axes_add(struct axes *axes, uint8_t dim, const char *word, size_t length, struct axis_words *words,
                    struct arena *arena, const char *text, struct error *err)
{
    uint8_t axis = axis_word(words, word, length, arena);

    if (axis == AXIS_NONE)
        return error_set(err, "axes \"%s\": more than %d different words", text, AXIS_WORDS_MAX);
    if (axes_contain(axes, axis))
        return error_set(err, "axes \"%s\": '%.*s' occurs twice", text, (int)length, word);
    if (axes->dims[dim].n == AXES_DIMS_MAX)
        return error_set(err, "axes \"%s\": more than %d axes in one dimension", text, AXES_DIMS_MAX);
    axes->dims[dim].axis[axes->dims[dim].n++] = axis;
    return 0;
}

int axes_parse(const char *text, struct axis_words *words, struct arena *arena, struct axes *axes,
               struct error *err)
{
    bool inside = false;

    *axes = (struct axes){0};
    for (const char *at = text; *at;) {
        size_t length = strspn(at, "abcdefghijklmnopqrstuvwxyz_");
        if (*at == ' ') {
            at++;
        } else if (*at == '(' && !inside) {
            if (axes->n_dims == AXES_DIMS_MAX)
                return error_set(err, "axes \"%s\": more than %d dimensions", text, AXES_DIMS_MAX);
            axes->n_dims++;
            inside = true;
            at++;
        } else if (*at == ')' && inside && axes->dims[axes->n_dims - 1].n > 0) {
            inside = false;
            at++;
        } else if (length > 0) {
            if (!inside && axes->n_dims == AXES_DIMS_MAX)
                return error_set(err, "axes \"%s\": more than %d dimensions", text, AXES_DIMS_MAX);
            if (!inside)
                axes->n_dims++;
            if (axes_add(axes, (uint8_t)(axes->n_dims - 1), at, length, words, arena, text, err) < 0)
                return -1;
            at += length;
        } else {
            return error_set(err, "axes \"%s\": unexpected '%c' at column %td", text, *at, at - text + 1);
        }
    }
    if (inside)
        return error_set(err, "axes \"%s\": a parenthesis is not closed", text);
    return 0;
}

static uint64_t axis_size(uint8_t axis, const uint64_t sizes[AXIS_WORDS_MAX], unsigned n_projs)
{
    return axis == AXIS_PROJ ? n_projs : sizes[axis];
}

static int dim_contradicts(const struct axes *axes, uint8_t d, const struct axis_words *words,
                           uint64_t extent, const uint64_t sizes[AXIS_WORDS_MAX], unsigned n_projs,
                           struct error *err)
{
    UT_string *product;

    utstring_new(product);
    for (uint8_t i = 0; i < axes->dims[d].n; i++) {
        uint8_t axis = axes->dims[d].axis[i];
        uint64_t size = axis_size(axis, sizes, n_projs);
        utstring_printf(product, "%s%s", i ? " x " : "", words->words[axis]);
        if (size > 0)
            utstring_printf(product, " %llu", (unsigned long long)size);
    }
    error_set(err, "dimension %u is %llu, not %s", d, (unsigned long long)extent, utstring_body(product));
    utstring_free(product);
    return -1;
}

int axes_solve(const struct axes *axes, const struct axis_words *words, const uint64_t *shape, uint8_t n_dims,
               unsigned n_projs, uint64_t sizes[AXIS_WORDS_MAX], bool *solved, struct error *err)
{
    if (n_dims != axes->n_dims)
        return error_set(err, "%u dimensions, not %u", n_dims, axes->n_dims);
    for (uint8_t d = 0; d < axes->n_dims; d++) {
        uint64_t known = 1;
        unsigned n_unknown = 0;
        uint8_t unknown = 0;

        if (shape[d] == 0)
            return error_set(err, "dimension %u is 0", d);
        for (uint8_t i = 0; i < axes->dims[d].n; i++) {
            uint8_t axis = axes->dims[d].axis[i];
            uint64_t size = axis_size(axis, sizes, n_projs);
            if (size == 0) {
                unknown = axis;
                n_unknown++;
            } else if (!checked_mul(known, size, &known)) {
                return dim_contradicts(axes, d, words, shape[d], sizes, n_projs, err);
            }
        }
        if (n_unknown == 0 ? known != shape[d] : shape[d] % known != 0)
            return dim_contradicts(axes, d, words, shape[d], sizes, n_projs, err);
        if (n_unknown == 1) {
            sizes[unknown] = shape[d] / known;
            *solved = true;
        }
    }
    return 0;
}

void axes_strides(const struct axes *axes, const uint64_t sizes[AXIS_WORDS_MAX], unsigned n_projs,
                  uint64_t strides[AXIS_WORDS_MAX])
{
    uint64_t stride = 1;

    memset(strides, 0, AXIS_WORDS_MAX * sizeof *strides);
    for (unsigned d = axes->n_dims; d-- > 0;)
        for (unsigned i = axes->dims[d].n; i-- > 0;) {
            uint8_t axis = axes->dims[d].axis[i];
            strides[axis] = stride;
            stride *= axis_size(axis, sizes, n_projs);
        }
}

bool axes_shape(const struct axes *axes, const uint64_t sizes[AXIS_WORDS_MAX], unsigned n_projs,
                uint64_t shape[AXES_DIMS_MAX])
{
    for (uint8_t d = 0; d < axes->n_dims; d++) {
        shape[d] = 1;
        for (uint8_t i = 0; i < axes->dims[d].n; i++)
            if (!checked_mul(shape[d], axis_size(axes->dims[d].axis[i], sizes, n_projs), &shape[d]))
                return false;
    }
    return true;
}
