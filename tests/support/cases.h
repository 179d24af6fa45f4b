/* Programs that a Python test drives: cases come on stdin, each as its length (u64, little-endian) and its
 * bytes. */
#ifndef MOEFS_TESTS_CASES_H
#define MOEFS_TESTS_CASES_H

#include "layout/base/memory.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* The next case, malloc'd with a NUL behind it; NULL at the end of stdin. Exits on a case that is cut. */
static inline char *cases_next(uint64_t *length)
{
    uint8_t prefix[8];
    size_t n = fread(prefix, 1, sizeof prefix, stdin);

    if (n == 0)
        return NULL;
    *length = 0;
    for (int i = 7; i >= 0; i--)
        *length = *length << 8 | prefix[i];
    char *text = xmalloc(*length + 1);
    if (n != sizeof prefix || fread(text, 1, *length, stdin) != *length)
        exit(2);
    text[*length] = '\0';
    return text;
}

static inline void cases_put_length(uint64_t length)
{
    for (int i = 0; i < 8; i++)
        putchar((int)(length >> (8 * i) & 0xff));
}

#endif
