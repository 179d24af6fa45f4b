/* Layouts and architectures from their JSON: docs/layouts.md. */
#include "layout/base/embedded.h"
#include "layout/base/text.h"
#include "layouts_bind.h"
#include "rename.h"

#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

/* ---- layouts ---- */

/* The list was checked where a user may have written it. */
static void load_renames(struct layouts *layouts, const cJSON *list, struct layout *layout)
{
    const cJSON *pair;

    layout->rename = arena_alloc(&layouts->arena, (size_t)cJSON_GetArraySize(list) * sizeof *layout->rename);
    cJSON_ArrayForEach (pair, list) {
        layout->rename[layout->n_renames][0] = cJSON_GetArrayItem(pair, 0)->valuestring;
        layout->rename[layout->n_renames++][1] = cJSON_GetArrayItem(pair, 1)->valuestring;
    }
}

static int add_layout(struct layouts *layouts, const char *name, const cJSON *json,
                      const struct user_layout *user, struct error *err)
{
    const cJSON *generic = cJSON_GetObjectItemCaseSensitive(json, "generic");

    if (layouts->n_layouts == LAYOUTS_MAX || !cJSON_IsObject(json))
        return error_set(err, "%s: is not an object, or is one layout more than moefs supports", name);
    struct layout *layout = &layouts->layouts[layouts->n_layouts++];
    *layout = (struct layout){.name = arena_strdup(&layouts->arena, name),
                              .summary = layouts_json_text(json, "summary"),
                              .generic = !user && cJSON_IsTrue(generic),
                              .user = user,
                              .block = layouts_json_text(json, "block"),
                              .json = json};
    load_renames(layouts, cJSON_GetObjectItemCaseSensitive(json, "rename"), layout);
    return 0;
}

/* Whether each pair of names can be applied: the message is about the first that cannot. */
static int check_renames(const struct layout *layout, struct error *err)
{
    struct json_position position = {
        .file = layout->user->path, .lines = &layout->user->lines, .key = "rename"};
    int result = 0;

    for (size_t i = 0; i < layout->n_renames && result == 0; i++) {
        const struct layout pair = {.rename = &layout->rename[i], .n_renames = 1};
        struct renames *renames;
        struct error cause = {0};
        position.element = (int)i + 1;
        if (renames_compile(&pair, &renames, &cause) < 0)
            result = json_malformed(&position, err, cause.text);
        renames_free(renames);
        error_free(&cause);
    }
    return result;
}

static int load_user_layout(struct layouts *layouts, const struct layout_text *text, struct error *err)
{
    struct user_layout *user = &layouts->users[layouts->n_users];

    if (layouts_find(layouts, text->path))
        return 0; /* --to and --from name the same file */
    layouts->n_users++;
    if (user_layout_parse(text, &layouts->arena, user, err) < 0 ||
        add_layout(layouts, text->path, user->json, user, err) < 0)
        return -1;
    return check_renames(&layouts->layouts[layouts->n_layouts - 1], err);
}

