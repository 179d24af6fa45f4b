/* Reading config.json: strictly, and as Python's json and transformers understand it. */
#include "config.h"

#include "json.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

/* The keys whose numbers are collected, wherever in the file they stand. */
static const char *const COUNT_KEYS[] = {"num_experts", "num_local_experts", "n_routed_experts",
                                         "moe_num_experts", NULL};
/* The number of the first MoE layer, from 0, and every how many layers there is one, the last of each so many. */
static const char *const FIRST_KEYS[] = {"first_k_dense_replace", "num_dense_layers", "moe_layer_start_index",
                                         "expert_layer_offset", NULL};
static const char *const STEP_KEYS[] = {"decoder_sparse_step", "interleave_moe_layer_step", NULL};
static const char *const HIDDEN_KEYS[] = {"hidden_size", "d_model",         "n_embd",
                                          "embed_dim",   "moe_latent_size", NULL};
static const char *const INNER_KEYS[] = {"moe_intermediate_size",
                                         "intermediate_size",
                                         "intermediate_size_mlp",
                                         "expert_ffn_hidden_size",
                                         "ffn_hidden_size",
                                         "ffn_dim",
                                         "encoder_ffn_dim",
                                         "decoder_ffn_dim",
                                         "d_ff",
                                         NULL};

