/* What every command prints in the same way. */
#ifndef MOEFS_FS_MESSAGES_H
#define MOEFS_FS_MESSAGES_H

#include "layout/base/error.h"

/* To stderr: "moefs: error: ...", further lines indented; of many lines the first ones and how many more there
 * are. */
void messages_print_error(const struct error *err);

/* To stderr: "moefs: warning: ..." or "moefs: ..."; of many of a kind the first ones and how many more. */
void messages_print_notes(const struct notes *notes);

/* printf() to stdout for texts that hold names: what a terminal would obey is escaped (text_escape). A line
 * break is printed where the format ends with it, and escaped anywhere else. */
void messages_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
