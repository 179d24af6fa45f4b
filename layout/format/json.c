/* The strict pull parser. */
#include "json.h"

#include "layout/base/checked.h"
#include "layout/base/text.h"

#include <string.h>

enum state {
    WANT_VALUE,
    WANT_VALUE_OR_END, /* behind [ */
    WANT_KEY,
    WANT_KEY_OR_END, /* behind { */
    WANT_COMMA_OR_END,
    WANT_NOTHING /* behind the outermost value */
};

void json_reader_init(struct json_reader *reader, const char *text, size_t length)
{
    reader->text = text;
    reader->length = length;
    reader->at = 0;
    reader->depth = 0;
    reader->state = WANT_VALUE;
    reader->accept_nan = false;
}

static bool at_end(const struct json_reader *reader)
{
    return reader->at == reader->length;
}

/* The next byte, or 0 at the end: no place of the grammar takes a NUL. */
static unsigned char peek(const struct json_reader *reader)
{
    return at_end(reader) ? 0 : (unsigned char)reader->text[reader->at];
}

static bool is_digit(unsigned char c)
{
    return c >= '0' && c <= '9';
}

static void skip_space(struct json_reader *reader)
{
    while (!at_end(reader)) {
        char c = reader->text[reader->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            return;
        reader->at++;
    }
}

static int fail_expected(const struct json_reader *reader, const char *expected, struct error *err)
{
    unsigned char c = peek(reader);

    if (at_end(reader))
        return error_set(err, "byte %zu: the text ends where %s is expected", reader->at, expected);
    if (c > 0x20 && c < 0x7f)
        return error_set(err, "byte %zu: '%c' where %s is expected", reader->at, c, expected);
    return error_set(err, "byte %zu: 0x%02x where %s is expected", reader->at, c, expected);
}

static bool read_hex4(const char *text, size_t left, unsigned *unit)
{
    *unit = 0;
    if (left < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        char c = text[i];
        unsigned digit;
        if (c >= '0' && c <= '9')
            digit = (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = (unsigned)(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F')
            digit = (unsigned)(c - 'A') + 10;
        else
            return false;
        *unit = *unit << 4 | digit;
    }
    return true;
}

static int scan_escape(struct json_reader *reader, struct error *err)
{
    const char *text = reader->text + reader->at;
    size_t left = reader->length - reader->at;
    unsigned unit;

    if (left >= 2 && text[1] == 'u') {
        if (!read_hex4(text + 2, left - 2, &unit))
            return error_set(err, "byte %zu: \\u without four hexadecimal digits", reader->at);
        reader->at += 6;
        return 0;
    }
    if (left < 2 || !text[1] || !strchr("\"\\/bfnrt", text[1]))
        return error_set(err, "byte %zu: an unknown escape in a string", reader->at);
    reader->at += 2;
    return 0;
}

/* The opening quote is the next byte. */
static int scan_string(struct json_reader *reader, struct json_token *token, struct error *err)
{
    size_t opened = reader->at++;

    token->text = reader->text + reader->at;
    while (!at_end(reader)) {
        unsigned char c = (unsigned char)reader->text[reader->at];
        if (c == '"') {
            token->length = (size_t)(reader->text + reader->at - token->text);
            reader->at++;
            return 0;
        }
        if (c == '\\') {
            token->escaped = true;
            if (scan_escape(reader, err) < 0)
                return -1;
        } else if (c < 0x20) {
            return error_set(err, "byte %zu: a raw control character (0x%02x) in a string", reader->at, c);
        } else if (c < 0x80) {
            reader->at++;
        } else {
            size_t n = text_utf8_length(reader->text + reader->at, reader->length - reader->at);
            if (n == 0)
                return error_set(err, "byte %zu: not UTF-8 (0x%02x)", reader->at, c);
            reader->at += n;
        }
    }
    return error_set(err, "byte %zu: a string that does not end", opened);
}

static bool take_word(struct json_reader *reader, const char *word)
{
    size_t n = strlen(word);

    if (reader->length - reader->at < n || memcmp(reader->text + reader->at, word, n) != 0)
        return false;
    reader->at += n;
    return true;
}

static int scan_digits(struct json_reader *reader, struct error *err)
{
    if (!is_digit(peek(reader)))
        return fail_expected(reader, "a digit", err);
    while (is_digit(peek(reader)))
        reader->at++;
    return 0;
}

static int scan_number(struct json_reader *reader, struct json_token *token, struct error *err)
{
    token->kind = JSON_NUMBER;
    if (peek(reader) == '-')
        reader->at++;
    if (peek(reader) == '0') {
        reader->at++;
        if (is_digit(peek(reader)))
            return error_set(err, "byte %zu: a number with a leading zero", reader->at - 1);
    } else if (scan_digits(reader, err) < 0) {
        return -1;
    }
    if (peek(reader) == '.') {
        reader->at++;
        if (scan_digits(reader, err) < 0)
            return -1;
    }
    if (peek(reader) == 'e' || peek(reader) == 'E') {
        reader->at++;
        if (peek(reader) == '+' || peek(reader) == '-')
            reader->at++;
        if (scan_digits(reader, err) < 0)
            return -1;
    }
    return 0;
}

static int open_container(struct json_reader *reader, struct json_token *token, struct error *err)
{
    char c = reader->text[reader->at];

    if (reader->depth == JSON_DEPTH_MAX)
        return error_set(err, "byte %zu: nested deeper than %d", reader->at, JSON_DEPTH_MAX);
    reader->nesting[reader->depth++] = (uint8_t)c;
    reader->at++;
    token->kind = c == '{' ? JSON_OBJECT_BEGIN : JSON_ARRAY_BEGIN;
    reader->state = c == '{' ? WANT_KEY_OR_END : WANT_VALUE_OR_END;
    return 0;
}

static void leave_value(struct json_reader *reader)
{
    reader->state = reader->depth ? WANT_COMMA_OR_END : WANT_NOTHING;
}

static int close_container(struct json_reader *reader, struct json_token *token)
{
    token->kind = reader->nesting[--reader->depth] == '{' ? JSON_OBJECT_END : JSON_ARRAY_END;
    reader->at++;
    leave_value(reader);
    return 0;
}

static int read_scalar(struct json_reader *reader, struct json_token *token, struct error *err)
{
    unsigned char c = peek(reader);
    bool is_nan = reader->accept_nan && (take_word(reader, "NaN") || take_word(reader, "Infinity") ||
                                         take_word(reader, "-Infinity"));

    if (is_nan)
        token->kind = JSON_NUMBER;
    else if (c == '-' || is_digit(c))
        return scan_number(reader, token, err);
    else if (take_word(reader, "true"))
        token->kind = JSON_TRUE;
    else if (take_word(reader, "false"))
        token->kind = JSON_FALSE;
    else if (take_word(reader, "null"))
        token->kind = JSON_NULL;
    else
        return fail_expected(reader, "a value", err);
    return 0;
}

static int read_value(struct json_reader *reader, struct json_token *token, struct error *err)
{
    unsigned char c = peek(reader);

    if (c == '{' || c == '[')
        return open_container(reader, token, err);
    if (c == '"') {
        token->kind = JSON_STRING;
        if (scan_string(reader, token, err) < 0)
            return -1;
    } else {
        if (read_scalar(reader, token, err) < 0)
            return -1;
        token->length = (size_t)(reader->text + reader->at - token->text);
    }
    leave_value(reader);
    return 0;
}

static int read_key(struct json_reader *reader, struct json_token *token, struct error *err)
{
    if (peek(reader) != '"')
        return fail_expected(reader, "a key", err);
    token->kind = JSON_KEY;
    if (scan_string(reader, token, err) < 0)
        return -1;
    skip_space(reader);
    if (peek(reader) != ':')
        return fail_expected(reader, "a colon", err);
    reader->at++;
    reader->state = WANT_VALUE;
    return 0;
}

/* Behind a value inside a container: its end, or a comma and what follows that. */
static int read_next_member(struct json_reader *reader, struct json_token *token, struct error *err)
{
    bool in_object = reader->nesting[reader->depth - 1] == '{';

    if (peek(reader) == (in_object ? '}' : ']'))
        return close_container(reader, token);
    if (peek(reader) != ',')
        return fail_expected(reader, in_object ? "a comma or }" : "a comma or ]", err);
    reader->at++;
    skip_space(reader);
    token->text = reader->text + reader->at;
    return in_object ? read_key(reader, token, err) : read_value(reader, token, err);
}

int json_next(struct json_reader *reader, struct json_token *token, struct error *err)
{
    skip_space(reader);
    *token = (struct json_token){.text = reader->text + reader->at};
    switch ((enum state)reader->state) {
    case WANT_VALUE:
        return read_value(reader, token, err);
    case WANT_VALUE_OR_END:
        return peek(reader) == ']' ? close_container(reader, token) : read_value(reader, token, err);
    case WANT_KEY:
        return read_key(reader, token, err);
    case WANT_KEY_OR_END:
        return peek(reader) == '}' ? close_container(reader, token) : read_key(reader, token, err);
    case WANT_COMMA_OR_END:
        return read_next_member(reader, token, err);
    case WANT_NOTHING:
        break;
    }
    if (!at_end(reader))
        return fail_expected(reader, "the end of the text", err);
    token->kind = JSON_END;
    return 0;
}

int json_skip(struct json_reader *reader, const struct json_token *first, struct error *err)
{
    struct json_token token;

    if (first->kind != JSON_OBJECT_BEGIN && first->kind != JSON_ARRAY_BEGIN)
        return 0;
    unsigned outer = reader->depth - 1;
    while (reader->depth > outer)
        if (json_next(reader, &token, err) < 0)
            return -1;
    return 0;
}

static char *put_utf8(char *out, unsigned code)
{
    if (code < 0x80) {
        *out++ = (char)code;
    } else if (code < 0x800) {
        *out++ = (char)(0xc0 | code >> 6);
        *out++ = (char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *out++ = (char)(0xe0 | code >> 12);
        *out++ = (char)(0x80 | (code >> 6 & 0x3f));
        *out++ = (char)(0x80 | (code & 0x3f));
    } else {
        *out++ = (char)(0xf0 | code >> 18);
        *out++ = (char)(0x80 | (code >> 12 & 0x3f));
        *out++ = (char)(0x80 | (code >> 6 & 0x3f));
        *out++ = (char)(0x80 | (code & 0x3f));
    }
    return out;
}

/* *text is behind a \u; the code point it begins, with the second half of a surrogate pair taken too. */
static int decode_unit(const char **text, const char *end, unsigned *code, struct error *err)
{
    unsigned low;

    if (!read_hex4(*text, (size_t)(end - *text), code))
        return error_set(err, "\\u without four hexadecimal digits");
    *text += 4;
    if (*code == 0)
        return error_set(err, "a string holds U+0000");
    if (*code < 0xd800 || *code > 0xdfff)
        return 0;
    if (*code >= 0xdc00 || end - *text < 6 || (*text)[0] != '\\' || (*text)[1] != 'u' ||
        !read_hex4(*text + 2, 4, &low) || low < 0xdc00 || low > 0xdfff)
        return error_set(err, "a string holds the lone surrogate \\u%04x", *code);
    *text += 6;
    *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    return 0;
}

int json_string(const struct json_token *token, struct arena *arena, const char **text, size_t *length,
                struct error *err)
{
    static const char ESCAPES[] = "bfnrt", MEANINGS[] = "\b\f\n\r\t";

    if (!token->escaped) {
        *text = arena_strndup(arena, token->text, token->length);
        *length = token->length;
        return 0;
    }
    const char *in = token->text, *end = token->text + token->length;
    char *decoded = arena_alloc(arena, token->length + 1),
         *out = decoded; /* an escape is longer than its meaning */
    while (in < end) {
        if (*in != '\\') {
            *out++ = *in++;
            continue;
        }
        char c = in[1];
        in += 2;
        if (c == 'u') {
            unsigned code;
            if (decode_unit(&in, end, &code, err) < 0)
                return -1;
            out = put_utf8(out, code);
        } else {
            const char *escape = strchr(ESCAPES, c);
            *out++ = escape ? MEANINGS[escape - ESCAPES] : c;
        }
    }
    *out = '\0';
    *text = decoded;
    *length = (size_t)(out - decoded);
    return 0;
}

bool json_u64(const struct json_token *token, uint64_t *value)
{
    if (token->kind != JSON_NUMBER || token->length == 0 || (token->length > 1 && token->text[0] == '0'))
        return false;
    *value = 0;
    for (size_t i = 0; i < token->length; i++) {
        unsigned char c = (unsigned char)token->text[i];
        if (!is_digit(c) || !checked_mul(*value, 10, value) || !checked_add(*value, c - '0', value))
            return false;
    }
    return true;
}