static bool is_key_of(const struct json_token *key, const char *const *keys)
{
    for (; *keys; keys++)
        if (strlen(*keys) == key->length && memcmp(*keys, key->text, key->length) == 0)
            return true;
    return false;
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

static void set_add(struct config_set *set, uint64_t number)
{
    size_t n = set->n;

    if ((n & (n - 1)) == 0) /* full at each power of two */
        set->numbers = xreallocarray(set->numbers, n ? 2 * n : 1, sizeof *set->numbers);
    set->numbers[set->n++] = number;
}

static void set_sort(struct config_set *set)
{
    size_t kept = 0;

    if (set->n > 0)
        qsort(set->numbers, set->n, sizeof *set->numbers, compare_numbers);
    for (size_t i = 0; i < set->n; i++)
        if (i == 0 || set->numbers[i] != set->numbers[i - 1])
            set->numbers[kept++] = set->numbers[i];
    set->n = kept;
}

bool config_set_has(const struct config_set *set, uint64_t number)
{
    return set->n > 0 && bsearch(&number, set->numbers, set->n, sizeof number, compare_numbers);
}

/* Which set the numbers of the key belong to, or NULL. */
static struct config_set *set_of_key(struct config *config, const struct json_token *key)
{
    if (is_key_of(key, COUNT_KEYS))
        return &config->expert_counts;
    if (is_key_of(key, HIDDEN_KEYS))
        return &config->hidden_sizes;
    return is_key_of(key, INNER_KEYS) ? &config->inner_sizes : NULL;
}

/* Collects the numbers behind a key; of sizes, which some architectures have one for each layer, those of a
 * list too. *set: where they go, as the token before left it. */
static void collect(struct config *config, const struct json_token *token, struct config_set **set,
                    bool *in_list)
{
    uint64_t number;

    if (token->kind == JSON_KEY) {
        *set = set_of_key(config, token);
        *in_list = false;
        return;
    }
    if (*set && json_u64(token, &number) && number > 0)
        set_add(*set, number);
    if (token->kind == JSON_ARRAY_BEGIN && !*in_list && *set != &config->expert_counts)
        *in_list = true;
    else if (token->kind != JSON_NUMBER || !*in_list)
        *set = NULL;
}

/* cJSON cuts a string at U+0000: where a string becomes a name, that must not pass. */
static int check_string(const struct json_token *token, struct error *err)
{
    struct arena arena = {0};
    const char *text;
    size_t length;

    int failed = json_string(token, &arena, &text, &length, err);
    arena_free(&arena);
    return failed;
}

/* One strict pass over the text: it gives the place of an error, collects counts and sizes exactly (cJSON's
 * numbers are doubles), and copies the text to `plain` with the numbers that cJSON does not know as null. */
static int scan(const char *text, size_t length, struct config *config, char *plain, size_t *plain_length,
                struct error *err)
{
    struct json_reader reader;
    struct json_token token;
    struct config_set *set = NULL;
    bool in_list = false, is_object = false;
    size_t copied = 0, out = 0;

    json_reader_init(&reader, text, length);
    reader.accept_nan = true;
    for (bool first = true;; first = false) {
        if (json_next(&reader, &token, err) < 0)
            return -1;
        if (token.kind == JSON_END)
            break;
        if (first)
            is_object = token.kind == JSON_OBJECT_BEGIN;
        if (token.escaped && reader.depth == 1 && check_string(&token, err) < 0)
            return error_set(err, "byte %zu: %s", (size_t)(token.text - text), err->text);
        collect(config, &token, &set, &in_list);
        if (token.kind == JSON_NUMBER && token.text[token.length - 1] > '9') {
            size_t before = (size_t)(token.text - text) - copied;
            memcpy(plain + out, text + copied, before);
            memcpy(plain + out + before, "null", 4);
            out += before + 4;
            copied = reader.at;
        }
    }
    set_sort(&config->expert_counts);
    set_sort(&config->hidden_sizes);
    set_sort(&config->inner_sizes);
    memcpy(plain + out, text + copied, length - copied);
    *plain_length = out + length - copied;
    return is_object ? 0 : error_set(err, "byte 0: not a JSON object");
}

/* The value of the object's key, or NULL; no other kind of value has keys. Python takes the last of a key
 * that is given twice, cJSON the first. */
static const cJSON *find_last(const cJSON *object, const char *key)
{
    const cJSON *found = NULL, *member;

    if (!cJSON_IsObject(object))
        return NULL;
    cJSON_ArrayForEach (member, object) {
        if (strcmp(member->string, key) == 0)
            found = member;
    }
    return found;
}

static int read_name(const char *path, const cJSON *root, const char *key, const char **name,
                     struct error *err)
{
    const cJSON *value = find_last(root, key);

    if (!value || cJSON_IsNull(value))
        return 0;
    if (!cJSON_IsString(value))
        return error_set(err, "%s: %s is not a string", path, key);
    *name = value->valuestring;
    return 0;
}

static int parse(const char *path, const char *text, size_t length, struct config *config, struct error *err)
{
    if (length > CONFIG_LENGTH_MAX)
        return error_set(err, "%s has %zu bytes, more than the %d that such a file may have", path, length,
                         CONFIG_LENGTH_MAX);

    cleanup_free char *plain = xmalloc(length + length / 3 + 1); /* NaN grows by one byte in three */
    size_t plain_length = 0;

    if (scan(text, length, config, plain, &plain_length, err) < 0)
        return error_set(err, "%s: %s", path, err->text);
    config->root = cJSON_ParseWithLength(plain, plain_length);
    if (!config->root) {
        const char *at = cJSON_GetErrorPtr();
        return error_set(err, "%s: near byte %zu: malformed JSON", path, at ? (size_t)(at - plain) : 0);
    }
    config->text = xstrndup(text, length);
    config->length = length;
    if (read_name(path, config->root, "model_type", &config->model_type, err) < 0)
        return -1;
    return read_name(path, config->root, "transformers_weights", &config->transformers_weights, err);
}

int config_parse(const char *path, const char *text, size_t length, struct config *config, struct error *err)
{
    *config = (struct config){0};
    if (parse(path, text, length, config, err) == 0)
        return 0;
    config_free(config);
    return -1;
}

static size_t add_number(const cJSON *value, uint64_t *numbers, size_t n, size_t max)
{
    if (!cJSON_IsNumber(value) || value->valuedouble < 1 || value->valuedouble > 9007199254740992.0 ||
        value->valuedouble != (double)(uint64_t)value->valuedouble || n == max)
        return n;
    uint64_t number = (uint64_t)value->valuedouble;
    for (size_t i = 0; i < n; i++)
        if (numbers[i] == number)
            return n;
    numbers[n] = number;
    return n + 1;
}

/* The value at one dotted path, or NULL. */
static const cJSON *find_path(const cJSON *root, const char *path, size_t length)
{
    char key[64];

    for (const char *at = path, *end = path + length; root && at < end;) {
        size_t n = strcspn(at, ". ");
        snprintf(key, sizeof key, "%.*s", (int)n, at);
        root = find_last(root, key);
        at += n + 1;
    }
    return root;
}

size_t config_numbers(const struct config *config, const char *paths, uint64_t *numbers, size_t max)
{
    size_t n = 0;

    if (!config)
        return 0;
    for (const char *at = paths; *at;) {
        size_t length = strcspn(at, " ");
        const cJSON *value = find_path(config->root, at, length), *member;
        if (cJSON_IsArray(value)) {
            cJSON_ArrayForEach (member, value) {
                n = add_number(member, numbers, n, max);
            }
        } else {
            n = add_number(value, numbers, n, max);
        }
        at += length + (at[length] == ' ');
    }
    return n;
}

static double number_or(const cJSON *object, const char *key, double otherwise)
{
    const cJSON *value = find_last(object, key);

    return value && cJSON_IsNumber(value) ? value->valuedouble : otherwise;
}

/* Whether the list names every layer from 0 on. */
static bool lists_all(const cJSON *list, double n_layers)
{
    const cJSON *member;
    double n = 0;

    for (double layer = 0; cJSON_IsArray(list) && layer < n_layers && n == layer; layer++)
        cJSON_ArrayForEach (member, list) {
            if (cJSON_IsNumber(member) && member->valuedouble == layer) {
                n++;
                break;
            }
        }
    return n_layers > 0 && n == n_layers;
}

static bool is_empty_list(const cJSON *list)
{
    return cJSON_IsArray(list) && cJSON_GetArraySize(list) == 0;
}

static bool lists_only(const cJSON *list, const char *word)
{
    const cJSON *member;

    cJSON_ArrayForEach (member, list) {
        if (!cJSON_IsString(member) || strcmp(member->valuestring, word) != 0)
            return false;
    }
    return cJSON_GetArraySize(list) > 0;
}

/* Whether the list says 0 or false of every layer. */
static bool lists_nothing(const cJSON *list)
{
    const cJSON *member;

    if (!cJSON_IsArray(list))
        return false;
    cJSON_ArrayForEach (member, list) {
        if (!cJSON_IsFalse(member) && !(cJSON_IsNumber(member) && member->valuedouble == 0))
            return false;
    }
    return cJSON_GetArraySize(list) > 0;
}

/* Whether the layers' kinds are listed, and none of them is this one. */
static bool lists_without(const cJSON *list, const char *word)
{
    const cJSON *member;

    cJSON_ArrayForEach (member, list) {
        if (!cJSON_IsString(member) || strcmp(member->valuestring, word) == 0)
            return false;
    }
    return cJSON_GetArraySize(list) > 0;
}

/* Whether the number of the first MoE layer is that of no layer. */
static bool begins_behind(const cJSON *model, double n_layers)
{
    for (const char *const *key = FIRST_KEYS; n_layers > 0 && *key; key++)
        if (number_or(model, *key, -1) >= n_layers)
            return true;
    for (const char *const *key = STEP_KEYS; n_layers > 0 && *key; key++)
        if (number_or(model, *key, 0) > n_layers)
            return true;
    return false;
}

/* One model's configuration, in the words of transformers' configurations. */
static bool has_dense_layers_only(const cJSON *model)
{
    double n_layers = number_or(model, "num_hidden_layers", 0);
    const cJSON *pattern = find_last(model, "hybrid_override_pattern");

    return lists_all(find_last(model, "mlp_only_layers"), n_layers) || begins_behind(model, n_layers) ||
           is_empty_list(find_last(model, "moe_layers")) ||
           lists_only(find_last(model, "mlp_layer_types"), "dense") ||
           lists_without(find_last(model, "layers_block_type"), "moe") ||
           lists_nothing(find_last(model, "moe_layer_freq")) ||
           lists_nothing(find_last(model, "is_moe_layer")) ||
           (cJSON_IsString(pattern) && !strchr(pattern->valuestring, 'E')) ||
           cJSON_IsFalse(find_last(model, "enable_moe_block"));
}

/* Whether no model from here down has an MoE layer. The parser bounds the depth. */
static bool is_dense(const cJSON *object)
{
    const cJSON *member;
    double count = 0;

    for (const char *const *key = COUNT_KEYS; cJSON_IsObject(object) && *key; key++) {
        double other = number_or(object, *key, 0);
        count = other > count ? other : count;
    }
    if (count > 1 && !has_dense_layers_only(object))
        return false;
    cJSON_ArrayForEach (member, object) {
        if ((cJSON_IsObject(member) || cJSON_IsArray(member)) && !is_dense(member))
            return false;
    }
    return true;
}

bool config_is_dense(const struct config *config)
{
    return !config->root || is_dense(config->root);
}

void config_free(struct config *config)
{
    cJSON_Delete(config->root);
    free(config->text);
    free(config->expert_counts.numbers);
    free(config->hidden_sizes.numbers);
    free(config->inner_sizes.numbers);
    *config = (struct config){0};
}
