/* A layout in a file of the user's own: docs/layouts.md says what it may hold. */
#ifndef MOEFS_LAYOUT_USER_LAYOUT_H
#define MOEFS_LAYOUT_USER_LAYOUT_H

#include "layout/format/json_lines.h"

struct cJSON;

struct user_layout {
    const char *path; /* as given: the layout's name */
    struct cJSON *json;
    struct json_lines lines;
};

/* A user's file as the caller has read it: nothing in layout/ opens files. */
struct layout_text {
    const char *path; /* as given; must outlive the layouts */
    const char *text;
    size_t length; /* bytes; at most USER_LAYOUT_SIZE_MAX, or the layout is refused */
};

#define LAYOUTS_USER_MAX 2                     /* what --to and --from name */
#define USER_LAYOUT_SIZE_MAX ((size_t)1 << 20) /* the built-in layouts have 5,000 together */

/* Parses the text and checks what can be seen without knowing the other layouts: the syntax, the kinds of
 * values, keys that mean nothing. json is to be deleted by the caller, also after an error. -1 with file,
 * line and key in *err. */
int user_layout_parse(const struct layout_text *text, struct arena *arena, struct user_layout *user,
                      struct error *err);

#endif
