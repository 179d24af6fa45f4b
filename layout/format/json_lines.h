/* Where in a file of layouts a message is about: the file, the line and the keys that lead there. */
#ifndef MOEFS_LAYOUT_JSON_LINES_H
#define MOEFS_LAYOUT_JSON_LINES_H

#include "layout/base/error.h"
#include "layout/base/memory.h"

#include <stddef.h>

/* The line of each key of a user's file, and of each element of its lists. */
struct json_lines {
    const struct json_line *last;
};

/* Checks the syntax (strictly: RFC 8259, no key twice in one object, no U+0000) and notes the lines. -1 with
 * file and line in *err. */
int json_lines_read(const char *file, const char *text, size_t length, struct arena *arena,
                    struct json_lines *lines, struct error *err);

struct json_position {
    const char *file;
    const struct json_lines *lines; /* of a user's file; NULL for built-in data */
    const char *layout;             /* built-in data: the layout's name */
    const char *part, *key;         /* the outer and the inner key; NULL: none */
    int element;                    /* in the list of key: counted from 1; 0: none */
};

/* "FILE:LINE: part.key: what". Always -1. */
int json_malformed(const struct json_position *position, struct error *err, const char *what);

#endif
