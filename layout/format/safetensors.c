/* Reading a safetensors header: every rule of docs/safetensors.md. */
#include "safetensors.h"

#include "layout/base/checked.h"
#include "layout/base/text.h"
#include "json.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The reference counts the outermost object too, and stops before serde_json's 128. */
#define DEPTH_MAX 127

struct parser {
    const char *file;
    struct json_reader reader;
    struct arena *arena;
    struct safetensors_tensor *tensors; /* malloc'd; in the order of the header */
    size_t n_tensors, capacity;
    struct error *err;
};

int safetensors_header_length(const char *file_name, const uint8_t prefix[SAFETENSORS_PREFIX_SIZE],
                              uint64_t file_size, uint64_t *n, struct error *err)
{
    if (file_size < SAFETENSORS_PREFIX_SIZE)
        return error_set(err,
                         "%s: the file has %" PRIu64 " bytes, too few for a safetensors header of at least 8",
                         file_name, file_size);
    if (file_size > INT64_MAX)
        return error_set(err, "%s: the file's size of %" PRIu64 " bytes is more than a file offset can hold",
                         file_name, file_size);
    *n = 0;
    for (int i = SAFETENSORS_PREFIX_SIZE - 1; i >= 0; i--)
        *n = *n << 8 | prefix[i];
    if (*n > SAFETENSORS_HEADER_MAX)
        return error_set(err,
                         "%s: the first 8 bytes announce a header of %" PRIu64 " bytes, but at most %" PRIu64
                         " are allowed",
                         file_name, *n, SAFETENSORS_HEADER_MAX);
    if (*n > file_size - SAFETENSORS_PREFIX_SIZE)
        return error_set(err,
                         "%s: the first 8 bytes announce a header of %" PRIu64
                         " bytes, but the file has only %" PRIu64 " bytes",
                         file_name, *n, file_size);
    return 0;
}

/* Puts the file's name before a reason that json.c gave. */
static int fail_json(struct parser *parser)
{
    return error_set(parser->err, "%s: the header is not valid JSON: %s", parser->file, parser->err->text);
}

static int next(struct parser *parser, struct json_token *token)
{
    return json_next(&parser->reader, token, parser->err) ? fail_json(parser) : 0;
}

static int decode(struct parser *parser, const struct json_token *token, const char **text, size_t *length)
{
    if (json_string(token, parser->arena, text, length, parser->err) < 0)
        return error_set(parser->err, "%s: byte %zu of the header: %s", parser->file,
                         (size_t)(token->text - parser->reader.text), parser->err->text);
    return 0;
}

/* A number that the reference's parser turns into infinity is refused there, wherever it stands. */
static int check_finite(struct parser *parser, const struct json_token *token)
{
    double value = strtod(arena_strndup(parser->arena, token->text, token->length), NULL);

    if (fabs(value) <= 1e308)
        return 0;
    return error_set(parser->err, "%s: byte %zu of the header: a number above 1e308", parser->file,
                     (size_t)(token->text - parser->reader.text));
}

/* Reads over the value of a field that no rule is about, as strictly as the reference, which builds it in
 * memory. */