static int load_layouts(struct layouts *layouts, struct error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(layouts->layouts_json, "layouts");
    const cJSON *entry;

    if (!cJSON_IsObject(list) || !layouts_json_text(layouts->layouts_json, "experts"))
        return error_set(err, "layouts.json: needs spell, experts and layouts");
    cJSON_ArrayForEach (entry, list) {
        if (add_layout(layouts, entry->string, entry, NULL, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- architectures ---- */

static int load_list(const struct layouts *layouts, const cJSON *value, struct layout_list *list,
                     struct error *err)
{
    char name[64];

    if (!cJSON_IsString(value))
        return error_set(err, "architectures.json: a list of layouts is missing");
    if (strcmp(value->valuestring, "any") == 0) {
        list->any = true;
        return 0;
    }
    for (const char *at = value->valuestring; *at;) {
        size_t length = strcspn(at, "|");
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        const struct layout *layout = layouts_find(layouts, name);
        if (!layout || list->n == LAYOUT_LIST_MAX)
            return error_set(err, "architectures.json: \"%s\": unknown layout '%s'", value->valuestring,
                             name);
        list->list[list->n++] = layout;
        at += length + (at[length] == '|');
    }
    return 0;
}

static int load_enumeration(struct layouts *layouts, const cJSON *entry, struct enumeration *enumeration,
                            struct error *err)
{
    const cJSON *words = cJSON_GetObjectItemCaseSensitive(entry, "words");
    const cJSON *list = words ? words->child : NULL;

    if (!list)
        return 0;
    if (list->next || !cJSON_IsString(list))
        return error_set(err, "architectures.json: words: one axis with a text of words");
    enumeration->axis = axis_word(&layouts->words, list->string, strlen(list->string), &layouts->arena);
    for (size_t length; enumeration->n < ENUMERATION_WORDS_MAX; enumeration->n++) {
        const char *word = text_nth_word(list->valuestring, enumeration->n, &length);
        if (!word)
            break;
        enumeration->words[enumeration->n] = arena_strndup(&layouts->arena, word, length);
    }
    return 0;
}

/* An object from axes to paths in config.json. */
static int load_paths(struct layouts *layouts, const cJSON *entry, const char *key,
                      const char *paths[AXIS_WORDS_MAX], struct error *err)
{
    const cJSON *field;

    cJSON_ArrayForEach (field, cJSON_GetObjectItemCaseSensitive(entry, key)) {
        uint8_t axis = axis_word(&layouts->words, field->string, strlen(field->string), &layouts->arena);
        if (axis == AXIS_NONE || !cJSON_IsString(field))
            return error_set(err, "architectures.json: %s: '%s' is not an axis with a path", key,
                             field->string);
        paths[axis] = field->valuestring;
    }
    return 0;
}

static int load_rule(struct layouts *layouts, const cJSON *entry, struct architecture *architecture,
                     struct error *err)
{
    struct block_rule *rule = &architecture->rules[architecture->n_rules];
    const cJSON *quantised = cJSON_GetObjectItemCaseSensitive(entry, "quantised");

    if (architecture->n_rules == BLOCK_RULES_MAX)
        return error_set(err, "architectures.json: more than %d groups", BLOCK_RULES_MAX);
    architecture->n_rules++;
    rule->blocks = layouts_json_text(entry, "block");
    if (load_list(layouts, cJSON_GetObjectItemCaseSensitive(entry, "original"), &rule->original, err) < 0 ||
        load_list(layouts, cJSON_GetObjectItemCaseSensitive(entry, "v5"), &rule->v5, err) < 0 ||
        (quantised && load_list(layouts, quantised, &rule->quantised, err) < 0) ||
        load_enumeration(layouts, entry, &rule->enumeration, err) < 0)
        return -1;
    if (load_paths(layouts, entry, "config", rule->config, err) < 0 ||
        load_paths(layouts, entry, "counts", rule->counts, err) < 0)
        return -1;
    return layouts_bind(layouts, entry, rule, err);
}

static int load_loaders(struct layouts *layouts, const cJSON *entry, struct architecture *architecture,
                        struct error *err)
{
    const cJSON *list, *name;

    cJSON_ArrayForEach (list, entry) {
        unsigned l = architecture->n_loaders;
        const struct layout *layout = layouts_find(layouts, list->string);
        if (!layout || l == LOADERS_MAX || cJSON_GetArraySize(list) > LOADERS_MAX)
            return error_set(err, "architectures.json: loaders of '%s': unknown layout or too many",
                             list->string);
        architecture->loaders[l].layout = layout;
        cJSON_ArrayForEach (name, list) {
            architecture->loaders[l].loaders[architecture->loaders[l].n++] = name->valuestring;
        }
        architecture->n_loaders++;
    }
    return 0;
}

static int load_architecture(struct layouts *layouts, const cJSON *entry, struct architecture *architecture,
                             struct error *err)
{
    const cJSON *types = cJSON_GetObjectItemCaseSensitive(entry, "types");
    const cJSON *groups = cJSON_GetObjectItemCaseSensitive(entry, "groups");
    const cJSON *item;
    size_t n = 0;

    if (!cJSON_IsArray(types))
        return error_set(err, "architectures.json: an entry has no types");
    architecture->types =
        arena_alloc(&layouts->arena, ((size_t)cJSON_GetArraySize(types) + 1) * sizeof *architecture->types);
    cJSON_ArrayForEach (item, types) {
        architecture->types[n++] = item->valuestring;
    }
    architecture->types[n] = NULL;
    if (!groups && load_rule(layouts, entry, architecture, err) < 0)
        return -1;
    cJSON_ArrayForEach (item, groups) {
        if (load_rule(layouts, item, architecture, err) < 0)
            return -1;
    }
    return load_loaders(layouts, cJSON_GetObjectItemCaseSensitive(entry, "loaders"), architecture, err);
}

static int load_architectures(struct layouts *layouts, struct error *err)
{
    static const char *no_types[] = {NULL};
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(layouts->architectures_json, "architectures");
    const cJSON *entry;

    layouts->ignored = layouts_json_text(layouts->architectures_json, "ignored");
    if (!cJSON_IsArray(list) || !layouts->ignored)
        return error_set(err, "architectures.json: needs ignored and architectures");
    layouts->unknown = (struct architecture){.types = no_types, .n_rules = 1};
    if (layouts_bind(layouts, NULL, &layouts->unknown.rules[0], err) < 0)
        return -1;
    layouts->architectures = xcalloc((size_t)cJSON_GetArraySize(list), sizeof *layouts->architectures);
    cJSON_ArrayForEach (entry, list) {
        if (load_architecture(layouts, entry, &layouts->architectures[layouts->n_architectures++], err) < 0)
            return -1;
    }
    return 0;
}

/* The user's layouts are bound last: then every axis of the built-in data has its number, so that one axis too
 * many is the user's and is reported so. */
static int bind_user_layouts(struct layouts *layouts, struct error *err)
{
    if (layouts_bind_users(layouts, &layouts->unknown.rules[0], err) < 0)
        return -1;
    for (unsigned a = 0; a < layouts->n_architectures; a++)
        for (unsigned r = 0; r < layouts->architectures[a].n_rules; r++)
            if (layouts_bind_users(layouts, &layouts->architectures[a].rules[r], err) < 0)
                return -1;
    return 0;
}

static int load_all(struct layouts *layouts, const struct layout_text users[LAYOUTS_USER_MAX],
                    struct error *err)
{
    layouts->layouts_json = cJSON_Parse(embedded_layouts);
    layouts->architectures_json = cJSON_Parse(embedded_architectures);
    if (!layouts->layouts_json || !layouts->architectures_json)
        return error_set(err, "the built-in layouts are not valid JSON");
    if (load_layouts(layouts, err) < 0)
        return -1;
    for (unsigned i = 0; users && i < LAYOUTS_USER_MAX; i++)
        if (users[i].path && load_user_layout(layouts, &users[i], err) < 0)
            return -1;
    return load_architectures(layouts, err) < 0 ? -1 : bind_user_layouts(layouts, err);
}

int layouts_load(struct layouts *layouts, const struct layout_text users[LAYOUTS_USER_MAX], struct error *err)
{
    *layouts = (struct layouts){0};
    axis_words_init(&layouts->words);
    if (load_all(layouts, users, err) == 0)
        return 0;
    layouts_free(layouts);
    return -1;
}

int layouts_check_built_in_name(const char *option, const char *name, struct error *err)
{
    struct layouts layouts = {.layouts_json = cJSON_Parse(embedded_layouts)};
    int result = load_layouts(&layouts, err);

    if (result == 0)
        result = layouts_check_name(&layouts, option, name, err);
    layouts_free(&layouts);
    return result;
}

void layouts_free(struct layouts *layouts)
{
    cJSON_Delete(layouts->layouts_json);
    cJSON_Delete(layouts->architectures_json);
    for (unsigned i = 0; i < layouts->n_users; i++)
        cJSON_Delete(layouts->users[i].json);
    free(layouts->architectures);
    arena_free(&layouts->arena);
}
