/* Reading a user's layout file. */
#include "layout_file.h"

#include "layout/layouts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

char *layout_file_read(const char *path, size_t *length, struct error *err)
{
    FILE *file = fopen(path, "re");

    if (!file) {
        error_set(err, "%s: %s", path, strerror(errno));
        return NULL;
    }
    char *text = xmalloc(USER_LAYOUT_SIZE_MAX + 1);
    *length = fread(text, 1, USER_LAYOUT_SIZE_MAX + 1, file);
    if (ferror(file)) {
        error_set(err, "%s: %s", path, strerror(errno));
        free(text);
        text = NULL;
    }
    fclose(file);
    return text;
}

int layout_file_plan(const struct checkpoint *checkpoint, const struct plan_options *options,
                     struct plan *plan, struct error *err)
{
    const char *const names[LAYOUTS_USER_MAX] = {options->to, options->from};
    char *texts[LAYOUTS_USER_MAX] = {NULL};
    struct plan_options with_texts = *options;
    int result = 0;

    for (unsigned i = 0; i < LAYOUTS_USER_MAX && result == 0; i++) {
        struct layout_text *user = &with_texts.users[i];
        if (!names[i] || !layouts_is_file(names[i]))
            continue;
        user->path = names[i];
        user->text = texts[i] = layout_file_read(names[i], &user->length, err);
        result = texts[i] ? 0 : -1;
    }
    if (result == 0)
        result = plan_build(checkpoint, &with_texts, plan, err);
    for (unsigned i = 0; i < LAYOUTS_USER_MAX; i++)
        free(texts[i]);
    return result;
}
