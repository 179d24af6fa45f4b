/* The lines of the keys of a JSON text, for messages. */
#include "json_lines.h"
#include "layout/base/hash.h"
#include "json.h"

#include <stdio.h>
#include <string.h>

struct json_line {
    const char *keys; /* each key with KEY_END behind it; of an element of a list: its number */
    unsigned line;
    const struct json_line *next;
    UT_hash_handle hh; /* while reading */
};

/* No key of a layout holds it. */
#define KEY_END "\x1f"

struct line_reader {
    struct json_reader json;
    const char *file;
    struct arena *arena;
    struct json_line *by_keys;
    struct json_lines *lines;
    size_t counted; /* bytes of the text whose line ends are in `line` */
    unsigned line;
    struct error *err;
};

static unsigned line_here(struct line_reader *r, size_t at)
{
    for (; r->counted < at; r->counted++)
        r->line += r->json.text[r->counted] == '\n';
    return r->line;
}

static int next_token(struct line_reader *r, struct json_token *token)
{
    struct error cause = {0};
    const char *text;
    size_t length;

    if (json_next(&r->json, token, &cause) == 0 &&
        ((token->kind != JSON_KEY && token->kind != JSON_STRING) ||
         json_string(token, r->arena, &text, &length, &cause) == 0))
        return 0;
    error_set(r->err, "%s:%u: not valid JSON: %s", r->file, line_here(r, r->json.at), cause.text);
    error_free(&cause);
    return -1;
}

/* Notes `outer` with one more key. NULL when it is there already. */
static const char *note_key(struct line_reader *r, const char *outer, const char *key, size_t at)
{
    cleanup_free char *keys = xasprintf("%s%s" KEY_END, outer, key);
    struct json_line *line;

    HASH_FIND_STR(r->by_keys, keys, line);
    if (line) {
        error_set(r->err, "%s:%u: %s: is given twice", r->file, line_here(r, at), key);
        return NULL;
    }
    line = arena_alloc(r->arena, sizeof *line);
    *line = (struct json_line){
        .keys = arena_strdup(r->arena, keys), .line = line_here(r, at), .next = r->lines->last};
    r->lines->last = line;
    HASH_ADD_KEYPTR(hh, r->by_keys, line->keys, strlen(line->keys), line);
    return line->keys;
}

static int read_value(struct line_reader *r, const struct json_token *first, const char *keys);

static int read_object(struct line_reader *r, const char *outer)
{
    struct json_token token;
    const char *key, *keys;
    size_t length;

    for (;;) {
        if (next_token(r, &token) < 0)
            return -1;
        if (token.kind == JSON_OBJECT_END)
            return 0;
        json_string(&token, r->arena, &key, &length, r->err); /* next_token() has seen that it can be read */
        keys = note_key(r, outer, key, (size_t)(token.text - r->json.text));
        if (!keys || next_token(r, &token) < 0 || read_value(r, &token, keys) < 0)
            return -1;
    }
}

static int read_array(struct line_reader *r, const char *outer)
{
    struct json_token token;
    char number[24];

    for (unsigned n = 1;; n++) {
        if (next_token(r, &token) < 0)
            return -1;
        if (token.kind == JSON_ARRAY_END)
            return 0;
        snprintf(number, sizeof number, "%u", n);
        const char *keys = note_key(r, outer, number, r->json.at);
        if (!keys || read_value(r, &token, keys) < 0)
            return -1;
    }
}

static int read_value(struct line_reader *r, const struct json_token *first, const char *keys)
{
    if (first->kind == JSON_OBJECT_BEGIN)
        return read_object(r, keys);
    if (first->kind == JSON_ARRAY_BEGIN)
        return read_array(r, keys);
    return 0;
}

int json_lines_read(const char *file, const char *text, size_t length, struct arena *arena,
                    struct json_lines *lines, struct error *err)
{
    struct line_reader r = {.file = file, .arena = arena, .lines = lines, .line = 1, .err = err};
    struct json_token token;

    json_reader_init(&r.json, text, length);
    lines->last = NULL;
    int result = next_token(&r, &token);
    if (result == 0)
        result = read_value(&r, &token, "");
    if (result == 0)
        result = next_token(&r, &token); /* JSON_END, or malformed */
    HASH_CLEAR(hh, r.by_keys);
    return result;
}

/* The line of the keys, or of as many of the outer ones as are there. */
static unsigned find_line(const struct json_position *position)
{
    cleanup_free char *element = position->element ? xasprintf("%d" KEY_END, position->element) : xstrdup("");
    cleanup_free char *keys =
        xasprintf("%s%s%s%s%s", position->part ? position->part : "", position->part ? KEY_END : "",
                  position->key ? position->key : "", position->key ? KEY_END : "", element);
    size_t longest = 0;
    unsigned line = 1;

    for (const struct json_line *known = position->lines->last; known; known = known->next) {
        size_t length = strlen(known->keys);
        if (length > longest && strncmp(keys, known->keys, length) == 0) {
            longest = length;
            line = known->line;
        }
    }
    return line;
}

int json_malformed(const struct json_position *position, struct error *err, const char *what)
{
    cleanup_free char *keys =
        xasprintf("%s%s%s", position->part ? position->part : "", position->part && position->key ? "." : "",
                  position->key ? position->key : "");

    if (position->lines)
        return error_set(err, "%s:%u: %s%s%s", position->file, find_line(position), keys, *keys ? ": " : "",
                         what);
    return error_set(err, "%s: %s%s%s: %s", position->file, position->layout ? position->layout : "",
                     position->layout && *keys ? "." : "", keys, what);
}
