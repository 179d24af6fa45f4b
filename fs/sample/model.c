/* Reads an entry of samples.json and lists the tensors of the model that it describes. */
#include "model.h"

#include "layout/base/checked.h"
#include "layout/base/embedded.h"
#include "layout/format/natural.h"
#include "sizes.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>
#include <utarray.h>

#define NAME_SIZE 256

/* The entry of samples.json that is being built, and the sizes that hold for it. */
struct builder {
    struct sample_model *model;
    cJSON *root;
    const cJSON *entry, *preset;
    cJSON *sizes;
    UT_array *tensors; /* struct sample_tensor */
    struct error *err;
};

/* The kind of layers that a list of tensors is for: its first hole's numbers 1 to n, every n-th or all but
 * those. */
struct layer_filter {
    uint64_t every; /* 0: all layers */
    bool except;
};

/* One line of samples.json: a name with holes, and what all tensors of that name share. */
struct tensor_template {
    struct sample_tensor tensor;
    struct layer_filter filter;
    char name[NAME_SIZE]; /* as far as its holes are filled */
};

static const UT_icd tensor_icd = {.sz = sizeof(struct sample_tensor)};

static const char *get_text(const cJSON *object, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
    return text ? text : "";
}

static const cJSON *find_entry(const cJSON *list, const char *key, const char *name)
{
    const cJSON *entry;

    cJSON_ArrayForEach (entry, list) {
        if (strcmp(get_text(entry, key), name) == 0)
            return entry;
    }
    return NULL;
}

static int refuse_unknown(const cJSON *list, const char *key, const char *what, const char *name,
                          struct error *err)
{
    char *known = xstrdup("");
    const cJSON *entry;

    cJSON_ArrayForEach (entry, list) {
        char *longer = xasprintf("%s%s%s", known, *known ? ", " : "", get_text(entry, key));
        free(known);
        known = longer;
    }
    error_set(err, "no sample of %s '%s' (known: %s)", what, name, known);
    free(known);
    return -1;
}

static int find_entries(struct builder *b, const struct sample_request *request)
{
    const cJSON *models = cJSON_GetObjectItemCaseSensitive(b->root, "models");
    const cJSON *presets = cJSON_GetObjectItemCaseSensitive(b->root, "presets");
    const char *model_type = request->model_type;

    if (request->preset) {
        b->preset = find_entry(presets, "name", request->preset);
        if (!b->preset)
            return refuse_unknown(presets, "name", "checkpoint", request->preset, b->err);
        const char *preset_type = get_text(b->preset, "model_type");
        if (model_type && strcmp(model_type, preset_type))
            return error_set(b->err, "%s is of architecture %s, not %s", request->preset, preset_type,
                             model_type);
        model_type = preset_type;
    }
    b->entry = find_entry(models, "model_type", model_type);
    if (!b->entry)
        return refuse_unknown(models, "model_type", "architecture", model_type, b->err);
    b->model->model_type = arena_strdup(&b->model->arena, model_type);
    return 0;
}

static void set_size(cJSON *sizes, const char *name, cJSON *value)
{
    if (!value || !cJSON_ReplaceItemInObjectCaseSensitive(sizes, name, value))
        memory_exhausted();
}

/* The entry's sizes, then the preset's, then the user's in their place. */
static int collect_sizes(struct builder *b, const struct sample_request *request)
{
    const cJSON *limits = cJSON_GetObjectItemCaseSensitive(b->entry, "at_most"), *item;

    b->sizes = cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(b->entry, "sizes"), true);
    if (!b->sizes)
        memory_exhausted();
    cJSON_ArrayForEach (item, cJSON_GetObjectItemCaseSensitive(b->preset, "sizes"))
        set_size(b->sizes, item->string, cJSON_Duplicate(item, true));
    for (size_t i = 0; i < request->n_sizes; i++)
        set_size(b->sizes, request->sizes[i].name, cJSON_CreateNumber((double)request->sizes[i].value));
    cJSON_ArrayForEach (item, limits) {
        const char *limit = get_text(limits, item->string);
        uint64_t size, most;
        if (sample_sizes_evaluate(b->sizes, item->string, strlen(item->string), &size, b->err) < 0 ||
            sample_sizes_evaluate(b->sizes, limit, strlen(limit), &most, b->err))
            return -1;
        if (size > most)
            set_size(b->sizes, item->string, cJSON_CreateNumber((double)most));
    }
    return 0;
}

