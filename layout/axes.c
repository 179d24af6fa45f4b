/* Axis expressions: parsing them, solving sizes from shapes, strides. */
#include "axes.h"
#include "layout/base/checked.h"

#include <string.h>

#include <utstring.h>

#define WORD_CHARACTERS "abcdefghijklmnopqrstuvwxyz_0123456789"
#define DIGITS "0123456789"

void axis_words_init(struct axis_words *words)
{
    *words = (struct axis_words){.words = {"proj"}, .base = {AXIS_NONE}, .n = 1};
}

/* Digits and nothing else: a positive number that fits. */
static bool parse_number(const char *text, size_t length, uint64_t *number)
{
    *number = 0;
    for (size_t i = 0; i < length; i++)
        if (text[i] < '0' || text[i] > '9' || !checked_mul(*number, 10, number) ||
            !checked_add(*number, (uint64_t)(text[i] - '0'), number))
            return false;
    return *number > 0;
}

uint8_t axis_word(struct axis_words *words, const char *text, size_t length, struct arena *arena)
{
    const char *slash = memchr(text, '/', length);
    uint8_t base = AXIS_NONE;
    uint64_t number = 0;

    for (uint8_t i = 0; i < words->n; i++)
        if (strlen(words->words[i]) == length && memcmp(words->words[i], text, length) == 0)
            return i;
    if (slash && !parse_number(slash + 1, length - (size_t)(slash + 1 - text), &number))
        return AXIS_NONE;
    if (slash)
        base = axis_word(words, text, (size_t)(slash - text), arena);
    else if (*text >= '0' && *text <= '9' && !parse_number(text, length, &number))
        return AXIS_NONE;
    if (words->n == AXIS_WORDS_MAX || (slash && base == AXIS_NONE))
        return AXIS_NONE;
    words->words[words->n] = arena_strndup(arena, text, length);
    words->base[words->n] = base;
    words->number[words->n] = number;
    return words->n++;
}

uint8_t axis_find(const struct axis_words *words, const char *text)
{
    for (uint8_t i = 0; i < words->n; i++)
        if (strcmp(words->words[i], text) == 0)
            return i;
    return AXIS_NONE;
}

uint64_t axis_size(const struct axis_words *words, uint8_t axis, const uint64_t sizes[AXIS_WORDS_MAX],
                   unsigned n_projs)
{
    uint64_t number = words->number[axis];

    if (axis == AXIS_PROJ)
        return n_projs;
    if (words->base[axis] != AXIS_NONE && sizes[words->base[axis]] > 0)
        return (sizes[words->base[axis]] - 1) / number + 1;
    return words->base[axis] == AXIS_NONE && number > 0 ? number : sizes[axis];
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

    if (axis == AXIS_NONE && words->n == AXIS_WORDS_MAX)
        return error_set(err, "axes \"%s\": '%.*s' is one axis too many: at most %d in all layouts together",
                         text, (int)length, word, AXIS_WORDS_MAX - 1);
    if (axis == AXIS_NONE)
        return error_set(err, "axes \"%s\": '%.*s' is malformed", text, (int)length, word);
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
        size_t length = strspn(at, WORD_CHARACTERS);
        if (length > 0 && at[length] == '/')
            length += 1 + strspn(at + length + 1, DIGITS);
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

static int dim_contradicts(const struct axes *axes, uint8_t d, const struct axis_words *words,
                           uint64_t extent, const uint64_t sizes[AXIS_WORDS_MAX], unsigned n_projs,
                           struct error *err)
{
    UT_string *product;

    utstring_new(product);
    for (uint8_t i = 0; i < axes->dims[d].n; i++) {
        uint8_t axis = axes->dims[d].axis[i];
        uint64_t size = axis_size(words, axis, sizes, n_projs);
        utstring_printf(product, "%s%s", i ? " x " : "", words->words[axis]);
        if (size > 0 && words->number[axis] != size)
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
            uint64_t size = axis_size(words, axis, sizes, n_projs);
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

void axes_strides(const struct axes *axes, const struct axis_words *words,
                  const uint64_t sizes[AXIS_WORDS_MAX], unsigned n_projs, uint64_t strides[AXIS_WORDS_MAX])
{
    uint64_t stride = 1;

    memset(strides, 0, AXIS_WORDS_MAX * sizeof *strides);
    for (unsigned d = axes->n_dims; d-- > 0;)
        for (unsigned i = axes->dims[d].n; i-- > 0;) {
            uint8_t axis = axes->dims[d].axis[i];
            strides[axis] = stride;
            stride *= axis_size(words, axis, sizes, n_projs);
        }
}

bool axes_shape(const struct axes *axes, const struct axis_words *words, const uint64_t sizes[AXIS_WORDS_MAX],
                unsigned n_projs, uint64_t shape[AXES_DIMS_MAX])
{
    for (uint8_t d = 0; d < axes->n_dims; d++) {
        shape[d] = 1;
        for (uint8_t i = 0; i < axes->dims[d].n; i++)
            if (!checked_mul(shape[d], axis_size(words, axes->dims[d].axis[i], sizes, n_projs), &shape[d]))
                return false;
    }
    return true;
}

const char *axes_text(const struct axes *axes, const struct axis_words *words, struct arena *arena)
{
    UT_string text;

    utstring_init(&text);
    for (uint8_t d = 0; d < axes->n_dims; d++) {
        utstring_printf(&text, "%s%s", d ? " " : "", axes->dims[d].n > 1 ? "(" : "");
        for (uint8_t i = 0; i < axes->dims[d].n; i++)
            utstring_printf(&text, "%s%s", i ? " " : "", words->words[axes->dims[d].axis[i]]);
        utstring_printf(&text, "%s", axes->dims[d].n > 1 ? ")" : "");
    }
    const char *copy = arena_strndup(arena, utstring_body(&text), utstring_len(&text));
    utstring_done(&text);
    return copy;
}
