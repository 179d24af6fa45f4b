/* Parsing and checking a layout of the user's own. */
#include "user_layout.h"

#include <stdbool.h>
#include <string.h>

#include <cjson/cJSON.h>

#define LAYER_HOLE "{layer}"

/* One of the three, two or three of them with single spaces between, none twice. */
static bool is_projections(const char *text)
{
    static const char *const words[] = {"gate", "up", "down"};
    unsigned seen = 0;

    for (const char *at = text;; at++) {
        size_t length = strcspn(at, " "), w = 0;
        while (w < 3 && (strlen(words[w]) != length || memcmp(words[w], at, length) != 0))
            w++;
        if (w == 3 || (seen & 1U << w))
            return false;
        seen |= 1U << w;
        at += length;
        if (*at == '\0')
            return true;
    }
}

/* A word that stands for projections in a name: no braces, no white space. */
static bool is_spelling(const cJSON *value)
{
    return cJSON_IsString(value) && *value->valuestring && !strpbrk(value->valuestring, "{} \t\n");
}

static int check_spell(const cJSON *spell, struct json_position *position, struct error *err)
{
    const cJSON *word;
    int n = 0;

    position->key = "spell";
    if (cJSON_IsString(spell)) {
        for (const char *at = spell->valuestring; *at; n++) {
            size_t length = strcspn(at, " ");
            if (length == 0 || strcspn(at, "{}\t\n") < length)
                return json_malformed(position, err, "a word is empty or holds a brace");
            at += length + (at[length] == ' ');
        }
        return n == 3 ? 0 : json_malformed(position, err, "needs three words: of gate, up and down");
    }
    if (!cJSON_IsObject(spell))
        return json_malformed(position, err, "is neither a text of three words nor an object");
    position->part = "spell";
    cJSON_ArrayForEach (word, spell) {
        position->key = word->string;
        if (!is_projections(word->string))
            return json_malformed(position, err, "is not made of gate, up, down");
        if (!is_spelling(word))
            return json_malformed(position, err, "is not a word without spaces and braces");
    }
    position->part = NULL;
    return 0;
}

static int check_block(const cJSON *block, struct json_position *position, struct error *err)
{
    const char *hole = cJSON_IsString(block) ? strstr(block->valuestring, LAYER_HOLE) : NULL;

    position->key = "block";
    if (!hole || strcspn(block->valuestring, "{}") != (size_t)(hole - block->valuestring) ||
        strpbrk(hole + strlen(LAYER_HOLE), "{}"))
        return json_malformed(position, err, "is not a text with the one hole {layer}");
    return 0;
}

static int check_renames(const cJSON *list, struct json_position *position, struct error *err)
{
    const cJSON *pair;

    position->key = "rename";
    if (!cJSON_IsArray(list))
        return json_malformed(position, err, "is not a list of pairs");
    cJSON_ArrayForEach (pair, list) {
        const cJSON *from = cJSON_GetArrayItem(pair, 0), *to = cJSON_GetArrayItem(pair, 1);
        position->element++;
        if (!cJSON_IsArray(pair) || cJSON_GetArraySize(pair) != 2 || !cJSON_IsString(from) ||
            !cJSON_IsString(to) || !*from->valuestring || !*to->valuestring)
            return json_malformed(position, err, "holds something that is not a pair of texts");
    }
    position->element = 0;
    return 0;
}

static int check_part(const cJSON *part, struct json_position *position, struct error *err)
{
    const cJSON *entry;

    position->part = part->string;
    cJSON_ArrayForEach (entry, part) {
        position->key = entry->string;
        bool is_form = is_projections(entry->string);
        if (!is_form && strcmp(entry->string, "name") != 0 && strcmp(entry->string, "option") != 0)
            return json_malformed(position, err, "is neither name nor option nor made of gate, up, down");
        if (!cJSON_IsString(entry))
            return json_malformed(position, err, is_form ? "is not a text of axes" : "is not a text");
        if (strcmp(entry->string, "option") == 0 && strcmp(entry->valuestring, "--fp8 keep") != 0)
            return json_malformed(position, err, "the only option is \"--fp8 keep\"");
    }
    position->part = NULL;
    return 0;
}

static int check_key(const cJSON *value, struct json_position *position, struct error *err)
{
    const char *key = value->string;

    position->key = key;
    if (strcmp(key, "summary") == 0)
        return cJSON_IsString(value) ? 0 : json_malformed(position, err, "is not a text");
    if (strcmp(key, "generic") == 0)
        return cJSON_IsBool(value) ? 0 : json_malformed(position, err, "is neither true nor false");
    if (strcmp(key, "block") == 0)
        return check_block(value, position, err);
    if (strcmp(key, "spell") == 0)
        return check_spell(value, position, err);
    if (strcmp(key, "rename") == 0)
        return check_renames(value, position, err);
    if (strcmp(key, "name") == 0 || !*key)
        return json_malformed(position, err, "is not a key of a layout: name belongs into a part");
    if (!cJSON_IsObject(value))
        return json_malformed(position, err, "is neither a part (an object) nor a key of a layout");
    return check_part(value, position, err);
}

static int check_keys(const struct user_layout *user, struct error *err)
{
    const cJSON *value;

    if (!cJSON_IsObject(user->json))
        return error_set(err, "%s:1: is not a layout: a layout is a JSON object", user->path);
    cJSON_ArrayForEach (value, user->json) {
        struct json_position position = {.file = user->path, .lines = &user->lines};
        if (check_key(value, &position, err) < 0)
            return -1;
    }
    return 0;
}

int user_layout_parse(const struct layout_text *text, struct arena *arena, struct user_layout *user,
                      struct error *err)
{
    *user = (struct user_layout){.path = text->path};
    if (text->length == 0)
        return error_set(err, "%s:1: is empty, but a layout is a JSON object", text->path);
    if (text->length > USER_LAYOUT_SIZE_MAX)
        return error_set(err, "%s: is larger than %zu bytes, no layout", text->path, USER_LAYOUT_SIZE_MAX);
    if (json_lines_read(text->path, text->text, text->length, arena, &user->lines, err) < 0)
        return -1;
    user->json = cJSON_ParseWithLength(text->text, text->length);
    if (!user->json)
        return error_set(err, "%s: not valid JSON", text->path);
    return check_keys(user, err);
}