static int build_config(struct builder *b)
{
    cJSON *config = cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(b->entry, "config"), true);
    char *text = NULL;
    int result = -1;

    if (!config)
        memory_exhausted();
    if (sample_sizes_fill(b->sizes, config, b->err) < 0)
        goto out;
    text = cJSON_Print(config);
    char *generation = cJSON_Print(cJSON_GetObjectItemCaseSensitive(b->root, "generation_config"));
    if (!text || !generation)
        memory_exhausted();
    b->model->config = arena_strdup(&b->model->arena, text);
    b->model->generation_config = arena_strdup(&b->model->arena, generation);
    cJSON_free(generation);
    result = 0;
out:
    cJSON_free(text);
    cJSON_Delete(config);
    return result;
}

/* "experts 2*intermediate hidden": one dimension a word. */
static int parse_shape(struct builder *b, const char *text, struct tensor_info *info)
{
    uint64_t shape[SAFETENSORS_NDIM_MAX];
    uint8_t n = 0;

    while (*text) {
        size_t length = strcspn(text, " ");
        if (n == SAFETENSORS_NDIM_MAX)
            return error_set(b->err, "samples.json: more than %d dimensions", SAFETENSORS_NDIM_MAX);
        if (sample_sizes_evaluate(b->sizes, text, length, &shape[n++], b->err) < 0)
            return -1;
        text += length;
        text += *text == ' ';
    }
    info->shape = arena_memdup(&b->model->arena, shape, n * sizeof *shape);
    info->n_dims = n;
    return 0;
}

static int add_tensor(struct builder *b, const struct tensor_template *template)
{
    struct sample_tensor tensor = template->tensor;

    tensor.info.name = arena_strdup(&b->model->arena, template->name);
    if (utarray_len(b->tensors) == SAMPLE_TENSORS_MAX)
        return error_set(b->err, "more than %zu tensors: give fewer layers or experts", SAMPLE_TENSORS_MAX);
    if (!checked_add(b->model->total_size, tensor.length, &b->model->total_size) ||
        b->model->total_size > INT64_MAX)
        return error_set(b->err, "%s: the model is larger than %lld bytes", tensor.info.name,
                         (long long)INT64_MAX);
    utarray_push_back(b->tensors, &tensor);
    return 0;
}

static int append(struct tensor_template *template, size_t *at, const char *text, size_t length,
                  struct error *err)
{
    if (length >= NAME_SIZE - *at)
        return error_set(err, "samples.json: a name longer than %d bytes", NAME_SIZE - 1);
    memcpy(template->name + *at, text, length);
    *at += length;
    template->name[*at] = '\0';
    return 0;
}

/* Adds a tensor for every way to fill the holes of `rest`, which follows the first `at` bytes of the name. */
static int expand(struct builder *b, struct tensor_template *template, size_t at, const char *rest)
{
    size_t literal = strcspn(rest, "{"), hole = strcspn(rest + literal, "}");
    const struct layer_filter filter = template->filter;
    uint64_t count;

    if (append(template, &at, rest, literal, b->err) < 0)
        return -1;
    if (!rest[literal])
        return add_tensor(b, template);

    char name[NAME_SIZE];
    if (!rest[literal + hole])
        return error_set(b->err, "samples.json: %s: a hole without end", rest);
    snprintf(name, sizeof name, "%.*s", (int)hole - 1, rest + literal + 1);
    const char *size = get_text(cJSON_GetObjectItemCaseSensitive(b->entry, "holes"), name);
    if (sample_sizes_evaluate(b->sizes, size, strlen(size), &count, b->err) < 0)
        return -1;
    template->filter = (struct layer_filter){0};
    for (uint64_t i = 0; i < count; i++) {
        char digits[24];
        size_t end = at;
        if (filter.every && ((i + 1) % filter.every == 0) == filter.except)
            continue;
        snprintf(digits, sizeof digits, "%llu", (unsigned long long)i);
        if (append(template, &end, digits, strlen(digits), b->err) < 0 ||
            expand(b, template, end, rest + literal + hole + 1))
            return -1;
    }
    return 0;
}

