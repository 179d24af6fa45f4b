/* Binding: a layout in the spelling of one group of an architecture. Words take the place of {proj} and
 * {experts}, and what the architecture says of a layout takes the place of what the layout says itself. */
#include "layout/base/text.h"
#include "layouts_bind.h"

#include <string.h>

#include <cjson/cJSON.h>
#include <utstring.h>

#define BUILT_IN "layouts.json"

const char *layouts_json_text(const cJSON *object, const char *key)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, key);

    return cJSON_IsString(value) ? value->valuestring : NULL;
}

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
        return text_nth_word(table->valuestring, n, length);
    }
    for (unsigned p = 0; p < form->n_projs; p++) {
        strcat(key, p ? " " : "");
        strcat(key, proj_name(form->projs[p]));
    }
    const char *word = cJSON_IsObject(table) ? layouts_json_text(table, written ? written : key) : NULL;
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
    const char *experts = layouts_json_text(spelling->entry, "experts");
    size_t length = 0;
    const char *word = strstr(name, "{proj}") ? find_word(spelling, form, written, &length) : "";
    UT_string text;

    if (!word)
        return NULL;
    if (!experts)
        experts = layouts_json_text(spelling->defaults, "experts");
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
        const char *renamed = inside ? layouts_json_text(renames, word) : NULL;
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
                     const char *name, const cJSON *entry, struct form *form,
                     const struct json_position *position, struct error *err)
{
    cleanup_free char *axes = rename_axes(entry->valuestring, false, spelling, form);
    cleanup_free char *expanded = expand_name(name, spelling, form, entry->string);
    cleanup_free char *text = expanded ? rename_axes(expanded, true, spelling, form) : NULL;
    struct json_position of_name = *position;
    struct error cause = {0};
    int result = 0;

    of_name.key = "name";
    if (!text)
        return json_malformed(position, err, "no word says how these projections are spelled");
    if (axes_parse(axes, &layouts->words, &layouts->arena, &form->axes, &cause) < 0)
        result = json_malformed(position, err, cause.text);
    else if (template_parse(text, &rule->enumeration, &layouts->words, &layouts->arena, &form->name, &cause) <
             0)
        result = json_malformed(&of_name, err, cause.text);
    else if (form->n_projs > 1 && !axes_contain(&form->axes, AXIS_PROJ))
        result = json_malformed(position, err, "holds several projections, but has no axis proj");
    error_free(&cause);
    if (result < 0)
        return -1;
    int hole = template_integer_hole(&form->name);
    if (hole >= 0 && axes_contain(&form->axes, form->name.holes[hole].axis))
        return json_malformed(position, err, "has an axis that is in the name too");
    if (hole >= 0)
        layouts->enumerated[form->name.holes[hole].axis] = true;
    return 0;
}

/* Every projection of the architecture is in exactly one kind of tensor, and each kind has names of
 * its own. */
static int check_forms(const struct form *forms, uint8_t n, const struct spelling *spelling,
                       struct json_position *position, struct error *err)
{
    unsigned times[PROJ_COUNT] = {0};

    position->key = "name";
    for (uint8_t f = 0; f < n; f++) {
        for (uint8_t p = 0; p < forms[f].n_projs; p++)
            times[forms[f].projs[p]]++;
        for (uint8_t g = 0; g < f; g++)
            if (strcmp(forms[f].name.text, forms[g].name.text) == 0)
                return json_malformed(position, err, "is the same for two kinds of tensor");
    }
    position->key = NULL;
    for (unsigned p = 0; p < PROJ_COUNT; p++) {
        cleanup_free char *what =
            xasprintf("has %s in %u kinds of tensor, not in one", proj_name(p), times[p]);
        if (spelling->has_proj[p] && times[p] != 1)
            return json_malformed(position, err, what);
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
    const char *own = layouts_json_text(spelling->overrides, "name"), *name = layouts_json_text(part, "name");
    const cJSON *weight_part = cJSON_GetObjectItemCaseSensitive(spelling->layout, "weight");
    const char *weight = layouts_json_text(weight_part, "name");
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
                     const cJSON *json, struct bound_layout *bound, struct json_position *position,
                     struct error *err)
{
    cleanup_free char *name = part_name(spelling, json);
    uint8_t first = bound->n_forms, part;
    const cJSON *entry;

