#include "rename.h"

#include <regex.h>
#include <string.h>

#include <utstring.h>

#define HOLES_MAX 8

struct hole {
    const char *word;
    size_t length;
};

struct rename {
    regex_t from;
    const char *to;
    struct hole holes[HOLES_MAX]; /* capture i + 1 is hole i */
    size_t n_holes;
};

struct renames {
    size_t n;
    struct rename list[];
};

/* The length of the hole at text ("{word}"), or 0. */
static size_t hole_at(const char *text, struct hole *hole)
{
    if (*text != '{')
        return 0;
    hole->word = text + 1;
    hole->length = strcspn(text + 1, "{}");
    return text[1 + hole->length] == '}' ? hole->length + 2 : 0;
}

static size_t find_hole(const struct rename *rename, const struct hole *hole)
{
    size_t i = 0;

    while (i < rename->n_holes && (rename->holes[i].length != hole->length ||
                                   memcmp(rename->holes[i].word, hole->word, hole->length) != 0))
        i++;
    return i;
}

/* The template as a regular expression, its holes as captures. */
static int compile_from(const char *from, struct rename *rename, struct error *err)
{
    UT_string pattern;
    struct hole hole;
    int result = 0;

    utstring_init(&pattern);
    utstring_printf(&pattern, "^");
    for (const char *at = from; *at && result == 0;) {
        size_t length = hole_at(at, &hole);
        if (length == 0 && (*at == '{' || *at == '}')) {
            result = error_set(err, "rename: \"%s\": a brace is not closed", from);
        } else if (length > 0 &&
                   (rename->n_holes == HOLES_MAX || find_hole(rename, &hole) < rename->n_holes)) {
            result = error_set(err, "rename: \"%s\": a hole twice, or more than %d", from, HOLES_MAX);
        } else if (length > 0) {
            bool text = hole.length == strlen("block") && memcmp(hole.word, "block", hole.length) == 0;
            utstring_printf(&pattern, "%s", text ? "(.+)" : "(0|[1-9][0-9]*)");
            rename->holes[rename->n_holes++] = hole;
            at += length;
        } else {
            utstring_printf(&pattern, "%s%c", strchr(".[]*^$\\+?()|", *at) ? "\\" : "", *at);
            at++;
        }
    }
    utstring_printf(&pattern, "$");
    if (result == 0 && regcomp(&rename->from, utstring_body(&pattern), REG_EXTENDED) != 0)
        result = error_set(err, "rename: \"%s\": cannot be matched", from);
    utstring_done(&pattern);
    return result;
}

/* Every hole of the target is one of the source's, and all of them are there. */
static int check_to(const char *from, const char *to, const struct rename *rename, struct error *err)
{
    struct hole hole;
    size_t n = 0;

    for (const char *at = to; *at; at++) {
        size_t length = hole_at(at, &hole);
        if (length == 0 && *at != '{' && *at != '}')
            continue;
        if (length == 0)
            return error_set(err, "rename: \"%s\": a brace is not closed", to);
        if (find_hole(rename, &hole) == rename->n_holes)
            return error_set(err, "rename: \"%s\" has no hole {%.*s} of \"%s\"", from, (int)hole.length,
                             hole.word, to);
        at += length - 1;
        n++;
    }
    if (n != rename->n_holes)
        return error_set(err, "rename: \"%s\" and \"%s\" do not have the same holes", from, to);
    return 0;
}

int renames_compile(const struct layout *layout, struct renames **renames, struct error *err)
{
    *renames = NULL;
    if (layout->n_renames == 0)
        return 0;
    struct renames *result = xcalloc(1, sizeof *result + layout->n_renames * sizeof *result->list);
    for (size_t i = 0; i < layout->n_renames; i++) {
        struct rename *rename = &result->list[i];
        rename->to = layout->rename[i][1];
        if (compile_from(layout->rename[i][0], rename, err) < 0) {
            renames_free(result);
            return -1;
        }
        result->n++;
        if (check_to(layout->rename[i][0], rename->to, rename, err) < 0) {
            renames_free(result);
            return -1;
        }
    }
    *renames = result;
    return 0;
}

void renames_free(struct renames *renames)
{
    for (size_t i = 0; renames && i < renames->n; i++)
        regfree(&renames->list[i].from);
    free(renames);
}

static const char *rename_format(const struct rename *rename, const char *name, const regmatch_t *matches,
                                 struct arena *arena)
{
    UT_string text;
    struct hole hole;

    utstring_init(&text);
    for (const char *at = rename->to; *at;) {
        size_t length = hole_at(at, &hole);
        if (length > 0) {
            const regmatch_t *match = &matches[1 + find_hole(rename, &hole)];
            utstring_bincpy(&text, name + match->rm_so, (size_t)(match->rm_eo - match->rm_so));
            at += length;
        } else {
            utstring_bincpy(&text, at, 1);
            at++;
        }
    }
    const char *result = arena_strndup(arena, utstring_body(&text), utstring_len(&text));
    utstring_done(&text);
    return result;
}

const char *renames_apply(const struct renames *renames, const char *name, struct arena *arena)
{
    regmatch_t matches[HOLES_MAX + 1];

    for (size_t i = 0; renames && i < renames->n; i++)
        if (regexec(&renames->list[i].from, name, HOLES_MAX + 1, matches, 0) == 0)
            return rename_format(&renames->list[i], name, matches, arena);
    return name;
}
