/* The parser of command lines, on a command that is made up here. */
#include "fs/commands/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* A set that several commands could share, in the middle of the command's struct. */
struct shared {
    const char *to, *topic;
    const char **exclude;
};

struct fields {
    bool json;
    struct shared shared;
    uint64_t number;
    size_t size;
    char *joined;
    int choice;
};

static int parse_size(const struct option_use *use, void *field, struct error *err)
{
    return option_parse_size(use->text, field) ? 0 : option_refuse(use, err, "not a size of %d", 7);
}

static int parse_choice(const struct option_use *use, void *field, struct error *err)
{
    static const char *const words[] = {"red", "green", "blue", NULL};

    *(int *)field = option_parse_choice(use, words, err);
    return *(int *)field < 0 ? -1 : 0;
}

static const struct option_row shared_rows[] = {
    {"to", 0, "LAYOUT", option_text, offsetof(struct shared, to), "where to"},
    {"topic", 0, "TEXT", option_text, offsetof(struct shared, topic), "about what"},
    {"exclude", 'x', "GLOB", option_list, offsetof(struct shared, exclude), "what not"},
    {0},
};

static const struct option_row own_rows[] = {
    {"json", 'j', NULL, option_flag, offsetof(struct fields, json), "print JSON"},
    {"number", 0, "N", option_number, offsetof(struct fields, number), "a number"},
    {"size", 0, "SIZE", parse_size, offsetof(struct fields, size), "a size"},
    {NULL, 'o', "OPTIONS", option_joined, offsetof(struct fields, joined), "others"},
    {"colour", 0, "red|green|blue", parse_choice, offsetof(struct fields, choice),
     "a text that is so long that it cannot stand on one line of eighty columns, not even on two lines"},
    {0},
};

static const struct command COMMAND = {
    .name = "try",
    .operands = "SRC [DST]",
    .n_operands = 1,
    .n_optional = 1,
    .description = "Tries.",
    .options =
        (const struct option_set[]){{shared_rows, offsetof(struct fields, shared)}, {own_rows, 0}, {0}},
};

#define WORDS_MAX 12

/* Words in an order that getopt may change. */
static int parse(const char *const *words, struct fields *fields, struct operands *operands,
                 struct error *err)
{
    static char *argv[WORDS_MAX + 2];
    static char name[] = "try";
    int argc = 0;

    for (int i = 1; i < WORDS_MAX + 2; i++) {
        free(argv[i]);
        argv[i] = NULL;
    }
    argv[argc++] = name;
    for (; words && *words; words++)
        argv[argc++] = strdup(*words);
    *fields = (struct fields){.shared.to = "v5", .choice = -1};
    return options_parse(&COMMAND, argc, argv, fields, operands, err);
}

static void fields_are_filled(void **state)
{
    static const char *const words[] = {"--to", "merged", "src", "-x", "a", "--exclude=b", "-ja", NULL};
    static const char *const more[] = {
        "-j", "--number=18446744073709551615", "-oro", "-o", "noexec", "dst", "--", "--src", NULL};
    struct fields fields;
    struct operands operands;
    struct error err = {0};

    (void)state;
    assert_int_equal(parse(more, &fields, &operands, &err), OPTIONS_GO);
    assert_true(fields.json);
    assert_true(fields.number == UINT64_MAX);
    assert_string_equal(fields.joined, "ro,noexec");
    assert_string_equal(fields.shared.to, "v5");
    assert_null(fields.shared.exclude);
    assert_int_equal(operands.n, 2);
    assert_string_equal(operands.list[0], "dst");
    assert_string_equal(operands.list[1], "--src");
    free(fields.joined);

    /* -j takes no value: the letters behind it are options, and there is no -a */
    assert_int_equal(parse(words, &fields, &operands, &err), EXIT_USAGE);
    assert_string_equal(err.text, "try: -a: unknown option; `moefs try --help` lists the options");
    assert_string_equal(fields.shared.to, "merged");
    assert_string_equal(fields.shared.exclude[0], "a");
    assert_string_equal(fields.shared.exclude[1], "b");
    assert_null(fields.shared.exclude[2]);
    free(fields.shared.exclude);
    error_free(&err);
}

