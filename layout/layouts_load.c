/* Layouts and architectures from their JSON: docs/layouts.md. */
#include "layout/base/embedded.h"
#include "layouts.h"
#include "layout/format/json_lines.h"
#include "rename.h"

#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <utstring.h>

#define BUILT_IN "layouts.json"

static const char *get_string(const cJSON *object, const char *key)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, key);

    return cJSON_IsString(value) ? value->valuestring : NULL;
}

/* ---- binding a layout to an architecture's spelling ---- */

/* What an entry of architectures.json says about how its layouts are spelled. */
struct spelling {
    const cJSON *defaults;  /* layouts.json: spell, experts */
    const cJSON *entry;     /* the architecture's group, or NULL */
    const cJSON *overrides; /* entry.layouts[layout], or NULL */
    const cJSON *layout;    /* the layout itself */
    bool has_proj[PROJ_COUNT];
};

/* "gate up" -> the projections in their order; those that the architecture does not have are left out. */
static bool parse_projs(const char *text, const struct spelling *spelling, struct form *form)
{
    form->n_projs = 0;
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, " ");
        uint8_t p = 0;
        while (p < PROJ_COUNT && (strlen(proj_name(p)) != length || memcmp(proj_name(p), at, length) != 0))
            p++;
        if (p == PROJ_COUNT || form->n_projs == PROJ_COUNT)
            return false;
        if (spelling->has_proj[p])
            form->projs[form->n_projs++] = p;
        at += length + (at[length] == ' ');
    }
    return true;
}

/* The n-th of the words of "w1 w3 w2", or NULL. */
static const char *nth_word(const char *words, unsigned n, size_t *length)
{
    for (unsigned i = 0;; i++) {
        *length = strcspn(words, " ");
        if (i == n && *length > 0)
            return words;
        if (words[*length] == '\0')
            return NULL;
        words += *length + 1;
    }
}

/* The word for a tensor's projections by one table: an object from sets to words, or one word for each
 * projection. */
static const char *word_of_table(const cJSON *table, const struct spelling *spelling, const struct form *form,
                                 const char *written, size_t *length)
{
    char key[32] = "";
    unsigned n = 0;

    if (cJSON_IsString(table) && form->n_projs == 1) {
        for (unsigned p = 0; p < form->projs[0]; p++)
            n += spelling->has_proj[p];
        return nth_word(table->valuestring, n, length);
    }
    for (unsigned p = 0; p < form->n_projs; p++) {
        strcat(key, p ? " " : "");
        strcat(key, proj_name(form->projs[p]));
    }
    const char *word = cJSON_IsObject(table) ? get_string(table, written ? written : key) : NULL;
    *length = word ? strlen(word) : 0;
    return word;
}

/* The architecture's word for this layout, else the layout's own, else the default. A set that has no word,
 * since an architecture has fewer projections, takes the word of the set as the layout writes it. */
static const char *find_word(const struct spelling *spelling, const struct form *form, const char *written,
                             size_t *length)
{
    const cJSON *const owners[] = {spelling->overrides, spelling->layout, spelling->defaults};
    const size_t n = sizeof owners / sizeof *owners;
    const char *word = NULL;

    for (size_t i = 0; i < 2 * n && !word; i++)
        word = word_of_table(cJSON_GetObjectItemCaseSensitive(owners[i % n], "spell"), spelling, form,
                             i < n ? NULL : written, length);
    return word;
}

/* {experts} and {proj} replaced, other holes kept. NULL when a word is missing. */
static char *expand_name(const char *name, const struct spelling *spelling, const struct form *form,
                         const char *written)
{
    const char *experts = get_string(spelling->entry, "experts");
    size_t length = 0;
    const char *word = strstr(name, "{proj}") ? find_word(spelling, form, written, &length) : "";
    UT_string text;

    if (!word)
        return NULL;
    if (!experts)
        experts = get_string(spelling->defaults, "experts");
    utstring_init(&text);
    for (const char *at = name; *at;) {
        if (strncmp(at, "{experts}", 9) == 0) {
            utstring_printf(&text, "%s", experts);
            at += 9;
        } else if (strncmp(at, "{proj}", 6) == 0) {
            utstring_bincpy(&text, word, length);
            at += 6;
        } else {
            utstring_bincpy(&text, at, 1);
            at++;
        }
    }
    return utstring_body(&text);
}

#define AXIS_CHARACTERS "abcdefghijklmnopqrstuvwxyz_0123456789"

/* Words renamed for one projection: {"down": {"expert": "routed"}}. In axes every word counts, in names those
 * in braces. */
