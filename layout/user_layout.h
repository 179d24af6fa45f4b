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

/* Reads the file and checks what can be seen without knowing the other layouts: the syntax, the kinds of
 * values, keys that mean nothing. json is to be deleted by the caller, also after an error. -1 with file,
 * line and key in *err. */
int user_layout_read(const char *path, struct arena *arena, struct user_layout *user, struct error *err);

#endif