static bool is_omitted(const cJSON *preset, const char *name)
{
    const cJSON *prefix;

    cJSON_ArrayForEach (prefix, cJSON_GetObjectItemCaseSensitive(preset, "omit")) {
        if (strncmp(name, prefix->valuestring, strlen(prefix->valuestring)) == 0)
            return true;
    }
    return false;
}

/* ["name", "shape"] or ["name", "shape", "one"]. */
static int add_template(struct builder *b, const cJSON *line, struct layer_filter filter)
{
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(line, 0));
    const char *shape = cJSON_GetStringValue(cJSON_GetArrayItem(line, 1));
    struct tensor_template template = {.filter = filter};
    struct sample_tensor *tensor = &template.tensor;

    if (!name || !shape)
        return error_set(b->err, "samples.json: a tensor without name or shape");
    if (is_omitted(b->preset, name))
        return 0;
    tensor->info.dtype = DTYPE_BF16;
    tensor->near_one = cJSON_GetArraySize(line) == 3;
    if (parse_shape(b, shape, &tensor->info) < 0)
        return -1;
    if (!safetensors_tensor_bytes(&tensor->info, &tensor->length))
        return error_set(b->err, "%s: the shape %s does not fit in 64 bits", name, shape);
    return expand(b, &template, 0, name);
}

/* A list of tensors; among them lists of those that only some layers have:
 * {"every": size, "tensors": [...]} and {"except_every": size, "tensors": [...]}. */
static int add_templates(struct builder *b, const cJSON *list, struct layer_filter filter)
{
    const cJSON *line;

    cJSON_ArrayForEach (line, list) {
        struct layer_filter inner = filter;
        if (cJSON_IsObject(line)) {
            inner.except = cJSON_HasObjectItem(line, "except_every");
            const char *size = get_text(line, inner.except ? "except_every" : "every");
            if (sample_sizes_evaluate(b->sizes, size, strlen(size), &inner.every, b->err) < 0 ||
                add_templates(b, cJSON_GetObjectItemCaseSensitive(line, "tensors"), inner))
                return -1;
        } else if (add_template(b, line, filter) < 0) {
            return -1;
        }
    }
    return 0;
}

/* The order in which checkpoints are saved. */
static int compare_natural(const void *left, const void *right)
{
    return natural_compare(((const struct sample_tensor *)left)->info.name,
                           ((const struct sample_tensor *)right)->info.name);
}

static int build(struct builder *b, const struct sample_request *request)
{
    struct sample_model *model = b->model;

    if (find_entries(b, request) < 0 || collect_sizes(b, request) < 0 || build_config(b) < 0 ||
        add_templates(b, cJSON_GetObjectItemCaseSensitive(b->entry, "tensors"), (struct layer_filter){0}))
        return -1;
    utarray_sort(b->tensors, compare_natural);
    model->n_tensors = utarray_len(b->tensors);
    model->tensors =
        arena_memdup(&model->arena, utarray_front(b->tensors), model->n_tensors * sizeof *model->tensors);

    uint64_t n_shards = request->n_shards, max_size = 0;
    const cJSON *limit = cJSON_GetObjectItemCaseSensitive(b->preset, "max_shard_size");
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(b->entry, "shards");
    if (!n_shards && limit)
        max_size = (uint64_t)cJSON_GetNumberValue(limit);
    else if (!n_shards)
        n_shards = (uint64_t)cJSON_GetNumberValue(number);
    return sample_shards_cut(model, n_shards, max_size, b->err);
}

int sample_model_build(const struct sample_request *request, struct sample_model *model, struct error *err)
{
    struct builder b = {.model = model, .err = err};

    *model = (struct sample_model){0};
    b.root = cJSON_ParseWithLength(embedded_samples, embedded_samples_length);
    if (!b.root)
        return error_set(err, "samples.json is not JSON");
    utarray_new(b.tensors, &tensor_icd);
    int result = build(&b, request);
    utarray_free(b.tensors);
    cJSON_Delete(b.sizes);
    cJSON_Delete(b.root);
    if (result)
        sample_model_free(model);
    return result;
}

void sample_model_free(struct sample_model *model)
{
    arena_free(&model->arena);
    *model = (struct sample_model){0};
}
