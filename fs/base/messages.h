/* What every command prints to stderr in the same way. */
#ifndef MOEFS_FS_MESSAGES_H
#define MOEFS_FS_MESSAGES_H

#include "layout/base/error.h"

/* "moefs: error: ...", further lines indented. */
void messages_print_error(const struct error *err);

/* One message a note: "moefs: warning: ..." or "moefs: ...". */
void messages_print_notes(const struct notes *notes);

#endif
