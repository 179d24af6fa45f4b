/* Writing an index as transformers does: json.dumps(index, indent=2, sort_keys=True) + "\n". */
#include "index.h"

#include "json.h"
#include "json_write.h"

#include "layout/base/memory_stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A key with the raw text of its value; to be sorted as Python sorts str: by code point, which for UTF-8 is
 * by byte. */
struct member {
    const char *key;
    const char *value;
    size_t length;
    size_t place;
};

struct members {
    struct member *list;
    size_t n, capacity;
};

static void add_member(struct members *members, struct member member)
{
    if (members->n == members->capacity) {
        members->capacity = members->capacity ? 2 * members->capacity : 16;
        members->list = xreallocarray(members->list, members->capacity, sizeof *members->list);
    }
    member.place = members->n;
    members->list[members->n++] = member;
}

static int compare_members(const void *a, const void *b)
{
    const struct member *left = a, *right = b;
    int order = strcmp(left->key, right->key);

    return order ? order : (left->place > right->place) - (left->place < right->place);
}

/* Sorts; of a key given several times the last counts, as in Python. */
static void sort_members(struct members *members)
{
    size_t kept = 0;

    if (members->n)
        qsort(members->list, members->n, sizeof *members->list, compare_members);
    for (size_t i = 0; i < members->n; i++)
        if (i + 1 == members->n || strcmp(members->list[i].key, members->list[i + 1].key) != 0)
            members->list[kept++] = members->list[i];
    members->n = kept;
}

/* The unit that the escape at *text (behind its backslash) stands for. */
static unsigned take_escape(const char **text)
{
    static const char ESCAPES[] = "bfnrt", MEANINGS[] = "\b\f\n\r\t";
    char c = *(*text)++;

    if (c == 'u') {
        char digits[5] = {(*text)[0], (*text)[1], (*text)[2], (*text)[3], '\0'};
        *text += 4;
        return (unsigned)strtoul(digits, NULL, 16);
    }
    const char *escape = strchr(ESCAPES, c);
    return (unsigned char)(escape ? MEANINGS[escape - ESCAPES] : c);
}

/* Straight from the raw text: U+0000 and lone surrogates, which a decoded string cannot hold, are kept. */
static void write_raw_string(FILE *out, const struct json_token *token)
{
    const char *text = token->text, *end = token->text + token->length;

    putc('"', out);
    while (text < end) {
        if (*text == '\\') {
            text++;
            json_write_unit(out, take_escape(&text));
        } else {
            json_write_code_point(out, &text);
        }
    }
    putc('"', out);
}

static void write_line(FILE *out, unsigned indent)
{
    fprintf(out, "\n%*s", (int)(2 * indent), "");
}

/* index_parse() has seen this text: an error here is a mistake of the program. */
static void take_token(struct json_reader *reader, struct json_token *token)
{
    struct error err = {0};

    if (json_next(reader, token, &err) < 0)
        abort();
}

/* Reads over a value; *text and *length become its raw text. */
static void take_value(struct json_reader *reader, const char **text, size_t *length)
{
    struct json_token token;
    struct error err = {0};

    take_token(reader, &token);
    *text = token.kind == JSON_STRING ? token.text - 1 : token.text;
    if (json_skip(reader, &token, &err) < 0)
        abort();
    *length = (size_t)(reader->text + reader->at - *text);
}

/* The members of the object whose { was just read. */
static void take_members(struct json_reader *reader, struct arena *arena, struct members *members)
{
    struct json_token token;
    struct error err = {0};
    size_t length;

    for (;;) {
        struct member member = {0};
        take_token(reader, &token);
        if (token.kind == JSON_OBJECT_END)
            return;
        if (json_string(&token, arena, &member.key, &length, &err) < 0)
            abort();
        take_value(reader, &member.value, &member.length);
        add_member(members, member);
    }
}

static void write_value(FILE *out, const char *text, size_t length, unsigned indent);

