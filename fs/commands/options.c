/* The parser of command lines, and --help from the same rows. */
#include "options.h"

#include "layout/base/checked.h"
#include "layout/base/memory.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ROWS_MAX 40
#define LONG_CODE 256 /* added to a row's number: getopt's code of an option without a letter */
#define HELP_COLUMN 27
#define HELP_WIDTH 80

/* The rows of all sets of a command, and --help. */
struct row_list {
    const struct option_row *rows[ROWS_MAX];
    size_t base[ROWS_MAX]; /* of the row's set in the command's struct */
    int n;
};

static const struct option_row help_row = {.name = "help", .letter = 'h', .help = "print this"};

static void list_rows(const struct command *command, struct row_list *list)
{
    list->n = 0;
    for (const struct option_set *set = command->options; set->rows; set++) {
        for (const struct option_row *row = set->rows; row->parse; row++) {
            assert(list->n < ROWS_MAX - 1);
            list->base[list->n] = set->field;
            list->rows[list->n++] = row;
        }
    }
    list->rows[list->n++] = &help_row;
}

static int row_code(const struct row_list *list, int i)
{
    return list->rows[i]->letter ? list->rows[i]->letter : LONG_CODE + i;
}

/* The row with getopt's code, or -1. */
static int find_row(const struct row_list *list, int code)
{
    for (int i = 0; i < list->n; i++)
        if (row_code(list, i) == code)
            return i;
    return -1;
}

/* ---- help ---- */

/* Breaks the text's lines between words; the first line begins at `column`. */
static void print_wrapped(const char *text, int indent, int column)
{
    while (*text) {
        const int length = (int)strcspn(text, " ");
        if (column > indent && column + 1 + length > HELP_WIDTH) {
            putchar('\n');
            column = 0;
        }
        if (column < indent)
            column += printf("%*s", indent - column, "");
        else if (column > indent)
            column += printf(" ");
        column += printf("%.*s", length, text);
        text += length + (text[length] == ' ');
    }
    putchar('\n');
}

static void print_row(const struct option_row *row)
{
    char left[64];
    char letter[] = {'-', row->letter, '\0'};
    int n = snprintf(left, sizeof left, "  %s%s%s%s%s%s", row->letter ? letter : "  ",
                     !row->name    ? ""
                     : row->letter ? ", "
                                   : "  ",
                     row->name ? "--" : "", row->name ? row->name : "", row->argument ? " " : "",
                     row->argument ? row->argument : "");

    printf("%s", left);
    if (n >= HELP_COLUMN) {
        putchar('\n');
        n = 0;
    }
    print_wrapped(row->help, HELP_COLUMN, n);
}

static void print_help(const struct command *command, const struct row_list *list)
{
    printf("usage: moefs %s [options]%s%s\n\n", command->name, *command->operands ? " " : "",
           command->operands);
    print_wrapped(command->description, 0, 0);
    printf("\noptions:\n");
    for (int i = 0; i < list->n; i++)
        print_row(list->rows[i]);
}

/* ---- values ---- */

int option_refuse(const struct option_use *use, struct error *err, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    cleanup_free char *reason = xvasprintf(format, arguments);
    va_end(arguments);
    return error_set(err, "%s: %s %s: %s", use->command, use->name, use->text, reason);
}

int option_flag(const struct option_use *use, void *field, struct error *err)
{
    (void)use;
    (void)err;
    *(bool *)field = true;
    return 0;
}

int option_text(const struct option_use *use, void *field, struct error *err)
{
    (void)err;
    *(const char **)field = use->text;
    return 0;
}

int option_list(const struct option_use *use, void *field, struct error *err)
{
    const char ***list = field;
    size_t n = 0;

    (void)err;
    while (*list && (*list)[n])
        n++;
    *list = xreallocarray(*list, n + 2, sizeof **list);
    (*list)[n] = use->text;
    (*list)[n + 1] = NULL;
    return 0;
}

int option_joined(const struct option_use *use, void *field, struct error *err)
{
    char **joined = field;
    char *text = *joined ? xasprintf("%s,%s", *joined, use->text) : xstrdup(use->text);

    (void)err;
    free(*joined);
    *joined = text;
    return 0;
}

int option_number(const struct option_use *use, void *field, struct error *err)
{
    return option_parse_number(use, 0, UINT64_MAX, field, err);
}

int option_parse_number(const struct option_use *use, uint64_t least, uint64_t most, uint64_t *number,
                        struct error *err)
{
    char *end;

    errno = 0;
    *number = strtoull(use->text, &end, 10);
    if (*use->text < '0' || *use->text > '9' || *end || errno || *number < least || *number > most)
        return option_refuse(use, err, "not a number from %llu to %llu", (unsigned long long)least,
                             (unsigned long long)most);
    return 0;
}