    position->part = json->string;
    position->key = "name";
    if (!name)
        return json_malformed(position, err, "is missing or is not a text");
    if (add_part(layouts, json->string, &part) < 0)
        return json_malformed(position, err, "is one part more than moefs supports");
    cJSON_ArrayForEach (entry, json) {
        struct form form = {.part = part};
        position->key = entry->string;
        if (!is_form_key(entry->string))
            continue;
        if (!cJSON_IsString(entry) || !parse_projs(entry->string, spelling, &form))
            return json_malformed(position, err, "is not a list of gate, up, down with a text of axes");
        if (form.n_projs == 0)
            continue;
        if (bound->n_forms == FORMS_MAX)
            return json_malformed(position, err, "is one kind of tensor more than moefs supports");
        if (bind_form(layouts, rule, spelling, name, entry, &form, position, err) < 0)
            return -1;
        bound->fused |= form.n_projs > 1;
        bound->forms[bound->n_forms++] = form;
    }
    return check_forms(bound->forms + first, bound->n_forms - first, spelling, position, err);
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

/* Every part: as the architecture describes it, else as the layout does. */
static int bind_parts(struct layouts *layouts, struct block_rule *rule, struct spelling spelling,
                      const struct layout *layout, struct bound_layout *bound, struct json_position *position,
                      struct error *err)
{
    const cJSON *part, *own;

    spelling.layout = layout->json;
    spelling.overrides = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(spelling.entry, "layouts"), layout->name);
    cJSON_ArrayForEach (part, layout->json) {
        if (!is_part_key(part->string))
            continue;
        if (!cJSON_IsObject(part)) {
            position->part = NULL;
            position->key = part->string;
            return json_malformed(position, err, "is neither a part (an object) nor a key of a layout");
        }
        own = cJSON_GetObjectItemCaseSensitive(spelling.overrides, part->string);
        if (bind_part(layouts, rule, &spelling, own ? own : part, bound, position, err) < 0)
            return -1;
    }
    cJSON_ArrayForEach (own, spelling.overrides) {
        if (is_part_key(own->string) && !cJSON_GetObjectItemCaseSensitive(layout->json, own->string) &&
            bind_part(layouts, rule, &spelling, own, bound, position, err) < 0)
            return -1;
    }
    return 0;
}

static int bind_layout(struct layouts *layouts, struct block_rule *rule, const struct spelling *spelling,
                       const struct layout *layout, struct json_position *position, struct error *err)
{
    struct bound_layout *bound = &rule->bound[layout - layouts->layouts];
    struct form forms[FORMS_MAX];

    *bound = (struct bound_layout){.layout = layout, .forms = forms};
    int result = bind_parts(layouts, rule, *spelling, layout, bound, position, err);
    bound->forms = arena_memdup(&layouts->arena, forms, bound->n_forms * sizeof *forms);
    if (result < 0)
        return -1;
    position->part = NULL;
    position->key = "weight";
    for (unsigned f = 0; f < bound->n_forms; f++)
        if (layouts_is_main(layouts, bound->forms[f].part))
            return 0;
    return json_malformed(position, err, "is missing: the layout has no place for weights");
}

static void load_projs(const cJSON *entry, struct spelling *spelling)
{
    const char *projs = layouts_json_text(entry, "projs");

    for (unsigned p = 0; p < PROJ_COUNT; p++)
        spelling->has_proj[p] = !projs || strstr(projs, proj_name(p));
}

static int bind_layouts(struct layouts *layouts, struct block_rule *rule, bool users, struct error *err)
{
    struct spelling spelling = {.defaults = layouts->layouts_json, .entry = rule->json};

    load_projs(rule->json, &spelling);
    for (unsigned i = 0; i < layouts->n_layouts; i++) {
        const struct layout *layout = &layouts->layouts[i];
        struct json_position position = {.file = BUILT_IN, .layout = layout->name};
        if ((layout->user != NULL) != users)
            continue;
        if (users)
            position = (struct json_position){.file = layout->user->path, .lines = &layout->user->lines};
        if (bind_layout(layouts, rule, &spelling, layout, &position, err) < 0)
            return -1;
    }
    return 0;
}

int layouts_bind(struct layouts *layouts, const cJSON *entry, struct block_rule *rule, struct error *err)
{
    rule->json = entry;
    rule->bound = arena_alloc(&layouts->arena, LAYOUTS_MAX * sizeof *rule->bound);
    return bind_layouts(layouts, rule, false, err);
}

int layouts_bind_users(struct layouts *layouts, struct block_rule *rule, struct error *err)
{
    return bind_layouts(layouts, rule, true, err);
}
