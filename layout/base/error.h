/* Errors and notes as values.
 *
 * An error is made once, where its cause is known, with the file, the tensor and the numbers in it, and
 * travels up as a value; only main() prints it. A function that can fail returns 0, or -1 with *err set.
 *
 * Texts are safe to print wherever they end: what a name in them holds that a terminal would obey, line breaks
 * too, is escaped when the text is made (text_escape). */
#ifndef MOEFS_LAYOUT_ERROR_H
#define MOEFS_LAYOUT_ERROR_H

#include <stddef.h>

struct error {
    char *text; /* error_free's; NULL when nothing failed. May hold several lines: one cause each. */
};

/* Sets the text (freeing an earlier one), or "out of memory" where there is none for it. Always returns -1, so
 * that `return error_set(err, ...)` reads well. */
int error_set(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Adds one more line to the text: for checks that report all causes at once. Always returns -1. */
int error_add(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Sets the text to one that an error had elsewhere: its lines stay lines. Always returns -1. */
int error_relay(struct error *err, const char *text);

void error_free(struct error *err);

/* What a user must know although nothing failed: collected while planning, printed by the front end. */
enum note_kind { NOTE_INFO, NOTE_WARNING };

struct note {
    enum note_kind kind;
    char *text;
};

struct notes {
    struct note *list;
    size_t n;
};

void notes_add(struct notes *notes, enum note_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void notes_free(struct notes *notes);

#endif