static void write_members(FILE *out, struct members *members, unsigned indent)
{
    sort_members(members);
    putc('{', out);
    for (size_t i = 0; i < members->n; i++) {
        if (i)
            putc(',', out);
        write_line(out, indent + 1);
        json_write_string(out, members->list[i].key);
        fputs(": ", out);
        write_value(out, members->list[i].value, members->list[i].length, indent + 1);
    }
    if (members->n)
        write_line(out, indent);
    putc('}', out);
}

static void write_object(FILE *out, struct json_reader *reader, unsigned indent)
{
    struct members members = {0};
    struct arena arena = {0};

    take_members(reader, &arena, &members);
    write_members(out, &members, indent);
    free(members.list);
    arena_free(&arena);
}

/* The elements of the array whose [ was just read. */
static void write_array(FILE *out, struct json_reader *reader, unsigned indent)
{
    size_t n = 0;

    putc('[', out);
    for (;; n++) {
        struct json_reader ahead = *reader;
        struct json_token token;
        const char *text;
        size_t length;
        take_token(&ahead, &token);
        if (token.kind == JSON_ARRAY_END)
            break;
        take_value(reader, &text, &length);
        if (n)
            putc(',', out);
        write_line(out, indent + 1);
        write_value(out, text, length, indent + 1);
    }
    if (n)
        write_line(out, indent);
    putc(']', out);
}

/* Nested no deeper than JSON_DEPTH_MAX, so recursion is bounded. */
static void write_value(FILE *out, const char *text, size_t length, unsigned indent)
{
    struct json_reader reader;
    struct json_token token;

    json_reader_init(&reader, text, length);
    reader.accept_nan = true;
    take_token(&reader, &token);
    if (token.kind == JSON_OBJECT_BEGIN)
        write_object(out, &reader, indent);
    else if (token.kind == JSON_ARRAY_BEGIN)
        write_array(out, &reader, indent);
    else if (token.kind == JSON_STRING)
        write_raw_string(out, &token);
    else
        fwrite(token.text, 1, token.length, out);
}

static void write_metadata(FILE *out, const char *metadata, size_t metadata_length, uint64_t total_size)
{
    cleanup_free char *total = xasprintf("%" PRIu64, total_size);
    struct members members = {0};
    struct arena arena = {0};
    struct json_reader reader;
    struct json_token token;

    if (metadata) {
        json_reader_init(&reader, metadata, metadata_length);
        reader.accept_nan = true;
        take_token(&reader, &token);
        take_members(&reader, &arena, &members);
    }
    /* The last of a name counts: this one. */
    add_member(&members, (struct member){.key = "total_size", .value = total, .length = strlen(total)});
    write_members(out, &members, 1);
    free(members.list);
    arena_free(&arena);
}

static void write_weight_map(FILE *out, const char *const *tensors, const char *const *files, size_t n)
{
    struct members members = {0};

    for (size_t i = 0; i < n; i++)
        add_member(&members, (struct member){.key = tensors[i], .value = files[i]});
    sort_members(&members);
    putc('{', out);
    for (size_t i = 0; i < members.n; i++) {
        fputs(i ? ",\n    " : "\n    ", out);
        json_write_string(out, members.list[i].key);
        fputs(": ", out);
        json_write_string(out, members.list[i].value);
    }
    fputs(members.n ? "\n  }" : "}", out);
    free(members.list);
}

char *index_write(const char *metadata, size_t metadata_length, uint64_t total_size,
                  const char *const *tensors, const char *const *files, size_t n, uint64_t *length)
{
    struct memory_stream stream;
    size_t size;

    memory_stream_open(&stream);
    fputs("{\n  \"metadata\": ", stream.out);
    write_metadata(stream.out, metadata, metadata_length, total_size);
    fputs(",\n  \"weight_map\": ", stream.out);
    write_weight_map(stream.out, tensors, files, n);
    fputs("\n}\n", stream.out);
    char *text = memory_stream_close(&stream, &size);
    *length = size;
    return text;
}
