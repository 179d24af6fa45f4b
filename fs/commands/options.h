/* The parser of every command line. An option is one row, which says how its value is read and into which
 * field of the command's struct it goes; --help and the messages come from the same rows. */
#ifndef MOEFS_FS_OPTIONS_H
#define MOEFS_FS_OPTIONS_H

#include "commands.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An option as it was given. */
struct option_use {
    const char *command; /* "mount" */
    const char *name;    /* "--cache-size", or "-o" where there is no long name */
    const char *text;    /* its value; NULL where the option takes none */
};

/* Reads the value into the row's field. -1 with *err set: exit with EXIT_USAGE. */
typedef int option_parser(const struct option_use *use, void *field, struct error *err);

struct option_row {
    const char *name;     /* "cache-size", or NULL */
    char letter;          /* 'o', or 0 */
    const char *argument; /* "SIZE"; NULL: the option takes no value */
    option_parser *parse;
    size_t field;     /* offset in the struct that the row's set fills */
    const char *help; /* one paragraph; --help breaks its lines */
};

/* Rows, and where in the command's struct the struct lies that they fill: a set can be part of several
 * commands. */
struct option_set {
    const struct option_row *rows; /* end with an empty one */
    size_t field;
};

struct operands {
    const char *const *list;
    int n;
};

#define OPTIONS_GO (-1)

/* Fills the command's struct, which holds the defaults; texts point into argv. OPTIONS_GO, or the status to
 * exit with: EXIT_USAGE with *err set, or EXIT_OK when --help was asked for and printed. */
int options_parse(const struct command *command, int argc, char **argv, void *fields,
                  struct operands *operands, struct error *err);

/* ---- parsers, each with the type of its field ---- */

option_parser option_flag;   /* bool */
option_parser option_text;   /* const char * */
option_parser option_number; /* uint64_t */
option_parser option_list;   /* const char **: NULL, or owned and ended by NULL; may be repeated */
option_parser option_joined; /* char *: NULL, or owned; repeated ones are joined by commas */

/* ---- for a command's own parsers ---- */

/* "mount: --cache-size 12Q: " and the message. Always returns -1. */
int option_refuse(const struct option_use *use, struct error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int option_parse_number(const struct option_use *use, uint64_t least, uint64_t most, uint64_t *number,
                        struct error *err);
/* "64K", "256M", "2G" or a number of bytes: powers of 1024. False for anything else. */
bool option_parse_size(const char *text, size_t *bytes);
/* The number of the word (from 0), or -1 with *err set. The words end with NULL. */
int option_parse_choice(const struct option_use *use, const char *const *words, struct error *err);

#endif
