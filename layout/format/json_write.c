/* Writing JSON: strings as Python's json.dumps writes them (ensure_ascii), commas where they belong. */
#include "json_write.h"
#include "layout/base/text.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* The letter behind the backslash for this character, or 0 where it has none. */
static char short_escape(unsigned unit)
{
    static const char PLAIN[] = "\"\\\b\t\n\f\r", ESCAPES[] = "\"\\btnfr";
    const char *at = unit && unit < 0x80 ? strchr(PLAIN, (int)unit) : NULL;

    return at ? ESCAPES[at - PLAIN] : '\0';
}

void json_write_unit(FILE *out, unsigned unit)
{
    char escape = short_escape(unit);

    if (escape)
        fprintf(out, "\\%c", escape);
    else if (unit < 0x20 || unit >= 0x7f)
        fprintf(out, "\\u%04x", unit);
    else
        putc((int)unit, out);
}

void json_write_code_point(FILE *out, const char **text)
{
    const unsigned char *at = (const unsigned char *)*text;
    size_t length = text_utf8_length(*text, strnlen(*text, 4));
    unsigned code = length > 1 ? at[0] & (0x7fu >> length) : at[0];

    for (size_t i = 1; i < length; i++)
        code = code << 6 | (at[i] & 0x3f);
    *text += length ? length : 1;
    if (length == 0 || code < 0x10000) {
        json_write_unit(out, length == 0 ? 0xdc00 + code : code);
        return;
    }
    json_write_unit(out, 0xd800 + ((code - 0x10000) >> 10));
    json_write_unit(out, 0xdc00 + ((code - 0x10000) & 0x3ff));
}

/* How many of the text's first bytes stand for themselves in ASCII JSON. */
static size_t plain_length(const char *text)
{
    size_t n = 0;

    while (text[n] >= 0x20 && text[n] < 0x7f && text[n] != '"' && text[n] != '\\')
        n++;
    return n;
}

/* Names are long and plain: a call for each byte took a tenth of the time of planning. */
void json_write_string(FILE *out, const char *text)
{
    putc('"', out);
    while (*text) {
        size_t plain = plain_length(text);
        fwrite(text, 1, plain, out);
        text += plain;
        if (*text)
            json_write_code_point(out, &text);
    }
    putc('"', out);
}

void json_write_string_raw(FILE *out, const char *text)
{
    putc('"', out);
    while (*text) {
        size_t plain = plain_length(text);
        fwrite(text, 1, plain, out);
        text += plain;
        if (!*text)
            break;
        unsigned char c = (unsigned char)*text++;
        if (c < 0x20 || short_escape(c))
            json_write_unit(out, c);
        else
            putc(c, out);
    }
    putc('"', out);
}

void json_writer_init(struct json_writer *w, FILE *out)
{
    *w = (struct json_writer){.out = out};
}

/* What stands between the value before and the next one. */
static void separate(struct json_writer *w)
{
    if (w->after_key || w->depth == 0) {
        w->after_key = false;
        return;
    }
    unsigned top = w->depth - 1;
    if (w->open[top].filled)
        putc(',', w->out);
    if (w->open[top].lines && (w->open[top].filled || w->open[top].close == ']'))
        fprintf(w->out, "\n%*s", (int)w->depth, "");
    else if (w->open[top].filled)
        putc(' ', w->out);
    w->open[top].filled = true;
}

static void begin(struct json_writer *w, const char *brackets, enum json_write_style style)
{
    assert(w->depth < JSON_WRITE_DEPTH_MAX);
    separate(w);
    putc(brackets[0], w->out);
    w->open[w->depth].close = brackets[1];
    w->open[w->depth].lines = style == JSON_LINES;
    w->open[w->depth].filled = false;
    w->depth++;
}

void json_write_object(struct json_writer *w, enum json_write_style style)
{
    begin(w, "{}", style);
}

void json_write_array(struct json_writer *w, enum json_write_style style)
{
    begin(w, "[]", style);
}

void json_write_end(struct json_writer *w)
{
    assert(w->depth > 0 && !w->after_key);
    putc(w->open[--w->depth].close, w->out);
}

void json_write_key(struct json_writer *w, const char *key)
{
    assert(w->depth > 0 && w->open[w->depth - 1].close == '}' && !w->after_key);
    separate(w);
    json_write_string(w->out, key);
    fputs(": ", w->out);
    w->after_key = true;
}

void json_write_text(struct json_writer *w, const char *text)
{
    separate(w);
    if (text)
        json_write_string(w->out, text);
    else
        fputs("null", w->out);
}

void json_write_number(struct json_writer *w, uint64_t number)
{
    separate(w);
    fprintf(w->out, "%" PRIu64, number);
}

void json_write_real(struct json_writer *w, double number)
{
    separate(w);
    if (isfinite(number))
        fprintf(w->out, "%.9g", number);
    else
        fputs("null", w->out);
}

void json_write_bool(struct json_writer *w, bool value)
{
    separate(w);
    fputs(value ? "true" : "false", w->out);
}

void json_write_numbers(struct json_writer *w, const uint64_t *numbers, size_t n)
{
    json_write_array(w, JSON_ONE_LINE);
    for (size_t i = 0; i < n; i++)
        json_write_number(w, numbers[i]);
    json_write_end(w);
}

void json_write_text_of(struct json_writer *w, const char *key, const char *text)
{
    json_write_key(w, key);
    json_write_text(w, text);
}

void json_write_number_of(struct json_writer *w, const char *key, uint64_t number)
{
    json_write_key(w, key);
    json_write_number(w, number);
}

void json_write_real_of(struct json_writer *w, const char *key, double number)
{
    json_write_key(w, key);
    json_write_real(w, number);
}

void json_write_bool_of(struct json_writer *w, const char *key, bool value)
{
    json_write_key(w, key);
    json_write_bool(w, value);
}