static char *rename_axes(const char *text, bool is_name, const struct spelling *spelling,
                         const struct form *form)
{
    const cJSON *table = cJSON_GetObjectItemCaseSensitive(spelling->entry, "axes");
    const cJSON *renames =
        form->n_projs == 1 ? cJSON_GetObjectItemCaseSensitive(table, proj_name(form->projs[0])) : NULL;
    bool inside = !is_name;
    UT_string result;

    utstring_init(&result);
    for (const char *at = text; *at;) {
        size_t length = strspn(at, AXIS_CHARACTERS);
        cleanup_free char *word = xasprintf("%.*s", (int)length, at);
        const char *renamed = inside ? get_string(renames, word) : NULL;
        if (is_name && length == 0)
            inside = *at == '{' || (inside && *at == ' ');
        length += length == 0;
        if (renamed)
            utstring_bincpy(&result, renamed, strlen(renamed));
        else
            utstring_bincpy(&result, at, length);
        at += length;
    }
    return utstring_body(&result);
}

static int add_part(struct layouts *layouts, const char *name, uint8_t *part)
{
    for (*part = 0; *part < layouts->n_parts; ++*part)
        if (strcmp(layouts->parts[*part], name) == 0)
            return 0;
    if (layouts->n_parts == PARTS_MAX)
        return -1;
    layouts->parts[layouts->n_parts++] = arena_strdup(&layouts->arena, name);
    return 0;
}

static int bind_form(struct layouts *layouts, struct block_rule *rule, const struct spelling *spelling,
                     const char *name, const cJSON *entry, struct form *form, const struct place *place,
                     struct error *err)
{
    cleanup_free char *axes = rename_axes(entry->valuestring, false, spelling, form);
    cleanup_free char *expanded = expand_name(name, spelling, form, entry->string);
    cleanup_free char *text = expanded ? rename_axes(expanded, true, spelling, form) : NULL;
    struct place of_name = *place;
    struct error cause = {0};
    int result = 0;

    of_name.key = "name";
    if (!text)
        return place_malformed(place, err, "no word says how these projections are spelled");
    if (axes_parse(axes, &layouts->words, &layouts->arena, &form->axes, &cause) < 0)
        result = place_malformed(place, err, cause.text);
    else if (template_parse(text, &rule->enumeration, &layouts->words, &layouts->arena, &form->name, &cause) <
             0)
        result = place_malformed(&of_name, err, cause.text);
    else if (form->n_projs > 1 && !axes_contain(&form->axes, AXIS_PROJ))
        result = place_malformed(place, err, "holds several projections, but has no axis proj");
    error_free(&cause);
    if (result < 0)
        return -1;
    int hole = template_integer_hole(&form->name);
    if (hole >= 0 && axes_contain(&form->axes, form->name.holes[hole].axis))
        return place_malformed(place, err, "has an axis that is in the name too");
    if (hole >= 0)
        layouts->enumerated[form->name.holes[hole].axis] = true;
    return 0;
}

/* Every projection of the architecture is in exactly one kind of tensor, and each kind has names of
 * its own. */
static int check_forms(const struct form *forms, uint8_t n, const struct spelling *spelling,
                       struct place *place, struct error *err)
{
    unsigned times[PROJ_COUNT] = {0};

    place->key = "name";
    for (uint8_t f = 0; f < n; f++) {
        for (uint8_t p = 0; p < forms[f].n_projs; p++)
            times[forms[f].projs[p]]++;
        for (uint8_t g = 0; g < f; g++)
            if (strcmp(forms[f].name.text, forms[g].name.text) == 0)
                return place_malformed(place, err, "is the same for two kinds of tensor");
    }
    place->key = NULL;
    for (unsigned p = 0; p < PROJ_COUNT; p++) {
        cleanup_free char *what =
            xasprintf("has %s in %u kinds of tensor, not in one", proj_name(p), times[p]);
        if (spelling->has_proj[p] && times[p] != 1)
            return place_malformed(place, err, what);
    }
    return 0;
}

static bool is_form_key(const char *key)
{
    return strcmp(key, "name") != 0 && strcmp(key, "option") != 0;
}

/* The names of one part of the layout where the architecture calls the weights otherwise. A companion's name
 * follows the weight's: it differs from the architecture's as the layout's own two differ, in their ends. A
 * part that the architecture describes itself has its own name. NULL: none is said. */
static char *part_name(const struct spelling *spelling, const cJSON *part)
{
    const char *own = get_string(spelling->overrides, "name"), *name = get_string(part, "name");
    const cJSON *weight_part = cJSON_GetObjectItemCaseSensitive(spelling->layout, "weight");
    const char *weight = get_string(weight_part, "name");
    size_t common = 0;

    if (own && part == weight_part)
        return xstrdup(own);
    if (!own || !name || !weight || cJSON_GetObjectItemCaseSensitive(spelling->overrides, part->string))
        return name ? xstrdup(name) : NULL;
    while (name[common] && name[common] == weight[common])
        common++;
    size_t ending = strlen(weight + common), length = strlen(own);
    if (length < ending || strcmp(own + length - ending, weight + common) != 0)
        return xstrdup(name);
    return xasprintf("%.*s%s", (int)(length - ending), own, name + common);
}

