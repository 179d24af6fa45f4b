/* Name templates: parsing, matching from the right, and making names. */
#include "template.h"
#include "layout/base/checked.h"

#include <string.h>

#include <utstring.h>

#define BLOCK_HOLE "{block}"
#define WEIGHT_SUFFIX ".weight"
#define AXIS_LETTERS "abcdefghijklmnopqrstuvwxyz_"

/* A word that can be an axis in a name; `proj` and `block` are none. */
static bool is_axis(const char *word, size_t length)
{
    size_t letters = 0;

    while (letters < length && strchr(AXIS_LETTERS "0123456789", word[letters]))
        letters++;
    return length > 0 && letters == length && strchr(AXIS_LETTERS, *word) &&
           !(length == 4 && memcmp(word, "proj", 4) == 0) && !(length == 5 && memcmp(word, "block", 5) == 0);
}

/* What stands between the braces: an axis, the enumerated axis, or both. */
static int parse_hole(const char *text, const char *word, size_t length, struct axis_words *words,
                      struct arena *arena, struct name_template *result, struct error *err)
{
    struct template_hole *hole = &result->holes[result->n_holes];
    const struct enumeration *enumeration = result->enumeration;
    const char *space = memchr(word, ' ', length);
    size_t first = space ? (size_t)(space - word) : length;

    if (!is_axis(word, first) || (space && !is_axis(space + 1, length - first - 1)))
        return error_set(err, "name \"%s\": '%.*s' is not an axis", text, (int)length, word);
    uint8_t axis = axis_word(words, word, first, arena);
    if (result->n_holes == TEMPLATE_HOLES_MAX)
        return error_set(err, "name \"%s\": more than %d holes besides {block}", text, TEMPLATE_HOLES_MAX);
    *hole = (struct template_hole){.kind = HOLE_INTEGER, .axis = axis};
    if (enumeration && enumeration->n > 0 && axis == enumeration->axis)
        hole->kind = space ? HOLE_COMPOSITE : HOLE_WORD;
    else if (space)
        return error_set(err, "name \"%s\": '%.*s' has no list of words", text, (int)first, word);
    if (space)
        hole->axis = axis_word(words, space + 1, length - first - 1, arena);
    if (axis == AXIS_NONE || hole->axis == AXIS_NONE)
        return error_set(err, "name \"%s\": '%.*s' is not an axis, or is one axis too many", text,
                         (int)length, word);
    result->n_holes++;
    return 0;
}

/* tail: the length of what follows the last hole. */
static int check_holes(const struct name_template *t, size_t tail, struct error *err)
{
    unsigned integers = 0;

    for (unsigned i = 0; i < t->n_holes; i++)
        integers += t->holes[i].kind != HOLE_WORD;
    if (t->n_holes == 0 && tail == 0)
        return error_set(err, "name \"%s\" is nothing but {block}", t->text);
    if (integers > 1)
        return error_set(err, "name \"%s\" has two integers; one is supported", t->text);
    return t->n_holes - integers > 1 ? error_set(err, "name \"%s\" has a word twice", t->text) : 0;
}

int template_parse(const char *text, const struct enumeration *enumeration, struct axis_words *words,
                   struct arena *arena, struct name_template *result, struct error *err)
{
    const char *copy = arena_strdup(arena, text);
    const char *at = copy + strlen(BLOCK_HOLE);

    if (strncmp(copy, BLOCK_HOLE, strlen(BLOCK_HOLE)) != 0)
        return error_set(err, "name \"%s\" does not begin with {block}", text);
    *result = (struct name_template){.text = copy, .enumeration = enumeration};
    for (;;) {
        size_t length = strcspn(at, "{}");
        result->literals[result->n_holes].text = at;
        result->literals[result->n_holes].length = length;
        if (length == 0 && at[length] != '\0')
            return error_set(err, "name \"%s\": two holes touch", text);
        if (at[length] == '\0')
            return check_holes(result, length, err);
        size_t word = strcspn(at + length + 1, "{}");
        if (at[length] != '{' || at[length + 1 + word] != '}' || word == 0)
            return error_set(err, "name \"%s\": a brace is not closed", text);
        if (parse_hole(text, at + length + 1, word, words, arena, result, err) < 0)
            return -1;
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

static bool take_word(const struct enumeration *enumeration, const char *name, size_t *end, uint64_t *value)
{
    for (*value = 0; *value < enumeration->n; ++*value)
        if (take_literal(enumeration->words[*value], strlen(enumeration->words[*value]), name, end))
            return true;
    return false;
}

static bool match_with_tail(const struct name_template *t, size_t tail_length, const char *name,
                            size_t length, struct name_match *match)
{
    size_t end = length;

    if (!take_literal(t->literals[t->n_holes].text, tail_length, name, &end))
        return false;
    for (unsigned i = t->n_holes; i-- > 0;) {
        bool taken = t->holes[i].kind == HOLE_WORD ? take_word(t->enumeration, name, &end, &match->values[i])
                                                   : take_integer(name, &end, &match->values[i]);
        if (!taken || !take_literal(t->literals[i].text, t->literals[i].length, name, &end))
            return false;
    }
    match->block_length = end;
    return end > 0;
}

bool template_match(const struct name_template *t, const char *name, size_t length, struct name_match *match)
{
    return match_with_tail(t, t->literals[t->n_holes].length, name, length, match);
}

size_t template_stem_length(const char *name)
{
    size_t length = strlen(name), suffix = strlen(WEIGHT_SUFFIX);

    return length > suffix && strcmp(name + length - suffix, WEIGHT_SUFFIX) == 0 ? length - suffix : length;
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
        if (t->holes[i].kind == HOLE_WORD)
            utstring_printf(&name, "%s", t->enumeration->words[values[i]]);
        else
            utstring_printf(&name, "%llu", (unsigned long long)values[i]);
        utstring_bincpy(&name, t->literals[i + 1].text, t->literals[i + 1].length);
    }
    const char *copy = arena_strndup(arena, utstring_body(&name), utstring_len(&name));
    utstring_done(&name);
    return copy;
}

const char *template_name(const struct name_template *t, const char *block, uint8_t word,
                          const uint64_t sizes[AXIS_WORDS_MAX], uint64_t value, struct arena *arena)
{
    uint64_t values[TEMPLATE_HOLES_MAX] = {0};

    for (unsigned h = 0; h < t->n_holes; h++)
        switch (t->holes[h].kind) {
        case HOLE_WORD:
            values[h] = word;
            break;
        case HOLE_INTEGER:
            values[h] = value;
            break;
        case HOLE_COMPOSITE:
            values[h] = word * sizes[t->holes[h].axis] + value;
            break;
        }
    return template_format(t, block, values, arena);
}

int template_integer_hole(const struct name_template *t)
{
    for (int i = 0; i < t->n_holes; i++)
        if (t->holes[i].kind != HOLE_WORD)
            return i;
    return -1;
}

int template_word_hole(const struct name_template *t)
{
    for (int i = 0; i < t->n_holes; i++)
        if (t->holes[i].kind != HOLE_INTEGER)
            return i;
    return -1;
}
