/* What two config.json say, as flat lists of dotted paths and values. */
#include "config_keys.h"

#include "layout/base/embedded.h"
#include "layout/base/hash.h"
#include "layout/base/memory.h"
#include "layout/format/json.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include <utstring.h>

/* One value that is no object: "text_config.hidden_act" is "\"silu\"". */
struct value {
    const char *path, *text; /* path: as the other spellings of the key are compared */
    bool seen;
    bool contradicts; /* another spelling of the key, which has another value */
    UT_hash_handle hh;
};

struct values {
    struct arena arena;
    struct value *list; /* in the order of the file */
};

/* ---- spellings ---- */

static const cJSON *member(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* Where the keys `wanted` ("rope_parameters.rope_theta") stand in the path, as whole keys; or NULL. */
static const char *find_keys(const char *path, const char *wanted)
{
    const size_t length = strlen(wanted);

    for (const char *at = path; (at = strstr(at, wanted)); at++)
        if ((at == path || at[-1] == '.') && (at[length] == '.' || !at[length]))
            return at;
    return NULL;
}

/* The path in the one spelling under which releases' keys are compared. */
static char *usual_spelling(const cJSON *data, const char *path)
{
    char *result = xstrdup(path);
    const cJSON *pair;

    cJSON_ArrayForEach (pair, member(data, "same")) {
        const char *from = cJSON_GetArrayItem(pair, 0)->valuestring;
        const char *at = find_keys(result, from);
        if (!at)
            continue;
        char *changed = xasprintf("%.*s%s%s", (int)(at - result), result,
                                  cJSON_GetArrayItem(pair, 1)->valuestring, at + strlen(from));
        free(result);
        result = changed;
    }
    return result;
}

static const char *last_key(const char *path)
{
    const char *dot = strrchr(path, '.');

    return dot ? dot + 1 : path;
}

static bool is_ignored(const cJSON *data, const char *path)
{
    return member(member(data, "ignored"), last_key(path)) != NULL;
}

/* Whether the key's presence alone changes what is loaded. */
static bool is_decisive(const cJSON *data, const char *path)
{
    const cJSON *key;

    cJSON_ArrayForEach (key, member(data, "decisive"))
        if (find_keys(path, key->valuestring))
            return true;
    return false;
}

/* Whether the value says as little as the key's absence. */
static bool is_nothing(const cJSON *data, const struct value *value)
{
    static const char *const empty[] = {"null", "{}", "[]"};
    const cJSON *entry;

    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++)
        if (strcmp(value->text, empty[i]) == 0)
            return true;
    cJSON_ArrayForEach (entry, member(data, "nothing")) {
        const size_t length = strlen(entry->valuestring);
        const char *at = find_keys(value->path, entry->string);
        if (at && !at[strlen(entry->string)] && strlen(value->text) == length + 2 &&
            strncmp(value->text + 1, entry->valuestring, length) == 0)
            return true;
    }
    return false;
}

/* ---- reading ---- */

static void add_value(struct values *values, const cJSON *data, const char *path, const char *text)
{
    cleanup_free char *usual = usual_spelling(data, path);
    struct value *value;

    HASH_FIND(hh, values->list, usual, strlen(usual), value);
    /* Both spellings, and they contradict each other: each is compared under its own name. */
    const bool contradicts = value && strcmp(usual, path) != 0 && strcmp(value->text, text) != 0;
    if (contradicts) {
        HASH_FIND(hh, values->list, path, strlen(path), value);
        free(usual);
        usual = xstrdup(path);
    }
    if (value) { /* a key that is given twice: the last one counts, as in Python */
        value->text = arena_strdup(&values->arena, text);
        return;
    }
    value = arena_alloc(&values->arena, sizeof *value);
    *value = (struct value){.contradicts = contradicts,
                            .path = arena_strdup(&values->arena, usual),
                            .text = arena_strdup(&values->arena, text)};
    HASH_ADD_KEYPTR(hh, values->list, value->path, strlen(value->path), value);
}

/* 1000000, 1e6 and 1000000.0 are one number; integers too large for a double stay as they are written. */
static void print_number(UT_string *out, const struct json_token *token)
{
    cleanup_free char *text = xstrndup(token->text, token->length);
    const double number = strtod(text, NULL);

    if (number > -1e15 && number < 1e15 && number == (double)(int64_t)number)
        utstring_printf(out, "%lld", (long long)number);
    else if (strpbrk(text, ".eE") && number == number)
        utstring_printf(out, "%.17g", number);
    else
        utstring_printf(out, "%s", text);
}

/* The value that begins with the token, as JSON in one spelling. */
static int print_value(struct json_reader *reader, const struct json_token *first, UT_string *out,
                       struct error *err)
{
    struct json_token token = *first;
    unsigned depth = 0;

