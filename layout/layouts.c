#include "layouts.h"
#include "embedded.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <utstring.h>

static const char *const proj_names[PROJ_COUNT] = {"gate", "up", "down"};

const char *proj_name(enum proj proj)
{
    return proj_names[proj];
}

const struct layout *layouts_find(const struct layouts *layouts, const char *name)
{
    for (unsigned i = 0; i < layouts->n_layouts; i++)
        if (strcmp(layouts->layouts[i].name, name) == 0)
            return &layouts->layouts[i];
    return NULL;
}

const struct bound_layout *layouts_bound(const struct layouts *layouts, const struct layout *layout)
{
    return &layouts->bound[layout - layouts->layouts];
}

const struct architecture *layouts_architecture(const struct layouts *layouts, const char *model_type)
{
    for (unsigned i = 0; model_type && i < layouts->n_architectures; i++)
        for (const char **type = layouts->architectures[i].types; *type; type++)
            if (strcmp(*type, model_type) == 0)
                return &layouts->architectures[i];
    return &layouts->unknown;
}

/* globs: separated by single spaces. */
static bool block_fits(const char *globs, const char *block)
{
    char glob[128];

    for (const char *at = globs; *at;) {
        size_t length = strcspn(at, " ");
        snprintf(glob, sizeof glob, "%.*s", (int)length, at);
        if (fnmatch(glob, block, 0) == 0)
            return true;
        at += length + (at[length] == ' ');
    }
    return false;
}

const struct block_rule *architecture_rule(const struct architecture *architecture, const char *block)
{
    for (unsigned i = 0; i < architecture->n_rules; i++)
        if (!architecture->rules[i].blocks || block_fits(architecture->rules[i].blocks, block))
            return &architecture->rules[i];
    return NULL;
}

bool layouts_ignored(const struct layouts *layouts, const char *block)
{
    return block_fits(layouts->ignored, block);
}

bool layout_list_has(const struct layout_list *list, const struct layout *layout)
{
    for (unsigned i = 0; i < list->n; i++)
        if (list->list[i] == layout)
            return true;
    return false;
}

/* Levenshtein's distance; names are short. */
static unsigned name_distance(const char *a, const char *b)
{
    unsigned row[64];
    size_t n = strlen(b);

    if (n >= 64 || strlen(a) >= 64)
        return 64;
    for (size_t j = 0; j <= n; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; a[i - 1]; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= n; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[n];
}

int layouts_check_name(const struct layouts *layouts, const char *option, const char *name, struct error *err)
{
    if (strcmp(name, "v5") == 0 || strcmp(name, "original") == 0 || layouts_find(layouts, name))
        return 0;

    UT_string *known;
    const char *nearest = NULL;
    unsigned distance = 4;
    utstring_new(known);
    for (unsigned i = 0; i < layouts->n_layouts + 2U; i++) {
        const char *other =
            i < layouts->n_layouts ? layouts->layouts[i].name : (i == layouts->n_layouts ? "v5" : "original");
        utstring_printf(known, "%s%s", i ? ", " : "", other);
        if (name_distance(name, other) < distance) {
            distance = name_distance(name, other);
            nearest = other;
        }
    }
    if (nearest)
        error_set(err, "%s %s: unknown layout; did you mean %s? Known: %s", option, name, nearest,
                  utstring_body(known));
    else
        error_set(err, "%s %s: unknown layout. Known: %s", option, name, utstring_body(known));
    utstring_free(known);
    return -1;
}

/* ---- reading the data ---- */

static const char *take_string(struct layouts *layouts, const cJSON *value)
{
    return cJSON_IsString(value) ? arena_strdup(&layouts->arena, value->valuestring) : NULL;
}

/* "gate up" -> the projections in their order. False on an unknown word. */
static bool parse_projs(const char *text, struct form *form)
{
    form->n_projs = 0;
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, " ");
        uint8_t p = 0;
        while (p < PROJ_COUNT && (strlen(proj_names[p]) != length || memcmp(proj_names[p], at, length) != 0))
            p++;
        if (p == PROJ_COUNT || form->n_projs == PROJ_COUNT)
            return false;
        form->projs[form->n_projs++] = p;
        at += length + (at[length] == ' ');
    }
    return form->n_projs > 0;
}

static int load_part(struct layouts *layouts, struct layout *layout, const cJSON *part, struct error *err)
{
    const char *name = take_string(layouts, cJSON_GetObjectItemCaseSensitive(part, "name"));
    const cJSON *entry;

    if (!name)
        return error_set(err, "layout '%s', part '%s': no name", layout->name, part->string);
    cJSON_ArrayForEach (entry, part) {
        struct form *form = &layout->forms[layout->n_forms];
        if (strcmp(entry->string, "name") == 0)
            continue;
        if (layout->n_forms == FORMS_MAX)
            return error_set(err, "layout '%s': more than %d kinds of tensor", layout->name, FORMS_MAX);
        form->part = arena_strdup(&layouts->arena, part->string);
        form->name = name;
        if (!cJSON_IsString(entry) || !parse_projs(entry->string, form))
            return error_set(err, "layout '%s', part '%s': '%s' is not a list of gate, up, down",
                             layout->name, part->string, entry->string);
        if (axes_parse(entry->valuestring, &layouts->words, &layouts->arena, &form->axes, err) < 0)
            return -1;
        if (form->n_projs > 1 && !axes_contain(&form->axes, AXIS_PROJ))
            return error_set(err, "layout '%s': \"%s\" has no axis proj", layout->name, entry->valuestring);
        layout->fused |= form->n_projs > 1;
        layout->n_forms++;
    }
    return layout->n_forms ? 0 : error_set(err, "layout '%s' holds no tensor", layout->name);
}

