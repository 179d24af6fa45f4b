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

static int check_spell(const cJSON *spell, struct place *place, struct error *err)
{
    const cJSON *word;
    int n = 0;

    place->key = "spell";
    if (cJSON_IsString(spell)) {
        for (const char *at = spell->valuestring; *at; n++) {
            size_t length = strcspn(at, " ");
            if (length == 0 || strcspn(at, "{}\t\n") < length)
                return place_malformed(place, err, "a word is empty or holds a brace");
            at += length + (at[length] == ' ');
        }
        return n == 3 ? 0 : place_malformed(place, err, "needs three words: of gate, up and down");
    }
    if (!cJSON_IsObject(spell))
        return place_malformed(place, err, "is neither a text of three words nor an object");
    place->part = "spell";
    cJSON_ArrayForEach (word, spell) {
        place->key = word->string;
        if (!is_projections(word->string))
            return place_malformed(place, err, "is not made of gate, up, down");
        if (!is_spelling(word))
            return place_malformed(place, err, "is no word without spaces and braces");
    }
    place->part = NULL;
    return 0;
}

static int check_block(const cJSON *block, struct place *place, struct error *err)
{
    const char *hole = cJSON_IsString(block) ? strstr(block->valuestring, LAYER_HOLE) : NULL;

    place->key = "block";
    if (!hole || strcspn(block->valuestring, "{}") != (size_t)(hole - block->valuestring) ||
        strpbrk(hole + strlen(LAYER_HOLE), "{}"))
        return place_malformed(place, err, "is no text with the one hole {layer}");
    return 0;
}

static int check_renames(const cJSON *list, struct place *place, struct error *err)
{
    const cJSON *pair;

    place->key = "rename";
    if (!cJSON_IsArray(list))
        return place_malformed(place, err, "is no list of pairs");
    cJSON_ArrayForEach (pair, list) {
        const cJSON *from = cJSON_GetArrayItem(pair, 0), *to = cJSON_GetArrayItem(pair, 1);
        place->element++;
        if (!cJSON_IsArray(pair) || cJSON_GetArraySize(pair) != 2 || !cJSON_IsString(from) ||
            !cJSON_IsString(to) || !*from->valuestring || !*to->valuestring)
            return place_malformed(place, err, "holds something that is no pair of texts");
    }
    place->element = 0;
    return 0;
}

static int check_part(const cJSON *part, struct place *place, struct error *err)
{
    const cJSON *entry;

    place->part = part->string;
    cJSON_ArrayForEach (entry, part) {
        place->key = entry->string;
        bool is_form = is_projections(entry->string);
        if (!is_form && strcmp(entry->string, "name") != 0 && strcmp(entry->string, "option") != 0)
            return place_malformed(place, err, "is neither name nor option nor made of gate, up, down");
        if (!cJSON_IsString(entry))
            return place_malformed(place, err, is_form ? "is no text of axes" : "is no text");
        if (strcmp(entry->string, "option") == 0 && strcmp(entry->valuestring, "--fp8 keep") != 0)
            return place_malformed(place, err, "the only option is \"--fp8 keep\"");
    }
    place->part = NULL;
    return 0;
}

static int check_key(const cJSON *value, struct place *place, struct error *err)
{
    const char *key = value->string;

    place->key = key;
    if (strcmp(key, "summary") == 0)
        return cJSON_IsString(value) ? 0 : place_malformed(place, err, "is no text");
    if (strcmp(key, "generic") == 0)
        return cJSON_IsBool(value) ? 0 : place_malformed(place, err, "is neither true nor false");
    if (strcmp(key, "block") == 0)
        return check_block(value, place, err);
    if (strcmp(key, "spell") == 0)
        return check_spell(value, place, err);
    if (strcmp(key, "rename") == 0)
        return check_renames(value, place, err);
    if (strcmp(key, "name") == 0 || !*key)
        return place_malformed(place, err, "is no key of a layout: name belongs into a part");
    if (!cJSON_IsObject(value))
        return place_malformed(place, err, "is neither a part (an object) nor a key of a layout");
    return check_part(value, place, err);
}

static int check_keys(const struct user_layout *user, struct error *err)
{
    const cJSON *value;

    if (!cJSON_IsObject(user->json))
        return error_set(err, "%s:1: is no layout: a layout is an object", user->path);
    cJSON_ArrayForEach (value, user->json) {
        struct place place = {.file = user->path, .lines = &user->lines};
        if (check_key(value, &place, err) < 0)
            return -1;
    }
    return 0;
}

int user_layout_parse(const struct layout_text *text, struct arena *arena, struct user_layout *user,
                      struct error *err)
{
    *user = (struct user_layout){.path = text->path};
    if (text->length == 0)
        return error_set(err, "%s:1: is empty, no layout", text->path);
    if (text->length > USER_LAYOUT_SIZE_MAX)
        return error_set(err, "%s: is larger than %zu bytes, no layout", text->path, USER_LAYOUT_SIZE_MAX);
    if (json_lines_read(text->path, text->text, text->length, arena, &user->lines, err) < 0)
        return -1;
    user->json = cJSON_ParseWithLength(text->text, text->length);
    if (!user->json)
        return error_set(err, "%s: not valid JSON", text->path);
    return check_keys(user, err);
}
