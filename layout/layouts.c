/* Looking up what is known: layouts, architectures, forms. */
#include "layouts.h"

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

bool layouts_is_file(const char *name)
{
    size_t length = strlen(name);

    return strchr(name, '/') || (length > 5 && strcmp(name + length - 5, ".json") == 0);
}

const struct layout *layouts_find(const struct layouts *layouts, const char *name)
{
    for (unsigned i = 0; i < layouts->n_layouts; i++)
        if (strcmp(layouts->layouts[i].name, name) == 0)
            return &layouts->layouts[i];
    return NULL;
}

const struct bound_layout *layouts_bound(const struct layouts *layouts, const struct block_rule *rule,
                                         const struct layout *layout)
{
    return &rule->bound[layout - layouts->layouts];
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

/* The axes of one dimension without those of one step: `proj` where a tensor holds one projection. */
static unsigned dim_axes(const struct form *form, unsigned d, uint8_t kept[AXES_DIMS_MAX])
{
    unsigned n = 0;

    for (unsigned i = 0; i < form->axes.dims[d].n; i++)
        if (form->axes.dims[d].axis[i] != AXIS_PROJ || form->n_projs > 1)
            kept[n++] = form->axes.dims[d].axis[i];
    return n;
}

static bool form_same_placement(const struct form *a, const struct form *b)
{
    uint8_t x[AXES_DIMS_MAX], y[AXES_DIMS_MAX];

    if (a->part != b->part || a->n_projs != b->n_projs || memcmp(a->projs, b->projs, a->n_projs) != 0 ||
        a->axes.n_dims != b->axes.n_dims || strcmp(a->name.text, b->name.text) != 0)
        return false;
    for (unsigned d = 0; d < a->axes.n_dims; d++) {
        unsigned n = dim_axes(a, d, x);
        if (n != dim_axes(b, d, y) || memcmp(x, y, n) != 0)
            return false;
    }
    return true;
}

bool bound_same_placement(const struct bound_layout *a, const struct bound_layout *b)
{
    if (a->n_forms != b->n_forms || a->layout->block != b->layout->block)
        return false;
    for (unsigned f = 0; f < a->n_forms; f++) {
        bool found = false;
        for (unsigned g = 0; g < b->n_forms; g++)
            found |= form_same_placement(&a->forms[f], &b->forms[g]);
        if (!found)
            return false;
    }
    return true;
}

bool layouts_is_main(const struct layouts *layouts, uint8_t part)
{
    return strcmp(layouts->parts[part], "weight") == 0 || strcmp(layouts->parts[part], "blocks") == 0;
}

bool layouts_is_packed(const struct layouts *layouts, uint8_t part)
{
    return strcmp(layouts->parts[part], "packed") == 0;
}

unsigned bound_find_form(const struct bound_layout *bound, uint8_t part, enum proj proj, uint8_t *position)
{
    for (unsigned f = 0; f < bound->n_forms; f++)
        for (unsigned p = 0; p < bound->forms[f].n_projs; p++)
            if (bound->forms[f].part == part && bound->forms[f].projs[p] == proj) {
                *position = (uint8_t)p;
                return f;
            }
    return FORMS_MAX;
}

bool layouts_is_scale(const struct layouts *layouts, uint8_t part)
{
    return strstr(layouts->parts[part], "scale") != NULL;
}

bool bound_has_part(const struct bound_layout *bound, uint8_t part)
{
    for (unsigned f = 0; f < bound->n_forms; f++)
        if (bound->forms[f].part == part)
            return true;
    return false;
}

const char *form_text(const struct layouts *layouts, const struct form *form, struct arena *arena)
{
    const char *axes = axes_text(&form->axes, &layouts->words, arena);
    UT_string text;

    utstring_init(&text);
    for (unsigned p = 0; p < form->n_projs; p++)
        utstring_printf(&text, "%s%s", p ? " " : "", proj_name(form->projs[p]));
    if (!layouts_is_main(layouts, form->part))
        utstring_printf(&text, " (%s)", layouts->parts[form->part]);
    utstring_printf(&text, ": %s", *axes ? axes : "a scalar");
    const char *copy = arena_strdup(arena, utstring_body(&text));
    utstring_done(&text);
    return copy;
}

const char *layouts_part_option(const struct layouts *layouts, const struct layout *layout, uint8_t part)
{
    const cJSON *json = cJSON_GetObjectItemCaseSensitive(layout->json, layouts->parts[part]);
    const cJSON *option = cJSON_GetObjectItemCaseSensitive(json, "option");

    return cJSON_IsString(option) ? option->valuestring : NULL;
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
    unsigned distance = strlen(name) < 6 ? 2 : 4; /* as many changes make any name */
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
