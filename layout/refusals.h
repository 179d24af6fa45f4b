/* Reasons to refuse blocks of a checkpoint: one line for each cause, however many blocks have it. */
#ifndef MOEFS_LAYOUT_REFUSALS_H
#define MOEFS_LAYOUT_REFUSALS_H

#include "layout/base/error.h"

#include <utarray.h>

struct refusals {
    UT_array *list; /* NULL: none yet */
};

/* Adds what is wrong with a block. Reasons that differ in nothing but the block's name and in numbers (of
 * layers, experts, files, sizes) are one cause: the first block's text stands for all. title: the block, for the
 * message. */
void refusals_add(struct refusals *refusals, const char *block, const char *title, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Adds a line for each cause to the error, in the order in which the causes came, and empties the list. -1
 * when there was one. */
int refusals_report(struct refusals *refusals, struct error *err);

#endif