static const struct {
    const char *words[WORDS_MAX];
    const char *message;
} WRONG[] = {
    {{NULL}, "try: expected SRC [DST], got 0 operands; `moefs try --help` explains"},
    {{"a", "b", "c"}, "try: expected SRC [DST], got 3 operands; `moefs try --help` explains"},
    {{"a", "--to"}, "try: --to: needs a value, LAYOUT; `moefs try --help` explains it"},
    {{"a", "-x"}, "try: -x: needs a value, GLOB; `moefs try --help` explains it"},
    {{"a", "--json=1"}, "try: --json=1: --json takes no value; `moefs try --help` explains it"},
    {{"a", "--what"}, "try: --what: unknown option; `moefs try --help` lists the options"},
    {{"a", "--t"}, "try: --t: several options begin so; `moefs try --help` lists the options"},
    {{"a", "-z"}, "try: -z: unknown option; `moefs try --help` lists the options"},
    {{"a", "--number", "-1"}, "try: --number -1: not a number from 0 to 18446744073709551615"},
    {{"a", "--number", ""}, "try: --number : not a number from 0 to 18446744073709551615"},
    {{"a", "--number", "18446744073709551616"},
     "try: --number 18446744073709551616: not a number from 0 to 18446744073709551615"},
    {{"a", "--size", "1X"}, "try: --size 1X: not a size of 7"},
    {{"a", "--colour", "grey"}, "try: --colour grey: must be red, green or blue"},
};

static void wrong_usage_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(WRONG); i++) {
        struct fields fields;
        struct operands operands;
        struct error err = {0};
        assert_int_equal(parse(WRONG[i].words, &fields, &operands, &err), EXIT_USAGE);
        assert_string_equal(err.text, WRONG[i].message);
        error_free(&err);
    }
}

static const struct {
    const char *text;
    size_t bytes;
    bool valid;
} SIZES[] = {
    {"0", 0, true},
    {"1048576", 1048576, true},
    {"64M", (size_t)64 << 20, true},
    {"64m", (size_t)64 << 20, true},
    {"1k", 1024, true},
    {"2G", (size_t)2 << 30, true},
    {"17179869183G", SIZE_MAX - ((size_t)1 << 30) + 1, true},
    {"18446744073709551615", SIZE_MAX, true},
    {"17179869184G", 0, false}, /* 2^64 */
    {"18446744073709551616", 0, false},
    {"99999999999999999999999", 0, false},
    {"", 0, false},
    {"M", 0, false},
    {"-1", 0, false},
    {"+1", 0, false},
    {" 1", 0, false},
    {"1.5G", 0, false},
    {"1GB", 0, false},
    {"1T", 0, false},
    {"0x10", 0, false},
};

static void sizes_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(SIZES); i++) {
        size_t bytes = 0;
        assert_int_equal(option_parse_size(SIZES[i].text, &bytes), SIZES[i].valid);
        if (SIZES[i].valid)
            assert_true(bytes == SIZES[i].bytes);
    }
}

static void numbers_have_bounds(void **state)
{
    static const struct {
        const char *text;
        int result;
    } cases[] = {{"4", -1}, {"5", 0}, {"9", 0}, {"10", -1}, {"5 ", -1}, {"x", -1}, {"", -1}};

    (void)state;
    for (size_t i = 0; i < LENGTH(cases); i++) {
        const struct option_use use = {"try", "--tokens", cases[i].text};
        struct error err = {0};
        uint64_t number;
        assert_int_equal(option_parse_number(&use, 5, 9, &number, &err), cases[i].result);
        if (cases[i].result < 0)
            assert_non_null(strstr(err.text, "not a number from 5 to 9"));
        else
            assert_int_equal(number, atoi(cases[i].text));
        error_free(&err);
    }
}

/* What --help prints; stdout is a file meanwhile. */
static void help_comes_from_the_rows(void **state)
{
    static const char *const words[] = {"--no-such-option-before", NULL}, *const help[] = {"-j", "--help",
                                                                                           "-z", NULL};
    static const char expected[] =
        "usage: moefs try [options] SRC [DST]\n\nTries.\n\noptions:\n"
        "      --to LAYOUT          where to\n"
        "      --topic TEXT         about what\n"
        "  -x, --exclude GLOB       what not\n"
        "  -j, --json               print JSON\n"
        "      --number N           a number\n"
        "      --size SIZE          a size\n"
        "  -o OPTIONS               others\n"
        "      --colour red|green|blue\n"
        "                           a text that is so long that it cannot stand on one\n"
        "                           line of eighty columns, not even on two lines\n"
        "  -h, --help               print this\n";
    struct fields fields;
    struct operands operands;
    struct error err = {0};
    char text[sizeof expected + 100] = "";
    FILE *file = tmpfile();

    (void)state;
    assert_int_equal(parse(words, &fields, &operands, &err), EXIT_USAGE);
    error_free(&err);
    fflush(stdout);
    const int kept = dup(STDOUT_FILENO);
    dup2(fileno(file), STDOUT_FILENO);
    const int status = parse(help, &fields, &operands, &err);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    assert_int_equal(status, EXIT_OK);
    assert_null(err.text);
    assert_string_equal(text, expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_filled),        cmocka_unit_test(wrong_usage_is_refused),
        cmocka_unit_test(sizes_are_read),           cmocka_unit_test(numbers_have_bounds),
        cmocka_unit_test(help_comes_from_the_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
