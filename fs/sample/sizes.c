/* The sizes of a sample: expressions over names, evaluated with checked arithmetic. */
#include "sizes.h"

#include "layout/base/checked.h"
#include "layout/base/memory.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <string.h>

#define NAME_MAX_LENGTH 63
#define DEPTH_MAX 8 /* sizes that are expressions of sizes: a circle ends here */

/* Numbers of samples.json are exact up to here: cJSON keeps doubles. */
#define EXACT_MAX 9007199254740992.0

static int evaluate(const cJSON *sizes, const char *at, size_t length, unsigned depth, uint64_t *value,
                    struct error *err);

static const cJSON *find_size(const cJSON *sizes, const char *name, size_t length)
{
    char text[NAME_MAX_LENGTH + 1];

    if (length > NAME_MAX_LENGTH)
        return NULL;
    memcpy(text, name, length);
    text[length] = '\0';
    return cJSON_GetObjectItemCaseSensitive(sizes, text);
}

static int evaluate_name(const cJSON *sizes, const char *name, size_t length, unsigned depth, uint64_t *value,
                         struct error *err)
{
    const cJSON *size = find_size(sizes, name, length);

    if (cJSON_IsNumber(size) && size->valuedouble >= 0 && size->valuedouble <= EXACT_MAX) {
        *value = (uint64_t)size->valuedouble;
        return 0;
    }
    if (cJSON_IsArray(size)) {
        *value = (uint64_t)cJSON_GetArraySize(size);
        return 0;
    }
    if (cJSON_IsString(size) && depth < DEPTH_MAX)
        return evaluate(sizes, size->valuestring, strlen(size->valuestring), depth + 1, value, err);
    return error_set(err, "samples.json: '%.*s' is not a size", (int)length, name);
}

static int evaluate_factor(const cJSON *sizes, const char *text, size_t length, unsigned depth,
                           uint64_t *value, struct error *err)
{
    if (!length || !isdigit((unsigned char)text[0]))
        return evaluate_name(sizes, text, length, depth, value, err);
    *value = 0;
    for (size_t i = 0; i < length; i++)
        if (!isdigit((unsigned char)text[i]) || !checked_mul(*value, 10, value) ||
            !checked_add(*value, (uint64_t)(text[i] - '0'), value))
            return error_set(err, "samples.json: '%.*s' is not a size", (int)length, text);
    return 0;
}

static int evaluate(const cJSON *sizes, const char *at, size_t length, unsigned depth, uint64_t *value,
                    struct error *err)
{
    const char *text = at, *end = at + length;
    uint64_t product = 1;

    *value = 0;
    for (;;) {
        const char *stop = at;
        uint64_t factor;

        while (stop < end && *stop != '*' && *stop != '+')
            stop++;
        if (evaluate_factor(sizes, at, (size_t)(stop - at), depth, &factor, err) < 0)
            return -1;
        if (!checked_mul(product, factor, &product))
            return error_set(err, "the size %.*s does not fit in 64 bits", (int)length, text);
        if (stop == end || *stop == '+') {
            if (!checked_add(*value, product, value))
                return error_set(err, "the size %.*s does not fit in 64 bits", (int)length, text);
            product = 1;
        }
        if (stop == end)
            return 0;
        at = stop + 1;
    }
}

int sample_sizes_evaluate(const cJSON *sizes, const char *expression, size_t length, uint64_t *value,
                          struct error *err)
{
    return evaluate(sizes, expression, length, 0, value, err);
}

/* The tree's new node in place of "{expression}". */
static int make_value(const cJSON *sizes, const char *expression, size_t length, cJSON **node,
                      struct error *err)
{
    const cJSON *size = find_size(sizes, expression, length);
    uint64_t value;

    if (cJSON_IsArray(size)) {
        *node = cJSON_Duplicate(size, true);
    } else {
        if (sample_sizes_evaluate(sizes, expression, length, &value, err) < 0)
            return -1;
        *node = cJSON_CreateNumber((double)value);
    }
    if (!*node)
        memory_exhausted();
    return 0;
}

int sample_sizes_fill(const cJSON *sizes, cJSON *tree, struct error *err)
{
    for (cJSON *child = tree->child, *next; child; child = next) {
        const char *text = cJSON_IsString(child) ? child->valuestring : "";
        size_t length = strlen(text);
        cJSON *value;

        next = child->next;
        if (cJSON_IsObject(child) || cJSON_IsArray(child)) {
            if (sample_sizes_fill(sizes, child, err) < 0)
                return -1;
        } else if (length > 2 && text[0] == '{' && text[length - 1] == '}') {
            if (make_value(sizes, text + 1, length - 2, &value, err) < 0)
                return -1;
            if (!(cJSON_IsObject(tree) ? cJSON_ReplaceItemInObjectCaseSensitive(tree, child->string, value)
                                       : cJSON_ReplaceItemViaPointer(tree, child, value)))
                memory_exhausted();
        }
    }
    return 0;
}