static int bind_part(struct layouts *layouts, struct block_rule *rule, const struct spelling *spelling,
                     const cJSON *json, struct bound_layout *bound, struct place *place, struct error *err)
{
    cleanup_free char *name = part_name(spelling, json);
    uint8_t first = bound->n_forms, part;
    const cJSON *entry;

    place->part = json->string;
    place->key = "name";
    if (!name)
        return place_malformed(place, err, "is missing, or no text");
    if (add_part(layouts, json->string, &part) < 0)
        return place_malformed(place, err, "is one part more than are supported");
    cJSON_ArrayForEach (entry, json) {
        struct form form = {.part = part};
        place->key = entry->string;
        if (!is_form_key(entry->string))
            continue;
        if (!cJSON_IsString(entry) || !parse_projs(entry->string, spelling, &form))
            return place_malformed(place, err, "is not a list of gate, up, down with a text of axes");
        if (form.n_projs == 0)
            continue;
        if (bound->n_forms == FORMS_MAX)
            return place_malformed(place, err, "is one kind of tensor more than are supported");
        if (bind_form(layouts, rule, spelling, name, entry, &form, place, err) < 0)
            return -1;
        bound->fused |= form.n_projs > 1;
        bound->forms[bound->n_forms++] = form;
    }
    return check_forms(bound->forms + first, bound->n_forms - first, spelling, place, err);
}

/* Keys of a layout that are no parts. */
static bool is_part_key(const char *key)
{
    static const char *const others[] = {"summary", "generic", "block", "spell", "rename", "name"};

    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(key, others[i]) == 0)
            return false;
    return true;
}

static int bind_layout(struct layouts *layouts, struct block_rule *rule, struct spelling spelling,
                       const struct layout *layout, struct place *place, struct error *err)
{
    struct bound_layout *bound = &rule->bound[layout - layouts->layouts];
    const cJSON *part, *own;

    *bound = (struct bound_layout){.layout = layout};
    bound->forms = arena_alloc(&layouts->arena, FORMS_MAX * sizeof *bound->forms);
    spelling.layout = layout->json;
    spelling.overrides = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(spelling.entry, "layouts"), layout->name);
    cJSON_ArrayForEach (part, layout->json) {
        if (!is_part_key(part->string))
            continue;
        if (!cJSON_IsObject(part)) {
            place->part = NULL;
            place->key = part->string;
            return place_malformed(place, err, "is neither a part (an object) nor a key of a layout");
        }
        own = cJSON_GetObjectItemCaseSensitive(spelling.overrides, part->string);
        if (bind_part(layouts, rule, &spelling, own ? own : part, bound, place, err) < 0)
            return -1;
    }
    cJSON_ArrayForEach (own, spelling.overrides) {
        if (is_part_key(own->string) && !cJSON_GetObjectItemCaseSensitive(layout->json, own->string) &&
            bind_part(layouts, rule, &spelling, own, bound, place, err) < 0)
            return -1;
    }
    place->part = NULL;
    place->key = "weight";
    for (unsigned f = 0; f < bound->n_forms; f++)
        if (layouts_is_main(layouts, bound->forms[f].part))
            return 0;
    return place_malformed(place, err, "is missing: the layout has no place for weights");
}

static void load_projs(const cJSON *entry, struct spelling *spelling)
{
    const char *projs = get_string(entry, "projs");

    for (unsigned p = 0; p < PROJ_COUNT; p++)
        spelling->has_proj[p] = !projs || strstr(projs, proj_name(p));
}

/* The layouts from number `first` on, in the rule's spelling. */
static int bind_layouts(struct layouts *layouts, struct block_rule *rule, unsigned first, struct error *err)
{
    struct spelling spelling = {.defaults = layouts->layouts_json, .entry = rule->json};

    load_projs(rule->json, &spelling);
    for (unsigned i = first; i < layouts->n_layouts; i++) {
        const struct layout *layout = &layouts->layouts[i];
        struct place place = {.file = BUILT_IN, .layout = layout->name};
        if (layout->user)
            place = (struct place){.file = layout->user->path, .lines = &layout->user->lines};
        if (bind_layout(layouts, rule, spelling, layout, &place, err) < 0)
            return -1;
    }
    return 0;
}

