/* Strings as Python's json.dumps writes them (ensure_ascii). */
#include "json.h"

#include <string.h>

void json_write_unit(FILE *out, unsigned unit)
{
    static const char PLAIN[] = "\"\\\b\t\n\f\r", ESCAPES[] = "\"\\btnfr";
    const char *escape = unit && unit < 0x80 ? strchr(PLAIN, (int)unit) : NULL;

    if (escape)
        fprintf(out, "\\%c", ESCAPES[escape - PLAIN]);
    else if (unit < 0x20 || unit >= 0x7f)
        fprintf(out, "\\u%04x", unit);
    else
        putc((int)unit, out);
}

void json_write_code_point(FILE *out, const char **text)
{
    unsigned char first = (unsigned char)*(*text)++;
    unsigned more = first < 0x80 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
    unsigned code = more ? first & (0x3fu >> more) : first;

    while (more--)
        code = code << 6 | ((unsigned char)*(*text)++ & 0x3f);
    if (code < 0x10000) {
        json_write_unit(out, code);
        return;
    }
    json_write_unit(out, 0xd800 + ((code - 0x10000) >> 10));
    json_write_unit(out, 0xdc00 + ((code - 0x10000) & 0x3ff));
}

void json_write_string(FILE *out, const char *text)
{
    putc('"', out);
    while (*text)
        json_write_code_point(out, &text);
    putc('"', out);
}
