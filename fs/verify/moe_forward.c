/* layout/data/functions.json and config.json, read for one block. */
#include "moe_forward.h"

#include "layout/base/embedded.h"
#include "layout/base/memory.h"

#include <cjson/cJSON.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

int moe_forwards_load(struct moe_forwards *forwards, struct error *err)
{
    forwards->json = cJSON_Parse(embedded_functions);
    return forwards->json ? 0 : error_set(err, "the built-in functions.json is not valid JSON");
}

void moe_forwards_free(struct moe_forwards *forwards)
{
    cJSON_Delete(forwards->json);
    forwards->json = NULL;
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
static const cJSON *in_config(const struct moe_forwards *forwards, const struct config *config,
                              const char *paths)
{
    const cJSON *under;

    cJSON_ArrayForEach (under, member(forwards->json, "under")) {
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

static const cJSON *find_entry(const struct moe_forwards *forwards, const struct config *config)
{
    const cJSON *entry, *type;

    cJSON_ArrayForEach (entry, member(forwards->json, "functions")) {
        cJSON_ArrayForEach (type, member(entry, "types")) {
            if (config->model_type && strcmp(type->valuestring, config->model_type) == 0)
                return entry;
        }
    }
    return member(forwards->json, "default");
}

/* A key of the entry, or of the default where the entry has none. */
static const cJSON *setting(const struct moe_forwards *forwards, const cJSON *entry, const char *key)
{
    const cJSON *value = member(entry, key);

    return value ? value : member(member(forwards->json, "default"), key);
}

/* A number of the entry itself, or at the path that the entry names in config.json; [path, number]: the
 * number where config.json has none. */
static float number(const struct moe_forwards *forwards, const struct config *config, const cJSON *value,
                    float otherwise)
{
    if (cJSON_IsArray(value)) {
        otherwise = number(forwards, config, cJSON_GetArrayItem(value, 1), otherwise);
        value = cJSON_GetArrayItem(value, 0);
    }
    if (cJSON_IsString(value))
        value = in_config(forwards, config, value->valuestring);
    return cJSON_IsNumber(value) ? (float)value->valuedouble : otherwise;
}

static bool truth(const struct moe_forwards *forwards, const struct config *config, const cJSON *value)
{
    if (cJSON_IsString(value))
        value = in_config(forwards, config, value->valuestring);
    return cJSON_IsTrue(value);
}

static const char *text(const cJSON *value)
{
    return cJSON_IsString(value) ? value->valuestring : NULL;
}

static void set_activation(const struct moe_forwards *forwards, const struct config *config,
                           const cJSON *entry, struct moe_forward *forward)
{
    static const struct {
        const char *name;
        enum moe_activation activation;
    } known[] = {{"silu", MOE_SILU},         {"swish", MOE_SILU},
                 {"gelu", MOE_GELU},         {"gelu_python", MOE_GELU},
                 {"relu", MOE_RELU},         {"gelu_pytorch_tanh", MOE_GELU_TANH},
                 {"relu2", MOE_RELU2},       {"gelu_python_tanh", MOE_GELU_TANH},
                 {"gelu_new", MOE_GELU_TANH}};
    const cJSON *value = in_config(forwards, config, setting(forwards, entry, "activation")->valuestring);
    const char *name = text(value) ? text(value) : setting(forwards, entry, "otherwise")->valuestring;

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) {
            forward->activation = known[i].activation;
            return;
        }
    forward->unknown = "its activation in config.json is not known here";
}

/* The number behind the block's last "layers.": limits may be given layer by layer. */
static int layer_of(const char *block)
{
    int layer = 0;

    for (const char *at = block; (at = strstr(at, "layers.")); at++)
        sscanf(at, "layers.%d", &layer);
    return layer;
}

static void set_limit(const struct moe_forwards *forwards, const struct config *config, const cJSON *entry,
                      const char *block, struct moe_forward *forward)
{
    const cJSON *limits = member(entry, "limits");

    forward->limit = number(forwards, config, member(entry, "limit"), INFINITY);
    if (limits) {
        const cJSON *list = in_config(forwards, config, limits->valuestring);
        forward->limit = number(forwards, config, cJSON_GetArrayItem(list, layer_of(block)), INFINITY);
        if (!(forward->limit > 0)) /* 0 means none */
            forward->limit = INFINITY;
    }
    forward->limit_after = cJSON_IsTrue(member(entry, "limit_after"));
}

static void set_router(const struct moe_forwards *forwards, const struct config *config, const cJSON *entry,
                       struct moe_forward *forward)
{
    const char *scores = text(setting(forwards, entry, "router"));
    const cJSON *one_of = member(entry, "one_of");

    forward->router.scores = strcmp(scores, "softmax") == 0   ? MOE_SCORES_SOFTMAX
                             : strcmp(scores, "sigmoid") == 0 ? MOE_SCORES_SIGMOID
                                                              : MOE_SCORES_GIVEN;
    /* choosing groups of experts first is another router */
    if (number(forwards, config, one_of, 1) > 1)
        forward->router.scores = MOE_SCORES_GIVEN;
    float top_k = number(forwards, config, setting(forwards, entry, "top_k"), 1);
    forward->router.top_k = top_k >= 1 && top_k <= 65536 ? (uint64_t)top_k : 1;
    forward->router.normalize = truth(forwards, config, member(entry, "normalize"));
    forward->router.scale = number(forwards, config, member(entry, "scale"), 1);
    forward->router.weight = text(member(entry, "weight"));
    forward->router.bias = text(member(entry, "bias"));
    forward->router.correction = text(member(entry, "correction"));
}

struct moe_forward moe_forward_of(const struct moe_forwards *forwards, const struct config *config,
                                  const char *block)
{
    const cJSON *entry = find_entry(forwards, config);
    const char *gate = text(member(entry, "gate")), *weighting = text(member(entry, "weighting"));
    const char *blocks = text(member(entry, "blocks"));
    struct moe_forward forward = {
        .gate = gate && strcmp(gate, "shifted") == 0 ? MOE_GATE_SHIFTED : MOE_GATE_PRODUCT,
        .alpha = number(forwards, config, member(entry, "alpha"), 1),
        .weighting = weighting && strcmp(weighting, "input") == 0 ? MOE_WEIGHT_INPUT : MOE_WEIGHT_OUTPUT,
        .unknown = text(member(entry, "unknown")),
    };

    set_activation(forwards, config, entry, &forward);
    set_limit(forwards, config, entry, block, &forward);
    set_router(forwards, config, entry, &forward);
    if (blocks && fnmatch(blocks, block, 0) != 0)
        forward.unknown = "these experts are no feed-forward layer";
    return forward;
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

float moe_neuron(const struct moe_forward *forward, bool has_gate, float gate, float up)
{
    const float limit = forward->limit;

    if (!has_gate)
        return activate(forward->activation, up);
    up = clamp(up, -limit, limit);
    if (!forward->limit_after)
        gate = clamp(gate, -INFINITY, limit);
    if (forward->gate == MOE_GATE_SHIFTED)
        return gate * sigmoid(forward->alpha * gate) * (up + 1);
    gate = activate(forward->activation, gate);
    return (forward->limit_after ? clamp(gate, -INFINITY, limit) : gate) * up;
}
