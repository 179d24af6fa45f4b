/* Small rules about text that several parts need. */
#include "text.h"
#include "memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

size_t text_utf8_length(const char *at, size_t left)
{
    const unsigned char *s = (const unsigned char *)at;

    if (left == 0)
        return 0;
    if (s[0] < 0x80)
        return 1;
    size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || left < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

bool text_is_utf8(const char *text)
{
    size_t left = strlen(text);

    while (left > 0) {
        size_t n = text_utf8_length(text, left);
        if (n == 0)
            return false;
        text += n;
        left -= n;
    }
    return true;
}

/* The number of a character of n bytes. */
static uint32_t code_point(const unsigned char *s, size_t n)
{
    static const unsigned char mask[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t code = s[0] & mask[n];

    for (size_t i = 1; i < n; i++)
        code = code << 6 | (s[i] & 0x3f);
    return code;
}

static bool is_shown(uint32_t code)
{
    static const struct {
        uint32_t first, last;
    } obeyed[] = {
        {0x00, 0x1f},     {0x7f, 0x9f},     {0x61c, 0x61c},   {0x200e, 0x200f},
        {0x2028, 0x202e}, {0x2066, 0x2069}, {0xfeff, 0xfeff}, {0xfff9, 0xfffb},
    };

    for (size_t i = 0; i < sizeof obeyed / sizeof *obeyed; i++)
        if (code >= obeyed[i].first && code <= obeyed[i].last)
            return false;
    return true;
}

size_t text_escape(char *to, size_t size, const char *text)
{
    static const char digits[] = "0123456789abcdef";
    size_t left = strlen(text), length = 0, end = 0; /* end: what is written of length */

    while (left > 0) {
        const unsigned char *s = (const unsigned char *)text;
        const size_t n = text_utf8_length(text, left), taken = n > 0 ? n : 1;
        const bool shown = n > 0 && is_shown(code_point(s, n));
        const size_t wanted = shown ? n : 4 * taken;

        if (end == length && length + wanted < size) {
            for (size_t i = 0; i < taken && !shown; i++) {
                const char escape[] = {'\\', 'x', digits[s[i] >> 4], digits[s[i] & 15]};
                memcpy(to + end + 4 * i, escape, sizeof escape);
            }
            if (shown)
                memcpy(to + end, text, n);
            end += wanted;
        }
        length += wanted;
        text += taken;
        left -= taken;
    }
    if (size > 0)
        to[end] = '\0';
    return length;
}

const char *text_nth_word(const char *words, unsigned n, size_t *length)
{
    for (unsigned i = 0;; i++) {
        *length = strcspn(words, " ");
        if (i == n && *length > 0)
            return words;
        if (words[*length] == '\0')
            return NULL;
        words += *length + 1;
    }
}

const char *text_path_below(const char *path, const char *directory)
{
    size_t length = strcmp(directory, "/") == 0 ? 0 : strlen(directory);

    if (strncmp(path, directory, length) != 0 || (path[length] != '/' && path[length] != '\0'))
        return NULL;
    return strcmp(path + length, "/") == 0 ? "" : path + length;
}

char *text_of_shape(const uint64_t *shape, unsigned n_dims)
{
    enum { DIM_MAX = sizeof "18446744073709551615, " };
    char *text = xmalloc(sizeof "[]" + (size_t)n_dims * DIM_MAX), *at = text;

    *at++ = '[';
    for (unsigned d = 0; d < n_dims; d++)
        at += sprintf(at, "%s%" PRIu64, d ? ", " : "", shape[d]);
    *at++ = ']';
    *at = '\0';
    return text;
}
