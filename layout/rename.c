/* A layout's pairs of templates, compiled to regular expressions. */
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
    struct renames *forward; /* of a way back: the way there; else NULL */
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
    return hole->length > 0 && text[1 + hole->length] == '}' ? hole->length + 2 : 0;
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
    bool behind_hole = false;
    int result = 0;

    utstring_init(&pattern);
    utstring_printf(&pattern, "^");
    for (const char *at = from; *at && result == 0;) {
        size_t length = hole_at(at, &hole);
        if (length == 0 && (*at == '{' || *at == '}')) {
            result = error_set(err, "rename: \"%s\": a brace is not closed", from);
        } else if (length > 0 &&
                   (rename->n_holes == HOLES_MAX || find_hole(rename, &hole) < rename->n_holes)) {
            result = error_set(err, "rename: \"%s\": a hole is given twice, or there are more than %d", from,
                               HOLES_MAX);
        } else if (length > 0 && behind_hole) {
            result = error_set(err, "rename: \"%s\": two holes touch", from);
        } else if (length > 0) {
            bool text = hole.length == strlen("block") && memcmp(hole.word, "block", hole.length) == 0;
            utstring_printf(&pattern, "%s", text ? "(.+)" : "(0|[1-9][0-9]*)");
            rename->holes[rename->n_holes++] = hole;
            at += length;
        } else {
            utstring_printf(&pattern, "%s%c", strchr(".[]*^$\\+?()|", *at) ? "\\" : "", *at);
            at++;
        }
        behind_hole = length > 0;
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
        if (at[1] == '{')
            return error_set(err, "rename: \"%s\": two holes touch", to);
        n++;
    }
    if (n != rename->n_holes)
        return error_set(err, "rename: \"%s\" and \"%s\" do not have the same holes", from, to);
    return 0;
}

static int compile_pair(const char *from, const char *to, struct renames *renames, struct error *err)
{
    struct rename *rename = &renames->list[renames->n];

    rename->to = to;
    if (compile_from(from, rename, err) < 0)
        return -1;
    renames->n++; /* from here on there is a regular expression to free */
    return check_to(from, to, rename, err);
}

static struct renames *compile_all(const struct layout *layout, bool back, struct error *err)
{
    struct renames *renames = xcalloc(1, sizeof *renames + layout->n_renames * sizeof *renames->list);

    for (size_t i = 0; i < layout->n_renames; i++)
        if (compile_pair(layout->rename[i][back], layout->rename[i][!back], renames, err) < 0) {
            renames_free(renames);
            return NULL;
        }
    return renames;
}

int renames_compile(const struct layout *layout, struct renames **renames, struct error *err)
{
    *renames = compile_all(layout, false, err);
    return *renames ? 0 : -1;
}

int renames_compile_back(const struct layout *layout, struct renames **renames, struct error *err)
{
    *renames = compile_all(layout, true, err);
    if (!*renames)
        return -1;
    (*renames)->forward = compile_all(layout, false, err);
    if ((*renames)->forward)
        return 0;
    renames_free(*renames);
    *renames = NULL;
    return -1;
}

void renames_free(struct renames *renames)
{
    if (!renames)
        return;
    for (size_t i = 0; i < renames->n; i++)
        regfree(&renames->list[i].from);
    renames_free(renames->forward);
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

    for (size_t i = 0; renames && i < renames->n; i++) {
        if (regexec(&renames->list[i].from, name, HOLES_MAX + 1, matches, 0) != 0)
            continue;
        const char *result = rename_format(&renames->list[i], name, matches, arena);
        if (!renames->forward || strcmp(renames_apply(renames->forward, result, arena), name) == 0)
            return result;
    }
    return name;
}
