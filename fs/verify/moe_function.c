#include "moe_function.h"

#include "layout/base/embedded.h"
#include "layout/base/memory.h"

#include <cjson/cJSON.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

int moe_functions_load(struct moe_functions *functions, struct error *err)
{
    functions->json = cJSON_Parse(embedded_functions);
    return functions->json ? 0 : error_set(err, "the built-in functions are not valid JSON");
}

void moe_functions_free(struct moe_functions *functions)
{
    cJSON_Delete(functions->json);
    functions->json = NULL;
}

static const cJSON *member(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* The value at a dotted path below `object`, or NULL. */
static const cJSON *at_path(const cJSON *object, const char *path, size_t length)
{
    char key[64];

    while (object && length > 0) {
        size_t n = 0;
        while (n < length && path[n] != '.')
            n++;
        if (n >= sizeof key)
            return NULL;
        memcpy(key, path, n);
        key[n] = '\0';
        object = member(object, key);
        n += n < length;
        path += n;
        length -= n;
    }
    return object;
}

/* The first of the paths (separated by spaces) that config.json has, there or below one of its parts that
 * describe the language model. */
static const cJSON *in_config(const struct moe_functions *functions, const struct config *config,
                              const char *paths)
{
    const cJSON *under;

    cJSON_ArrayForEach (under, member(functions->json, "under")) {
        const cJSON *part = at_path(config->root, under->valuestring, strlen(under->valuestring));
        for (const char *path = paths; part && *path;) {
            size_t length = strcspn(path, " ");
            const cJSON *value = at_path(part, path, length);
            if (value && !cJSON_IsNull(value))
                return value;
            path += length + strspn(path + length, " ");
        }
    }
    return NULL;
}

static const cJSON *find_entry(const struct moe_functions *functions, const struct config *config)
{
    const cJSON *entry, *type;

    cJSON_ArrayForEach (entry, member(functions->json, "functions")) {
        cJSON_ArrayForEach (type, member(entry, "types")) {
            if (config->model_type && strcmp(type->valuestring, config->model_type) == 0)
                return entry;
        }
    }
    return member(functions->json, "default");
}

/* A key of the entry, or of the default where the entry has none. */
static const cJSON *setting(const struct moe_functions *functions, const cJSON *entry, const char *key)
{
    const cJSON *value = member(entry, key);

    return value ? value : member(member(functions->json, "default"), key);
}

/* A number of the entry itself, or at the path that the entry names in config.json; [path, number]: the
 * number where config.json has none. */
static float number(const struct moe_functions *functions, const struct config *config, const cJSON *value,
                    float otherwise)
{
    if (cJSON_IsArray(value)) {
        otherwise = number(functions, config, cJSON_GetArrayItem(value, 1), otherwise);
        value = cJSON_GetArrayItem(value, 0);
    }
    if (cJSON_IsString(value))
        value = in_config(functions, config, value->valuestring);
    return cJSON_IsNumber(value) ? (float)value->valuedouble : otherwise;
}

static bool truth(const struct moe_functions *functions, const struct config *config, const cJSON *value)
{
    if (cJSON_IsString(value))
        value = in_config(functions, config, value->valuestring);
    return cJSON_IsTrue(value);
}

static const char *text(const cJSON *value)
{
    return cJSON_IsString(value) ? value->valuestring : NULL;
}

static void set_activation(const struct moe_functions *functions, const struct config *config,
                           const cJSON *entry, struct moe_function *function)
{
    static const struct {
        const char *name;
        enum moe_activation activation;
    } known[] = {{"silu", MOE_SILU},         {"swish", MOE_SILU},
                 {"gelu", MOE_GELU},         {"gelu_python", MOE_GELU},
                 {"relu", MOE_RELU},         {"gelu_pytorch_tanh", MOE_GELU_TANH},
                 {"relu2", MOE_RELU2},       {"gelu_python_tanh", MOE_GELU_TANH},
                 {"gelu_new", MOE_GELU_TANH}};
    const cJSON *value = in_config(functions, config, setting(functions, entry, "activation")->valuestring);
    const char *name = text(value) ? text(value) : setting(functions, entry, "otherwise")->valuestring;

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) {
            function->activation = known[i].activation;
            return;
        }
    function->unknown = "its activation in config.json is not known here";
}