static int skip_ignored(struct parser *parser)
{
    struct json_reader *reader = &parser->reader;
    unsigned outer = reader->depth;
    struct json_token token;
    const char *text;
    size_t length;

    do {
        if (next(parser, &token) < 0)
            return -1;
        if (reader->depth > DEPTH_MAX)
            return error_set(parser->err, "%s: byte %zu of the header: nested deeper than %d", parser->file,
                             reader->at - 1, DEPTH_MAX);
        if (token.escaped && decode(parser, &token, &text, &length) < 0)
            return -1;
        if (token.kind == JSON_NUMBER && check_finite(parser, &token))
            return -1;
    } while (reader->depth > outer);
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The first of `names` that occurs twice, or NULL. Sorts them; names that are sorted already, as the
 * reference writes them, cost one pass. */
static const char *find_duplicate(const char **names, size_t n)
{
    size_t ascending = 1;

    while (ascending < n && strcmp(names[ascending - 1], names[ascending]) < 0)
        ascending++;
    if (ascending >= n)
        return NULL;
    qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 1; i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return names[i];
    return NULL;
}

static int check_metadata_keys(struct parser *parser, const char **keys, size_t n)
{
    const char *twice = find_duplicate(keys, n);

    if (twice)
        return error_set(parser->err, "%s: __metadata__ has the key '%s' twice", parser->file, twice);
    return 0;
}

/* Behind the { of __metadata__: its content does not matter to a layout, its form does. */
static int read_metadata_members(struct parser *parser, const char ***keys, size_t *n)
{
    struct json_token token;
    const char *value;
    size_t length, capacity = 0;

    for (;;) {
        if (next(parser, &token) < 0)
            return -1;
        if (token.kind == JSON_OBJECT_END)
            return check_metadata_keys(parser, *keys, *n);
        if (*n == capacity) {
            capacity = capacity ? 2 * capacity : 8;
            *keys = xreallocarray(*keys, capacity, sizeof **keys);
        }
        if (decode(parser, &token, &(*keys)[*n], &length) < 0 || next(parser, &token) < 0)
            return -1;
        if (token.kind != JSON_STRING)
            return error_set(parser->err, "%s: __metadata__: the value of '%s' is not a string", parser->file,
                             (*keys)[*n]);
        if (token.escaped && decode(parser, &token, &value, &length) < 0)
            return -1;
        ++*n;
    }
}

static int read_metadata(struct parser *parser)
{
    cleanup_free const char **keys = NULL;
    struct json_token token;
    size_t n = 0;

    if (next(parser, &token) < 0)
        return -1;
    if (token.kind == JSON_NULL)
        return 0;
    if (token.kind != JSON_OBJECT_BEGIN)
        return error_set(parser->err, "%s: __metadata__ is not an object", parser->file);
    return read_metadata_members(parser, &keys, &n);
}

static int fail_tensor(struct parser *parser, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int fail_tensor(struct parser *parser, const char *name, const char *format, ...)
{
    cleanup_free char *reason = NULL;
    va_list args;

    va_start(args, format);
    if (vasprintf(&reason, format, args) < 0)
        memory_exhausted();
    va_end(args);
    return error_set(parser->err, "%s: tensor '%s': %s", parser->file, name, reason);
}

static int read_dtype(struct parser *parser, struct safetensors_tensor *tensor)
{
    struct json_token token;
    const char *name;
    size_t length;

    if (next(parser, &token) < 0)
        return -1;
    if (token.kind != JSON_STRING)
        return fail_tensor(parser, tensor->info.name, "dtype is not a string");
    if (decode(parser, &token, &name, &length) < 0)
        return -1;
    enum dtype dtype = dtype_find(name, length);
    if (dtype == DTYPE_COUNT)
        return fail_tensor(parser, tensor->info.name, "unknown dtype '%s'", name);
    tensor->info.dtype = (uint8_t)dtype;
    return 0;
}

/* Reads an array of at most `max` non-negative integers. */
static int read_integers(struct parser *parser, const char *name, const char *field, uint64_t *values,
                         size_t max, size_t *n)
{
    struct json_token token;

    if (next(parser, &token) < 0)
        return -1;
    if (token.kind != JSON_ARRAY_BEGIN)
        return fail_tensor(parser, name, "%s is not an array", field);
    for (*n = 0;; ++*n) {
        if (next(parser, &token) < 0)
            return -1;
        if (token.kind == JSON_ARRAY_END)
            return 0;
        if (*n == max)
            return fail_tensor(parser, name, "%s has more than %zu numbers", field, max);
        if (!json_u64(&token, &values[*n]))
            return fail_tensor(parser, name, "%s holds '%.*s', which is not an integer from 0 to 2^64-1",
                               field, (int)(min_u64(token.length, 40)), token.text);
    }
}

static int read_shape(struct parser *parser, struct safetensors_tensor *tensor)
{
    uint64_t dims[SAFETENSORS_NDIM_MAX];
    size_t n;

    if (read_integers(parser, tensor->info.name, "shape", dims, SAFETENSORS_NDIM_MAX, &n) < 0)
        return -1;
    tensor->info.shape = arena_memdup(parser->arena, dims, n * sizeof *dims);
    tensor->info.n_dims = (uint8_t)n;
    return 0;
}

static int read_offsets(struct parser *parser, struct safetensors_tensor *tensor)
{
    uint64_t offsets[2];
    size_t n;

    if (read_integers(parser, tensor->info.name, "data_offsets", offsets, 2, &n) < 0)
        return -1;
    if (n != 2)
        return fail_tensor(parser, tensor->info.name, "data_offsets has %zu numbers, not 2", n);
    tensor->begin = offsets[0];
    tensor->end = offsets[1];
    return 0;
}

static const struct {
    const char *name;
    int (*read)(struct parser *parser, struct safetensors_tensor *tensor);
} FIELDS[] = {{"dtype", read_dtype}, {"shape", read_shape}, {"data_offsets", read_offsets}};
#define N_FIELDS (sizeof FIELDS / sizeof *FIELDS)

static int find_field(struct parser *parser, const struct json_token *key, size_t *field)
{
    const char *text = key->text;
    size_t length = key->length;

    if (key->escaped && decode(parser, key, &text, &length) < 0)
        return -1;
    for (*field = 0; *field < N_FIELDS; ++*field)
        if (strlen(FIELDS[*field].name) == length && memcmp(FIELDS[*field].name, text, length) == 0)
            break;
    return 0;
}

static int read_tensor(struct parser *parser, struct safetensors_tensor *tensor)
{
    bool seen[N_FIELDS] = {false};
    struct json_token token;
    size_t field;

    if (next(parser, &token) < 0)
        return -1;
    if (token.kind != JSON_OBJECT_BEGIN)
        return fail_tensor(parser, tensor->info.name, "its entry is not an object");
    for (;;) {
        if (next(parser, &token) < 0)
            return -1;
        if (token.kind == JSON_OBJECT_END)
            break;
        if (find_field(parser, &token, &field))
            return -1;
        if (field == N_FIELDS) {
            if (skip_ignored(parser) < 0)
                return -1;
            continue;
        }
        if (seen[field])
            return fail_tensor(parser, tensor->info.name, "%s is given twice", FIELDS[field].name);
        seen[field] = true;
        if (FIELDS[field].read(parser, tensor))
            return -1;
    }
    for (field = 0; field < N_FIELDS; field++)
        if (!seen[field])
            return fail_tensor(parser, tensor->info.name, "%s is missing", FIELDS[field].name);
    return 0;
}

static int read_member(struct parser *parser, const struct json_token *key, bool *seen_metadata)
{
    struct safetensors_tensor tensor = {0};
    size_t length;

    if (decode(parser, key, &tensor.info.name, &length) < 0)
        return -1;
    if (strcmp(tensor.info.name, "__metadata__") == 0) {
        if (*seen_metadata)
            return error_set(parser->err, "%s: __metadata__ is given twice", parser->file);
        *seen_metadata = true;
        return read_metadata(parser);
    }
    if (length == 0)
        return error_set(parser->err, "%s: a tensor's name is empty", parser->file);
    if (read_tensor(parser, &tensor) < 0)
        return -1;
    if (parser->n_tensors == parser->capacity) {
        parser->capacity = parser->capacity ? 2 * parser->capacity : 256;
        parser->tensors = xreallocarray(parser->tensors, parser->capacity, sizeof *parser->tensors);
    }
    parser->tensors[parser->n_tensors++] = tensor;
    return 0;
}

static int read_header(struct parser *parser)
{
    bool seen_metadata = false;
    struct json_token token;

    if (parser->reader.length == 0 || parser->reader.text[0] != '{')
        return error_set(parser->err, "%s: the header does not begin with '{'", parser->file);
    if (next(parser, &token) < 0)
        return -1;
    for (;;) {
        if (next(parser, &token) < 0)
            return -1;
        if (token.kind == JSON_OBJECT_END)
            return next(parser, &token); /* the end, or an error */
        if (read_member(parser, &token, &seen_metadata) < 0)
            return -1;
    }
}

static int check_names(struct parser *parser)
{
    cleanup_free const char **names = xreallocarray(NULL, parser->n_tensors, sizeof *names);

    for (size_t i = 0; i < parser->n_tensors; i++)
        names[i] = parser->tensors[i].info.name;
    const char *twice = find_duplicate(names, parser->n_tensors);
    return twice ? fail_tensor(parser, twice, "the name is given twice in the header") : 0;
}

static int compare_offsets(const struct safetensors_tensor *a, const struct safetensors_tensor *b)
{
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return (a->end > b->end) - (a->end < b->end);
}

/* For pointers into one array: empty tensors at one offset keep the header's order. */
static int compare_places(const void *a, const void *b)
{
    const struct safetensors_tensor *const *left = a, *const *right = b;
    int order = compare_offsets(*left, *right);

    return order ? order : (*left > *right) - (*left < *right);
}

/* The tensors by offset, in the arena. */
static struct safetensors_tensor *sort_tensors(struct parser *parser)
{
    size_t n = parser->n_tensors, ascending = 1;

    while (ascending < n &&
           compare_offsets(&parser->tensors[ascending - 1], &parser->tensors[ascending]) <= 0)
        ascending++;
    if (ascending >= n)
        return arena_memdup(parser->arena, parser->tensors, n * sizeof *parser->tensors);
    cleanup_free const struct safetensors_tensor **order = xreallocarray(NULL, n, sizeof *order);
    for (size_t i = 0; i < n; i++)
        order[i] = &parser->tensors[i];
    qsort(order, n, sizeof *order, compare_places);
    struct safetensors_tensor *sorted = arena_alloc(parser->arena, n * sizeof *sorted);
    for (size_t i = 0; i < n; i++)
        sorted[i] = *order[i];
    return sorted;
}

/* A shape whose bytes cannot be told: which of the two reasons. */
static int fail_shape(struct parser *parser, const struct safetensors_tensor *tensor)
{
    cleanup_free char *shape = text_of_shape(tensor->info.shape, tensor->info.n_dims);
    const char *dtype = dtype_name((enum dtype)tensor->info.dtype);
    unsigned bits = dtype_bits((enum dtype)tensor->info.dtype);
    uint64_t n = 1;
    bool fits = true;

    for (unsigned i = 0; i < tensor->info.n_dims && fits; i++)
        fits = checked_mul(n, tensor->info.shape[i], &n);
    if (!fits || !checked_mul(n, bits, &n))
        return fail_tensor(parser, tensor->info.name, "the size of %s %s overflows 64 bits", dtype, shape);
    return fail_tensor(parser, tensor->info.name, "%s %s has %" PRIu64 " bits, which do not fill whole bytes",
                       dtype, shape, n);
}

/* `before` is the tensor that lies in front of it, or NULL. */
static int check_tensor(struct parser *parser, const struct safetensors_tensor *before,
                        const struct safetensors_tensor *tensor)
{
    uint64_t bytes, begin = before ? before->end : 0;
    const char *name = tensor->info.name;

    if (tensor->begin != begin && !before)
        return fail_tensor(parser, name,
                           "data_offsets [%" PRIu64 ", %" PRIu64 "]: the first tensor must begin at 0",
                           tensor->begin, tensor->end);
    if (tensor->begin != begin)
        return fail_tensor(parser, name,
                           "data_offsets [%" PRIu64 ", %" PRIu64
                           "] %s: tensor '%s' before it ends at %" PRIu64,
                           tensor->begin, tensor->end, tensor->begin > begin ? "leave a hole" : "overlap",
                           before->info.name, begin);
    if (tensor->end < tensor->begin)
        return fail_tensor(parser, name, "data_offsets [%" PRIu64 ", %" PRIu64 "] end before they begin",
                           tensor->begin, tensor->end);
    if (!safetensors_tensor_bytes(&tensor->info, &bytes))
        return fail_shape(parser, tensor);
    if (tensor->end - tensor->begin != bytes) {
        cleanup_free char *shape = text_of_shape(tensor->info.shape, tensor->info.n_dims);
        return fail_tensor(parser, name,
                           "data_offsets [%" PRIu64 ", %" PRIu64 "] hold %" PRIu64
                           " bytes, but %s %s needs %" PRIu64,
                           tensor->begin, tensor->end, tensor->end - tensor->begin,
                           dtype_name((enum dtype)tensor->info.dtype), shape, bytes);
    }
    return 0;
}

static int check_coverage(struct parser *parser, const struct safetensors_header *header, uint64_t file_size)
{
    uint64_t end = header->n_tensors ? header->tensors[header->n_tensors - 1].end : 0, expected;

    if (checked_add(header->data_offset, end, &expected) && expected == file_size)
        return 0;
    return error_set(parser->err,
                     "%s: a header of %" PRIu64 " bytes and %" PRIu64
                     " bytes of tensors, but the file has %" PRIu64 " bytes",
                     parser->file, header->data_offset, end, file_size);
}

static int parse(struct parser *parser, uint64_t file_size, struct safetensors_header *header)
{
    if (read_header(parser) < 0 || check_names(parser) < 0)
        return -1;
    header->tensors = sort_tensors(parser);
    header->n_tensors = parser->n_tensors;
    for (size_t i = 0; i < header->n_tensors; i++)
        if (check_tensor(parser, i ? &header->tensors[i - 1] : NULL, &header->tensors[i]) < 0)
            return -1;
    return check_coverage(parser, header, file_size);
}

int safetensors_parse(const char *file_name, const char *json, uint64_t n, uint64_t file_size,
                      struct arena *arena, struct safetensors_header *header, struct error *err)
{
    struct parser parser = {.file = file_name, .arena = arena, .err = err};

    json_reader_init(&parser.reader, json, n);
    *header = (struct safetensors_header){.data_offset = SAFETENSORS_PREFIX_SIZE + n};
    int failed = parse(&parser, file_size, header);
    free(parser.tensors);
    return failed;
}
