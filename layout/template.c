#include "template.h"
#include "checked.h"

#include <string.h>

#include <utstring.h>

#define BLOCK_HOLE "{block}"
#define WEIGHT_SUFFIX ".weight"

int template_parse(const char *text, struct axis_words *words, struct arena *arena,
                   struct name_template *result, struct error *err)
{
    const char *copy = arena_strdup(arena, text);
    const char *at = copy + strlen(BLOCK_HOLE);

    if (strncmp(copy, BLOCK_HOLE, strlen(BLOCK_HOLE)) != 0)
        return error_set(err, "name \"%s\" does not begin with {block}", text);
    *result = (struct name_template){.text = copy};
    for (;;) {
        size_t length = strcspn(at, "{}");
        result->literals[result->n_holes].text = at;
        result->literals[result->n_holes].length = length;
        if (length == 0 && at[length] != '\0')
            return error_set(err, "name \"%s\": two holes touch", text);
        if (at[length] == '\0')
            return length || result->n_holes ? 0 : error_set(err, "name \"%s\" is nothing but {block}", text);
        size_t word = strcspn(at + length + 1, "{}");
        if (at[length] != '{' || at[length + 1 + word] != '}' || word == 0)
            return error_set(err, "name \"%s\": a brace is not closed", text);
        if (result->n_holes == TEMPLATE_HOLES_MAX)
            return error_set(err, "name \"%s\": more than %d holes besides {block}", text,
                             TEMPLATE_HOLES_MAX);
        uint8_t axis = axis_word(words, at + length + 1, word, arena);
        if (axis == AXIS_NONE)
            return error_set(err, "name \"%s\": too many different words", text);
        result->holes[result->n_holes++] = axis;
        at += length + word + 2;
    }
}

static bool take_literal(const char *literal, size_t literal_length, const char *name, size_t *end)
{
    if (*end < literal_length || memcmp(name + *end - literal_length, literal, literal_length) != 0)
        return false;
    *end -= literal_length;
    return true;
}

static bool take_integer(const char *name, size_t *end, uint64_t *value)
{
    size_t begin = *end;

    while (begin > 0 && name[begin - 1] >= '0' && name[begin - 1] <= '9')
        begin--;
    if (begin == *end || (name[begin] == '0' && *end - begin > 1))
        return false;
    *value = 0;
    for (size_t i = begin; i < *end; i++)
        if (!checked_mul(*value, 10, value) || !checked_add(*value, (uint64_t)(name[i] - '0'), value))
            return false;
    *end = begin;
    return true;
}

static bool match_with_tail(const struct name_template *t, size_t tail_length, const char *name,
                            size_t length, struct name_match *match)
{
    size_t end = length;

    if (!take_literal(t->literals[t->n_holes].text, tail_length, name, &end))
        return false;
    for (unsigned i = t->n_holes; i-- > 0;)
        if (!take_integer(name, &end, &match->values[i]) ||
            !take_literal(t->literals[i].text, t->literals[i].length, name, &end))
            return false;
    match->block_length = end;
    return end > 0;
}

bool template_match(const struct name_template *t, const char *name, size_t length, struct name_match *match)
{
    return match_with_tail(t, t->literals[t->n_holes].length, name, length, match);
}

bool template_match_stem(const struct name_template *t, const char *stem, size_t length,
                         struct name_match *match)
{
    const char *tail = t->literals[t->n_holes].text;
    size_t tail_length = t->literals[t->n_holes].length;
    size_t suffix = strlen(WEIGHT_SUFFIX);

    if (tail_length > suffix && memcmp(tail + tail_length - suffix, WEIGHT_SUFFIX, suffix) == 0)
        tail_length -= suffix;
    return match_with_tail(t, tail_length, stem, length, match);
}

const char *template_format(const struct name_template *t, const char *block, const uint64_t *values,
                            struct arena *arena)
{
    UT_string name;

    utstring_init(&name);
    utstring_bincpy(&name, block, strlen(block));
    utstring_bincpy(&name, t->literals[0].text, t->literals[0].length);
    for (unsigned i = 0; i < t->n_holes; i++) {
        utstring_printf(&name, "%llu", (unsigned long long)values[i]);
        utstring_bincpy(&name, t->literals[i + 1].text, t->literals[i + 1].length);
    }
    const char *copy = arena_strndup(arena, utstring_body(&name), utstring_len(&name));
    utstring_done(&name);
    return copy;
}