    for (bool comma = false;; comma = true) {
        const bool ends = token.kind == JSON_ARRAY_END || token.kind == JSON_OBJECT_END;
        if (comma && !ends && utstring_len(out) > 0 &&
            !strchr("[{:", utstring_body(out)[utstring_len(out) - 1]))
            utstring_printf(out, ", ");
        depth += token.kind == JSON_ARRAY_BEGIN || token.kind == JSON_OBJECT_BEGIN;
        depth -= ends;
        if (token.kind == JSON_NUMBER)
            print_number(out, &token);
        else if (token.kind == JSON_STRING || token.kind == JSON_KEY)
            utstring_printf(out, "\"%.*s\"%s", (int)token.length, token.text,
                            token.kind == JSON_KEY ? ":" : "");
        else
            utstring_printf(out, "%s",
                            token.kind == JSON_ARRAY_BEGIN    ? "["
                            : token.kind == JSON_ARRAY_END    ? "]"
                            : token.kind == JSON_OBJECT_BEGIN ? "{"
                            : token.kind == JSON_OBJECT_END   ? "}"
                            : token.kind == JSON_TRUE         ? "true"
                            : token.kind == JSON_FALSE        ? "false"
                                                              : "null");
        if (depth == 0)
            return 0;
        if (json_next(reader, &token, err) < 0)
            return -1;
    }
}

/* The path of a key: in quotes where it holds a dot itself. */
static void append_key(UT_string *path, const struct json_token *key)
{
    const char *quote = memchr(key->text, '.', key->length) ? "\"" : "";

    utstring_printf(path, "%s%s%.*s%s", utstring_len(path) > 0 ? "." : "", quote, (int)key->length, key->text,
                    quote);
}

static void cut(UT_string *text, size_t length)
{
    text->i = length;
    text->d[length] = '\0';
}

static int read_values(const struct config_text *config, const cJSON *data, struct values *values,
                       UT_string *path, UT_string *text, struct error *err)
{
    struct json_reader reader;
    struct json_token token;
    size_t ends[JSON_DEPTH_MAX + 1] = {0}; /* of the path, in each object */
    unsigned depth = 0;

    json_reader_init(&reader, config->text, config->length);
    reader.accept_nan = true;
    for (bool filled = false;;) {
        if (json_next(&reader, &token, err) < 0)
            return -1;
        if (token.kind == JSON_END)
            return 0;
        if (token.kind == JSON_KEY) {
            cut(path, ends[depth]);
            append_key(path, &token);
            filled = true;
        } else if (token.kind == JSON_OBJECT_BEGIN) {
            ends[++depth] = utstring_len(path);
            filled = false;
        } else if (token.kind == JSON_OBJECT_END) {
            cut(path, ends[depth--]);
            if (!filled)
                add_value(values, data, utstring_body(path), "{}");
            filled = true;
        } else {
            cut(text, 0);
            if (print_value(&reader, &token, text, err) < 0)
                return -1;
            add_value(values, data, utstring_body(path), utstring_body(text));
        }
    }
}

static int flatten(const struct config_text *config, const cJSON *data, struct values *values,
                   struct error *err)
{
    UT_string path, text;

    utstring_init(&path);
    utstring_init(&text);
    int result = config->text ? read_values(config, data, values, &path, &text, err) : 0;
    utstring_done(&path);
    utstring_done(&text);
    return result;
}

static void free_values(struct values *values)
{
    HASH_CLEAR(hh, values->list);
    arena_free(&values->arena);
}

/* ---- comparing ---- */

static void compare(const cJSON *data, struct values *source, struct values *other, config_key_visitor *visit,
                    void *context)
{
    for (struct value *want = source->list; want; want = want->hh.next) {
        struct value *got;
        HASH_FIND(hh, other->list, want->path, strlen(want->path), got);
        if (got)
            got->seen = true;
        if (is_ignored(data, want->path) || (got && strcmp(got->text, want->text) == 0) ||
            (is_nothing(data, want) && (!got || is_nothing(data, got))))
            continue;
        const bool added = is_nothing(data, want);
        visit(context,
              &(struct config_key_difference){.path = want->path,
                                              .want = added ? NULL : want->text,
                                              .got = got && !is_nothing(data, got) ? got->text : NULL,
                                              .changes = !added || is_decisive(data, want->path)});
    }
    for (const struct value *got = other->list; got; got = got->hh.next)
        if (!got->seen && !is_ignored(data, got->path) && !is_nothing(data, got))
            visit(context, &(struct config_key_difference){.path = got->path,
                                                           .got = got->text,
                                                           .changes = got->contradicts ||
                                                                      is_decisive(data, got->path)});
}

int config_keys_compare(const struct config_text *source, const struct config_text *other,
                        config_key_visitor *visit, void *context, struct error *err)
{
    struct values values[2] = {0};
    cJSON *data = cJSON_Parse(embedded_config_keys);
    int result = 0;

    if (!data)
        return error_set(err, "the built-in config_keys.json is not valid JSON");
    if (flatten(source, data, &values[0], err) < 0 || flatten(other, data, &values[1], err) < 0)
        result = -1;
    else
        compare(data, &values[0], &values[1], visit, context);
    free_values(&values[0]);
    free_values(&values[1]);
    cJSON_Delete(data);
    return result;
}