/* entry: a group of an architecture; NULL: the default spelling. */
static int bind_rule(struct layouts *layouts, const cJSON *entry, struct block_rule *rule, struct error *err)
{
    rule->json = entry;
    rule->bound = arena_alloc(&layouts->arena, LAYOUTS_MAX * sizeof *rule->bound);
    return bind_layouts(layouts, rule, 0, err);
}

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
        return error_set(err, "%s: is no object, or one layout more than are supported", name);
    struct layout *layout = &layouts->layouts[layouts->n_layouts++];
    *layout = (struct layout){.name = arena_strdup(&layouts->arena, name),
                              .summary = get_string(json, "summary"),
                              .generic = !user && cJSON_IsTrue(generic),
                              .user = user,
                              .block = get_string(json, "block"),
                              .json = json};
    load_renames(layouts, cJSON_GetObjectItemCaseSensitive(json, "rename"), layout);
    return 0;
}

/* Whether each pair of names can be applied: the message is about the first that cannot. */
static int check_renames(const struct layout *layout, struct error *err)
{
    struct place place = {.file = layout->user->path, .lines = &layout->user->lines, .key = "rename"};
    int result = 0;

    for (size_t i = 0; i < layout->n_renames && result == 0; i++) {
        const struct layout pair = {.rename = &layout->rename[i], .n_renames = 1};
        struct renames *renames;
        struct error cause = {0};
        place.element = (int)i + 1;
        if (renames_compile(&pair, &renames, &cause) < 0)
            result = place_malformed(&place, err, cause.text);
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

    if (!cJSON_IsObject(list) || !get_string(layouts->layouts_json, "experts"))
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
        const char *word = nth_word(list->valuestring, enumeration->n, &length);
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
            return error_set(err, "architectures.json: %s: '%s' is no axis with a path", key, field->string);
        paths[axis] = field->valuestring;
    }
    return 0;
}

static int load_rule(struct layouts *layouts, const cJSON *entry, struct architecture *architecture,
                     struct error *err)
{
    struct block_rule *rule = &architecture->rules[architecture->n_rules];

    if (architecture->n_rules == BLOCK_RULES_MAX)
        return error_set(err, "architectures.json: more than %d groups", BLOCK_RULES_MAX);
    architecture->n_rules++;
    rule->blocks = get_string(entry, "block");
    if (load_list(layouts, cJSON_GetObjectItemCaseSensitive(entry, "original"), &rule->original, err) < 0 ||
        load_list(layouts, cJSON_GetObjectItemCaseSensitive(entry, "v5"), &rule->v5, err) < 0 ||
        load_enumeration(layouts, entry, &rule->enumeration, err) < 0)
        return -1;
    if (load_paths(layouts, entry, "config", rule->config, err) < 0 ||
        load_paths(layouts, entry, "counts", rule->counts, err) < 0)
        return -1;
    return bind_rule(layouts, entry, rule, err);
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

    layouts->ignored = get_string(layouts->architectures_json, "ignored");
    if (!cJSON_IsArray(list) || !layouts->ignored)
        return error_set(err, "architectures.json: needs ignored and architectures");
    layouts->unknown = (struct architecture){.types = no_types, .n_rules = 1};
    if (bind_rule(layouts, NULL, &layouts->unknown.rules[0], err) < 0)
        return -1;
    layouts->architectures = xcalloc((size_t)cJSON_GetArraySize(list), sizeof *layouts->architectures);
    cJSON_ArrayForEach (entry, list) {
        if (load_architecture(layouts, entry, &layouts->architectures[layouts->n_architectures++], err) < 0)
            return -1;
    }
    return 0;
}

/* The user's layouts come last: when they are bound, every axis of the built-in data has its number, so that
 * one axis too many is the user's and is reported so. */
static int load_user_layouts(struct layouts *layouts, const struct layout_text users[LAYOUTS_USER_MAX],
                             struct error *err)
{
    unsigned first = layouts->n_layouts;

    for (unsigned i = 0; users && i < LAYOUTS_USER_MAX; i++)
        if (users[i].path && load_user_layout(layouts, &users[i], err) < 0)
            return -1;
    if (bind_layouts(layouts, &layouts->unknown.rules[0], first, err) < 0)
        return -1;
    for (unsigned a = 0; a < layouts->n_architectures; a++)
        for (unsigned r = 0; r < layouts->architectures[a].n_rules; r++)
            if (bind_layouts(layouts, &layouts->architectures[a].rules[r], first, err) < 0)
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
    if (load_layouts(layouts, err) < 0 || load_architectures(layouts, err) < 0)
        return -1;
    return load_user_layouts(layouts, users, err);
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

void layouts_free(struct layouts *layouts)
{
    cJSON_Delete(layouts->layouts_json);
    cJSON_Delete(layouts->architectures_json);
    for (unsigned i = 0; i < layouts->n_users; i++)
        cJSON_Delete(layouts->users[i].json);
    free(layouts->architectures);
    arena_free(&layouts->arena);
}
