/* Reading an index in one pass. */
#include "index.h"

#include "json.h"

#include <string.h>

struct parser {
    const char *path;
    struct json_reader reader;
    struct arena *arena;
    struct index_entry *entries; /* malloc'd; .file counts runs of entries with the same file */
    size_t n_entries, capacity;
    const char **runs; /* malloc'd: the file name of each run */
    size_t n_runs, runs_capacity;
    struct error *err;
};

/* A run's file name with the run's number, for sorting. */
struct run {
    const char *file;
    uint32_t run;
};

static int fail_json(struct parser *parser)
{
    return error_set(parser->err, "%s: not valid JSON: %s", parser->path, parser->err->text);
}

static int next(struct parser *parser, struct json_token *token)
{
    return json_next(&parser->reader, token, parser->err) ? fail_json(parser) : 0;
}

static int decode(struct parser *parser, const struct json_token *token, const char **text, size_t *length)
{
    if (json_string(token, parser->arena, text, length, parser->err) < 0)
        return error_set(parser->err, "%s: byte %zu: %s", parser->path,
                         (size_t)(token->text - parser->reader.text), parser->err->text);
    return 0;
}

static bool is_file_name(const char *name)
{
    return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Neighbouring entries mostly name the same file: only a change of file is kept and, later, sorted. */
static void add_entry(struct parser *parser, const char *tensor, const char *file)
{
    if (parser->n_runs == 0 || strcmp(parser->runs[parser->n_runs - 1], file) != 0) {
        if (parser->n_runs == parser->runs_capacity) {
            parser->runs_capacity = parser->runs_capacity ? 2 * parser->runs_capacity : 64;
            parser->runs = xreallocarray(parser->runs, parser->runs_capacity, sizeof *parser->runs);
        }
        parser->runs[parser->n_runs++] = file;
    }
    if (parser->n_entries == parser->capacity) {
        parser->capacity = parser->capacity ? 2 * parser->capacity : 256;
        parser->entries = xreallocarray(parser->entries, parser->capacity, sizeof *parser->entries);
    }
    parser->entries[parser->n_entries++] =
        (struct index_entry){.tensor = tensor, .file = (uint32_t)(parser->n_runs - 1)};
}

static int read_entry(struct parser *parser, const struct json_token *key)
{
    const char *tensor, *file;
    struct json_token value;
    size_t length;

    if (decode(parser, key, &tensor, &length) < 0 || next(parser, &value) < 0)
        return -1;
    if (value.kind != JSON_STRING)
        return error_set(parser->err, "%s: tensor '%s': weight_map does not give a file name for it",
                         parser->path, tensor);
    if (decode(parser, &value, &file, &length) < 0)
        return -1;
    if (!is_file_name(file))
        return error_set(parser->err,
                         "%s: tensor '%s': '%s' is not the name of a file in the checkpoint's own directory",
                         parser->path, tensor, file);
    if (parser->n_entries == UINT32_MAX)
        return error_set(parser->err, "%s: weight_map has more than %u entries", parser->path, UINT32_MAX);
    add_entry(parser, tensor, file);
    return 0;
}

static int read_weight_map(struct parser *parser)
{
    struct json_token token;

    if (next(parser, &token) < 0)
        return -1;
    if (token.kind != JSON_OBJECT_BEGIN)
        return error_set(parser->err, "%s: weight_map is not an object", parser->path);
    for (;;) {
        if (next(parser, &token) < 0)
            return -1;
        if (token.kind == JSON_OBJECT_END)
            return 0;
        if (read_entry(parser, &token))
            return -1;
    }
}

/* Keeps the raw text. Its keys are checked here because index_write() sorts them and cannot fail. */
static int read_metadata(struct parser *parser, struct index *index)
{
    struct json_reader *reader = &parser->reader;
    struct json_token token;
    const char *key;
    size_t length;

    if (next(parser, &token) < 0)
        return -1;
    if (token.kind == JSON_NULL)
        return 0;
    if (token.kind != JSON_OBJECT_BEGIN)
        return error_set(parser->err, "%s: metadata is not an object", parser->path);
    index->metadata = token.text;
    unsigned outer = reader->depth - 1;
    while (reader->depth > outer) {
        if (next(parser, &token) < 0)
            return -1;
        if (token.kind == JSON_KEY && token.escaped && decode(parser, &token, &key, &length) < 0)
            return -1;
    }
    index->metadata_length = (size_t)(reader->text + reader->at - index->metadata);
    return 0;
}

static int read_top(struct parser *parser, struct index *index)
{
    bool seen_map = false, seen_metadata = false;
    struct json_token token;
    const char *key;
    size_t length;

    if (next(parser, &token) < 0)
        return -1;
    if (token.kind != JSON_OBJECT_BEGIN)
        return error_set(parser->err, "%s: not a JSON object", parser->path);
    for (;;) {
        if (next(parser, &token) < 0)
            return -1;
        if (token.kind == JSON_OBJECT_END)
            break;
        if (decode(parser, &token, &key, &length) < 0)
            return -1;
        bool is_map = strcmp(key, "weight_map") == 0, is_metadata = strcmp(key, "metadata") == 0;
        if ((is_map && seen_map) || (is_metadata && seen_metadata))
            return error_set(parser->err, "%s: %s is given twice", parser->path, key);
        seen_map |= is_map;
        seen_metadata |= is_metadata;
        int failed = is_map ? read_weight_map(parser)
                     : is_metadata
                         ? read_metadata(parser, index)
                         : next(parser, &token) ||
                               (json_skip(&parser->reader, &token, parser->err) && fail_json(parser));
        if (failed)
            return -1;
    }
    if (next(parser, &token) < 0)
        return -1;
    return seen_map ? 0 : error_set(parser->err, "%s: weight_map is missing", parser->path);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_names(struct parser *parser)
{
    size_t n = parser->n_entries, ascending = 1;

    while (ascending < n &&
           strcmp(parser->entries[ascending - 1].tensor, parser->entries[ascending].tensor) < 0)
        ascending++;
    if (ascending >= n)
        return 0;
    cleanup_free const char **names = xreallocarray(NULL, n, sizeof *names);
    for (size_t i = 0; i < n; i++)
        names[i] = parser->entries[i].tensor;
    qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 1; i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return error_set(parser->err, "%s: tensor '%s': the name is given twice in weight_map",
                             parser->path, names[i]);
    return 0;
}

static int compare_runs(const void *a, const void *b)
{
    return strcmp(((const struct run *)a)->file, ((const struct run *)b)->file);
}

/* From runs to distinct files, by bytes. */
static void settle_files(struct parser *parser, struct index *index)
{
    cleanup_free struct run *runs = xreallocarray(NULL, parser->n_runs, sizeof *runs);
    cleanup_free uint32_t *file_of = xreallocarray(NULL, parser->n_runs, sizeof *file_of);

    for (size_t i = 0; i < parser->n_runs; i++)
        runs[i] = (struct run){.file = parser->runs[i], .run = (uint32_t)i};
    qsort(runs, parser->n_runs, sizeof *runs, compare_runs);
    index->files = arena_alloc(parser->arena, parser->n_runs * sizeof *index->files);
    for (size_t i = 0; i < parser->n_runs; i++) {
        if (i == 0 || strcmp(runs[i - 1].file, runs[i].file) != 0)
            index->files[index->n_files++] = runs[i].file;
        file_of[runs[i].run] = (uint32_t)(index->n_files - 1);
    }
    index->entries =
        arena_memdup(parser->arena, parser->entries, parser->n_entries * sizeof *parser->entries);
    index->n_entries = parser->n_entries;
    for (size_t i = 0; i < index->n_entries; i++)
        index->entries[i].file = file_of[index->entries[i].file];
}

int index_parse(const char *path, const char *text, size_t length, struct arena *arena, struct index *index,
                struct error *err)
{
    struct parser parser = {.path = path, .arena = arena, .err = err};

    *index = (struct index){0};
    json_reader_init(&parser.reader, text, length);
    parser.reader.accept_nan = true;
    int failed = read_top(&parser, index) || check_names(&parser) ? -1 : 0;
    if (!failed)
        settle_files(&parser, index);
    free(parser.entries);
    free(parser.runs);
    return failed;
}