/* The number behind the block's last "layers.": limits may be given layer by layer. */
static int layer_of(const char *block)
{
    int layer = 0;

    for (const char *at = block; (at = strstr(at, "layers.")); at++)
        sscanf(at, "layers.%d", &layer);
    return layer;
}

static void set_limit(const struct moe_functions *functions, const struct config *config, const cJSON *entry,
                      const char *block, struct moe_function *function)
{
    const cJSON *limits = member(entry, "limits");

    function->limit = number(functions, config, member(entry, "limit"), INFINITY);
    if (limits) {
        const cJSON *list = in_config(functions, config, limits->valuestring);
        function->limit = number(functions, config, cJSON_GetArrayItem(list, layer_of(block)), INFINITY);
        if (!(function->limit > 0)) /* 0 means none */
            function->limit = INFINITY;
    }
    function->limit_after = cJSON_IsTrue(member(entry, "limit_after"));
}

static void set_router(const struct moe_functions *functions, const struct config *config, const cJSON *entry,
                       struct moe_function *function)
{
    const char *scores = text(setting(functions, entry, "router"));
    const cJSON *one_of = member(entry, "one_of");

    function->router.scores = strcmp(scores, "softmax") == 0   ? MOE_SCORES_SOFTMAX
                              : strcmp(scores, "sigmoid") == 0 ? MOE_SCORES_SIGMOID
                                                               : MOE_SCORES_GIVEN;
    /* choosing groups of experts first is another router */
    if (number(functions, config, one_of, 1) > 1)
        function->router.scores = MOE_SCORES_GIVEN;
    float top_k = number(functions, config, setting(functions, entry, "top_k"), 1);
    function->router.top_k = top_k >= 1 && top_k <= 65536 ? (uint64_t)top_k : 1;
    function->router.normalize = truth(functions, config, member(entry, "normalize"));
    function->router.scale = number(functions, config, member(entry, "scale"), 1);
    function->router.weight = text(member(entry, "weight"));
    function->router.bias = text(member(entry, "bias"));
    function->router.correction = text(member(entry, "correction"));
}

struct moe_function moe_function_of(const struct moe_functions *functions, const struct config *config,
                                    const char *block)
{
    const cJSON *entry = find_entry(functions, config);
    const char *gate = text(member(entry, "gate")), *weighting = text(member(entry, "weighting"));
    const char *blocks = text(member(entry, "blocks"));
    struct moe_function function = {
        .gate = gate && strcmp(gate, "shifted") == 0 ? MOE_GATE_SHIFTED : MOE_GATE_PRODUCT,
        .alpha = number(functions, config, member(entry, "alpha"), 1),
        .weighting = weighting && strcmp(weighting, "input") == 0 ? MOE_WEIGHT_INPUT : MOE_WEIGHT_OUTPUT,
        .unknown = text(member(entry, "unknown")),
    };

    set_activation(functions, config, entry, &function);
    set_limit(functions, config, entry, block, &function);
    set_router(functions, config, entry, &function);
    if (blocks && fnmatch(blocks, block, 0) != 0)
        function.unknown = "these experts are no feed-forward layer";
    return function;
}

static float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

static float activate(enum moe_activation activation, float x)
{
    switch (activation) {
    case MOE_SILU:
        return x * sigmoid(x);
    case MOE_GELU:
        return 0.5f * x * (1 + erff(x * (float)M_SQRT1_2));
    case MOE_GELU_TANH:
        return 0.5f * x * (1 + tanhf((float)(M_2_SQRTPI * M_SQRT1_2) * (x + 0.044715f * x * x * x)));
    case MOE_RELU:
        return x > 0 ? x : 0;
    case MOE_RELU2:
        return x > 0 ? x * x : 0;
    }
    return NAN;
}

/* As torch.clamp: NaN stays. */
static float clamp(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

float moe_neuron(const struct moe_function *function, bool has_gate, float gate, float up)
{
    const float limit = function->limit;

    if (!has_gate)
        return activate(function->activation, up);
    up = clamp(up, -limit, limit);
    if (!function->limit_after)
        gate = clamp(gate, -INFINITY, limit);
    if (function->gate == MOE_GATE_SHIFTED)
        return gate * sigmoid(function->alpha * gate) * (up + 1);
    gate = activate(function->activation, gate);
    return (function->limit_after ? clamp(gate, -INFINITY, limit) : gate) * up;
}