bool option_parse_size(const char *text, size_t *bytes)
{
    static const char units[] = "KMG";
    uint64_t value = 0, scale = 1;

    if (*text < '0' || *text > '9')
        return false;
    for (; *text >= '0' && *text <= '9'; text++) {
        if (!checked_mul(value, 10, &value) || !checked_add(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    if (*text != '\0') {
        const char *unit = strchr(units, *text >= 'a' && *text <= 'z' ? *text - 'a' + 'A' : *text);
        if (!unit || text[1] != '\0')
            return false;
        scale = UINT64_C(1) << (10 * (unit - units + 1));
    }
    if (!checked_mul(value, scale, &value) || value > SIZE_MAX)
        return false;
    *bytes = (size_t)value;
    return true;
}

int option_parse_choice(const struct option_use *use, const char *const *words, struct error *err)
{
    cleanup_free char *known = xstrdup("");

    for (int i = 0; words[i]; i++) {
        if (strcmp(use->text, words[i]) == 0)
            return i;
        char *longer = xasprintf("%s%s%s", known, i == 0 ? "" : words[i + 1] ? ", " : " or ", words[i]);
        free(known);
        known = longer;
    }
    return option_refuse(use, err, "must be %s", known);
}

/* ---- the command line ---- */

/* getopt's own two tables. */
static void make_tables(const struct row_list *list, struct option *longs, char *shorts)
{
    *shorts++ = ':';
    for (int i = 0; i < list->n; i++) {
        const struct option_row *row = list->rows[i];
        if (row->name)
            *longs++ = (struct option){row->name, row->argument ? required_argument : no_argument, NULL,
                                       row_code(list, i)};
        if (row->letter) {
            *shorts++ = row->letter;
            if (row->argument)
                *shorts++ = ':';
        }
    }
    *longs = (struct option){0};
    *shorts = '\0';
}

/* Whether the word begins the names of several options: getopt takes what begins one alone. */
static bool is_ambiguous(const struct row_list *list, const char *word)
{
    const char *name = word + strspn(word, "-");
    const size_t length = strcspn(name, "=");
    int n = 0;

    for (int i = 0; i < list->n && strncmp(word, "--", 2) == 0; i++)
        n += list->rows[i]->name && strncmp(list->rows[i]->name, name, length) == 0;
    return n > 1;
}

/* getopt leaves in optopt: 0 for an unknown long option, the letter of an unknown short one (which may stand
 * inside a word), and the code of a known one that is wrongly used. */
static int refuse_option(const struct command *command, const struct row_list *list, int code, char **argv,
                         struct error *err)
{
    const int row = optopt > 0 ? find_row(list, optopt) : -1;

    if (row >= 0 && code == ':')
        error_set(err, "%s: %s: needs a value, %s; `moefs %s --help` explains it", command->name,
                  argv[optind - 1], list->rows[row]->argument, command->name);
    else if (row >= 0)
        error_set(err, "%s: %s: --%s takes no value; `moefs %s --help` explains it", command->name,
                  argv[optind - 1], list->rows[row]->name, command->name);
    else if (optopt > 0)
        error_set(err, "%s: -%c: unknown option; `moefs %s --help` lists the options", command->name, optopt,
                  command->name);
    else
        error_set(err, "%s: %s: %s; `moefs %s --help` lists the options", command->name, argv[optind - 1],
                  is_ambiguous(list, argv[optind - 1]) ? "several options begin so" : "unknown option",
                  command->name);
    return EXIT_USAGE;
}

static int parse_option(const struct command *command, const struct row_list *list, int i, void *fields,
                        struct error *err)
{
    const struct option_row *row = list->rows[i];
    char name[64];

    if (row->name)
        snprintf(name, sizeof name, "--%s", row->name);
    else
        snprintf(name, sizeof name, "-%c", row->letter);
    const struct option_use use = {.command = command->name, .name = name, .text = optarg};
    return row->parse(&use, (char *)fields + list->base[i] + row->field, err);
}

int options_parse(const struct command *command, int argc, char **argv, void *fields,
                  struct operands *operands, struct error *err)
{
    struct row_list list;
    struct option longs[ROWS_MAX + 1];
    char shorts[2 * ROWS_MAX + 2];
    int code;

    list_rows(command, &list);
    make_tables(&list, longs, shorts);
    opterr = 0;
    optind = 0; /* glibc: forget an earlier command line */
    while ((code = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        if (code == ':' || code == '?')
            return refuse_option(command, &list, code, argv, err);
        const int row = find_row(&list, code);
        if (list.rows[row] == &help_row) {
            print_help(command, &list);
            return EXIT_OK;
        }
        if (parse_option(command, &list, row, fields, err) < 0)
            return EXIT_USAGE;
    }
    *operands = (struct operands){.list = (const char *const *)(argv + optind), .n = argc - optind};
    if (operands->n < command->n_operands || operands->n > command->n_operands + command->n_optional) {
        error_set(err, "%s: expected %s, got %d operand%s; `moefs %s --help` explains", command->name,
                  *command->operands ? command->operands : "options alone", operands->n,
                  operands->n == 1 ? "" : "s", command->name);
        return EXIT_USAGE;
    }
    return OPTIONS_GO;
}
