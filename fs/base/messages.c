#include "messages.h"

#include <stdio.h>
#include <string.h>

static void print_lines(const char *prefix, const char *text)
{
    size_t length = strcspn(text, "\n");

    fprintf(stderr, "moefs: %s%.*s\n", prefix, (int)length, text);
    while (text[length] != '\0') {
        text += length + 1;
        length = strcspn(text, "\n");
        fprintf(stderr, "  %.*s\n", (int)length, text);
    }
}

void messages_print_error(const struct error *err)
{
    print_lines("error: ", err->text ? err->text : "failed without a message");
}

void messages_print_notes(const struct notes *notes)
{
    for (size_t i = 0; i < notes->n; i++)
        print_lines(notes->list[i].kind == NOTE_WARNING ? "warning: " : "", notes->list[i].text);
}
