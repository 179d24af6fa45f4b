/* Prints errors and notes on stderr, and on stdout what names may be part of, escaped. */
#include "messages.h"

#include "layout/base/memory.h"
#include "layout/base/text.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define LINES_MAX 16 /* of one error */
#define NOTES_MAX 16 /* of one kind */

static void print_lines(const char *prefix, const char *text)
{
    size_t length = strcspn(text, "\n");
    unsigned printed = 1, left = 0;

    fprintf(stderr, "moefs: %s%.*s\n", prefix, (int)length, text);
    while (text[length] != '\0') {
        text += length + 1;
        length = strcspn(text, "\n");
        if (printed++ < LINES_MAX)
            fprintf(stderr, "  %.*s\n", (int)length, text);
        else
            left++;
    }
    if (left > 0)
        fprintf(stderr, "  ... and %u more line%s of this kind\n", left, left == 1 ? "" : "s");
}

void messages_print_error(const struct error *err)
{
    print_lines("error: ", err->text ? err->text : "failed without a message");
}

static void print_rest(const char *kind, size_t n)
{
    if (n > NOTES_MAX)
        fprintf(stderr, "moefs: ... and %zu more %s%s\n", n - NOTES_MAX, kind, n == NOTES_MAX + 1 ? "" : "s");
}

void messages_print_notes(const struct notes *notes)
{
    size_t n_warnings = 0, n_remarks = 0;

    for (size_t i = 0; i < notes->n; i++) {
        const bool warning = notes->list[i].kind == NOTE_WARNING;
        size_t *n = warning ? &n_warnings : &n_remarks;
        if ((*n)++ < NOTES_MAX)
            print_lines(warning ? "warning: " : "", notes->list[i].text);
    }
    print_rest("warning", n_warnings);
    print_rest("remark", n_remarks);
}

void messages_printf(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    cleanup_free char *text = xvasprintf(format, arguments);
    va_end(arguments);
    size_t length = strlen(text), format_length = strlen(format);
    const bool ends_line = format_length > 0 && format[format_length - 1] == '\n';
    if (ends_line)
        text[--length] = '\0';
    const size_t size = text_escape(NULL, 0, text) + 1;
    cleanup_free char *escaped = xmalloc(size);
    text_escape(escaped, size, text);
    fputs(escaped, stdout);
    if (ends_line)
        putchar('\n');
}
