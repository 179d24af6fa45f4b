#include "error.h"
#include "memory.h"

#include "text.h"

#include <stdarg.h>
#include <string.h>

/* The text, which it takes, or a longer copy. */
static char *printable(char *text)
{
    const size_t length = text_escape(NULL, 0, text);

    if (length == strlen(text))
        return text;
    char *escaped = xmalloc(length + 1);
    text_escape(escaped, length + 1, text);
    free(text);
    return escaped;
}

int error_set(struct error *err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    char *text = printable(xvasprintf(format, args));
    va_end(args);
    free(err->text);
    err->text = text;
    return -1;
}

int error_add(struct error *err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    cleanup_free char *line = printable(xvasprintf(format, args));
    va_end(args);
    char *text = err->text ? xasprintf("%s\n%s", err->text, line) : xstrdup(line);
    free(err->text);
    err->text = text;
    return -1;
}

int error_relay(struct error *err, const char *text)
{
    char *copy = xstrdup(text);

    free(err->text);
    err->text = copy;
    return -1;
}

void error_free(struct error *err)
{
    free(err->text);
    err->text = NULL;
}

void notes_add(struct notes *notes, enum note_kind kind, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    char *text = printable(xvasprintf(format, args));
    va_end(args);
    notes->list = xreallocarray(notes->list, notes->n + 1, sizeof *notes->list);
    notes->list[notes->n++] = (struct note){.kind = kind, .text = text};
}

void notes_free(struct notes *notes)
{
    for (size_t i = 0; i < notes->n; i++)
        free(notes->list[i].text);
    free(notes->list);
    *notes = (struct notes){0};
}
