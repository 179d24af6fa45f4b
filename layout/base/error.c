/* Errors and notes as values. */
#include "error.h"
#include "memory.h"

#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The text where there is no memory for one: who reports an error may have a mount to take down. */
static char exhausted[] = "out of memory";

/* The text, which it takes, or a longer copy; NULL where there is no memory for that. */
static char *printable(char *text)
{
    const size_t length = text_escape(NULL, 0, text);

    if (length == strlen(text))
        return text;
    char *escaped = malloc(length + 1);
    if (escaped)
        text_escape(escaped, length + 1, text);
    free(text);
    return escaped;
}

__attribute__((format(printf, 1, 0))) static char *make_text(const char *format, va_list args)
{
    char *text;

    return vasprintf(&text, format, args) < 0 ? NULL : printable(text);
}

/* text: malloc'd and the error's from here on, or NULL. */
static int error_take(struct error *err, char *text)
{
    error_free(err);
    err->text = text ? text : exhausted;
    return -1;
}

int error_set(struct error *err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    char *text = make_text(format, args);
    va_end(args);
    return error_take(err, text);
}

int error_add(struct error *err, const char *format, ...)
{
    va_list args;
    char *both;

    va_start(args, format);
    cleanup_free char *line = make_text(format, args);
    va_end(args);
    if (!line)
        return error_take(err, NULL);
    const int length = err->text ? asprintf(&both, "%s\n%s", err->text, line) : asprintf(&both, "%s", line);
    return error_take(err, length < 0 ? NULL : both);
}

int error_relay(struct error *err, const char *text)
{
    return error_take(err, strdup(text));
}

void error_free(struct error *err)
{
    if (err->text != exhausted)
        free(err->text);
    err->text = NULL;
}

void notes_add(struct notes *notes, enum note_kind kind, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    char *text = make_text(format, args);
    va_end(args);
    if (!text)
        memory_exhausted();
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
