/* Cutting up what -o says: what is refused, what is ours, what is libfuse's. */
#include "fuse_options.h"

#include "layout/base/memory.h"

#include <string.h>

/* The value without the meaning that commas and backslashes have. Owned by the caller. */
static char *escape_option(const char *text)
{
    char *escaped = xmalloc(2 * strlen(text) + 1), *to = escaped;

    for (; *text; text++) {
        if (*text == ',' || *text == '\\')
            *to++ = '\\';
        *to++ = *text;
    }
    *to = '\0';
    return escaped;
}

/* Where the option at text ends: at a comma without a backslash before it, or at the end. */
static const char *option_end(const char *text)
{
    while (*text != '\0' && *text != ',') {
        if (text[0] == '\\' && text[1] != '\0')
            text++;
        text++;
    }
    return text;
}

static bool option_is(const char *text, size_t length, const char *name)
{
    size_t name_length = strlen(name);

    return length >= name_length && strncmp(text, name, name_length) == 0 &&
           (length == name_length || text[name_length] == '=');
}

/* What the user has no say in, and why. */
static const struct {
    const char *name, *why;
} refused[] = {
    {"rw", "a moefs mount is read-only"},
    {"max_read", "moefs answers requests of any size that the kernel makes"},
    {"subtype", "the subtype is moefs, by which `moefs umount` knows its mounts"},
};

static int check_option(const char *text, size_t length, struct error *err)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (option_is(text, length, refused[i].name))
            return error_set(err, "-o %.*s: %s", (int)length, text, refused[i].why);
    return 0;
}

static void add_option(struct fuse_options *options, const char *text, size_t length)
{
    char *all = xasprintf("%s,%.*s", options->text, (int)length, text);

    free(options->text);
    options->text = all;
}

int fuse_options_make(const char *source, const char *given, struct fuse_options *options, struct error *err)
{
    cleanup_free char *escaped = escape_option(source);

    *options = (struct fuse_options){
        .text = xasprintf("fsname=%s,subtype=moefs,ro,nosuid,nodev,default_permissions", escaped)};
    for (const char *text = given; text && *text;) {
        const char *end = option_end(text);
        const size_t length = (size_t)(end - text);
        if (check_option(text, length, err) < 0)
            return -1;
        options->allow_root = options->allow_root || option_is(text, length, "allow_root");
        if (option_is(text, length, "nonempty"))
            options->nonempty = true;
        else if (length > 0)
            add_option(options, text, length);
        text = *end ? end + 1 : end;
    }
    return 0;
}

void fuse_options_free(struct fuse_options *options)
{
    free(options->text);
    *options = (struct fuse_options){0};
}
