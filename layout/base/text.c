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