/* The word for the projections that a tensor holds: spell["gate up"]. */
static const char *find_spelling(const cJSON *spell, const struct form *form)
{
    char key[32] = "";

    for (unsigned p = 0; p < form->n_projs; p++) {
        strcat(key, p ? " " : "");
        strcat(key, proj_names[form->projs[p]]);
    }
    const cJSON *word = cJSON_GetObjectItemCaseSensitive(spell, key);
    return cJSON_IsString(word) ? word->valuestring : NULL;
}

/* {experts} and {proj} replaced, other holes kept. */
static int bind_name(struct layouts *layouts, const struct layout *layout, const struct form *form,
                     const char *experts, const cJSON *spell, struct name_template *name, struct error *err)
{
    const char *word = find_spelling(spell, form);
    UT_string *text;
    int result;

    if (!word)
        return error_set(err, "layout '%s': no spelling for the projections of a tensor", layout->name);
    utstring_new(text);
    for (const char *at = form->name; *at;) {
        if (strncmp(at, "{experts}", 9) == 0) {
            utstring_printf(text, "%s", experts);
            at += 9;
        } else if (strncmp(at, "{proj}", 6) == 0) {
            utstring_printf(text, "%s", word);
            at += 6;
        } else {
            utstring_bincpy(text, at, 1);
            at++;
        }
    }
    result = template_parse(utstring_body(text), &layouts->words, &layouts->arena, name, err);
    utstring_free(text);
    for (unsigned i = 0; result == 0 && i < name->n_holes; i++)
        layouts->enumerated[name->holes[i]] = true;
    return result;
}

static int load_layouts(struct layouts *layouts, const cJSON *root, struct error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "layouts");
    const cJSON *spell = cJSON_GetObjectItemCaseSensitive(root, "spell");
    const cJSON *experts = cJSON_GetObjectItemCaseSensitive(root, "experts");
    const cJSON *entry, *part;

    if (!cJSON_IsObject(list) || !cJSON_IsObject(spell) || !cJSON_IsString(experts))
        return error_set(err, "layouts.json: needs spell, experts and layouts");
    layouts->words.words[layouts->words.n++] = "proj";
    layouts->layouts = xcalloc((size_t)cJSON_GetArraySize(list), sizeof *layouts->layouts);
    layouts->bound = xcalloc((size_t)cJSON_GetArraySize(list), sizeof *layouts->bound);
    cJSON_ArrayForEach (entry, list) {
        struct layout *layout = &layouts->layouts[layouts->n_layouts];
        struct bound_layout *bound = &layouts->bound[layouts->n_layouts++];
        layout->name = arena_strdup(&layouts->arena, entry->string);
        layout->summary = take_string(layouts, cJSON_GetObjectItemCaseSensitive(entry, "summary"));
        cJSON_ArrayForEach (part, entry) {
            if (strcmp(part->string, "summary") != 0 && load_part(layouts, layout, part, err) < 0)
                return -1;
        }
        bound->layout = layout;
        for (unsigned f = 0; f < layout->n_forms; f++)
            if (bind_name(layouts, layout, &layout->forms[f], experts->valuestring, spell, &bound->names[f],
                          err) < 0)
                return -1;
    }
    return 0;
}

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

static int load_rule(struct layouts *layouts, const cJSON *entry, struct architecture *architecture,
                     struct error *err)
{
    struct block_rule *rule = &architecture->rules[architecture->n_rules];

    if (architecture->n_rules == BLOCK_RULES_MAX)
        return error_set(err, "architectures.json: more than %d groups", BLOCK_RULES_MAX);
    architecture->n_rules++;
    rule->blocks = take_string(layouts, cJSON_GetObjectItemCaseSensitive(entry, "block"));
    if (load_list(layouts, cJSON_GetObjectItemCaseSensitive(entry, "original"), &rule->original, err) < 0)
        return -1;
    return load_list(layouts, cJSON_GetObjectItemCaseSensitive(entry, "v5"), &rule->v5, err);
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
            architecture->loaders[l].loaders[architecture->loaders[l].n++] = take_string(layouts, name);
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
        architecture->types[n++] = take_string(layouts, item);
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

static int load_architectures(struct layouts *layouts, const cJSON *root, struct error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "architectures");
    const cJSON *entry;

    layouts->ignored = take_string(layouts, cJSON_GetObjectItemCaseSensitive(root, "ignored"));
    if (!cJSON_IsArray(list) || !layouts->ignored)
        return error_set(err, "architectures.json: needs ignored and architectures");
    layouts->architectures = xcalloc((size_t)cJSON_GetArraySize(list), sizeof *layouts->architectures);
    cJSON_ArrayForEach (entry, list) {
        if (load_architecture(layouts, entry, &layouts->architectures[layouts->n_architectures++], err) < 0)
            return -1;
    }
    return 0;
}

static int load_file(struct layouts *layouts, const char *name, const char *text,
                     int (*load)(struct layouts *, const cJSON *, struct error *), struct error *err)
{
    cJSON *root = cJSON_Parse(text);
    int result = root ? load(layouts, root, err) : error_set(err, "%s: not valid JSON", name);

    cJSON_Delete(root);
    return result;
}

int layouts_load(struct layouts *layouts, struct error *err)
{
    static const char *no_types[] = {NULL};

    *layouts = (struct layouts){.unknown = {.types = no_types}};
    if (load_file(layouts, "layouts.json", embedded_layouts, load_layouts, err) < 0 ||
        load_file(layouts, "architectures.json", embedded_architectures, load_architectures, err) < 0) {
        layouts_free(layouts);
        return -1;
    }
    return 0;
}

void layouts_free(struct layouts *layouts)
{
    free(layouts->layouts);
    free(layouts->bound);
    free(layouts->architectures);
    arena_free(&layouts->arena);
}
