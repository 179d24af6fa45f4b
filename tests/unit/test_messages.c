/* What is printed to stderr and stdout: both are files meanwhile. */
#include "fs/base/messages.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct {
    FILE *stream, *file;
    int kept;
} caught;

static void catch_output(FILE *stream)
{
    fflush(stream);
    caught.stream = stream;
    caught.file = tmpfile();
    caught.kept = dup(fileno(stream));
    dup2(fileno(caught.file), fileno(stream));
}

static void assert_caught(const char *expected)
{
    char text[4096];

    fflush(caught.stream);
    dup2(caught.kept, fileno(caught.stream));
    close(caught.kept);
    rewind(caught.file);
    text[fread(text, 1, sizeof text - 1, caught.file)] = '\0';
    fclose(caught.file);
    assert_string_equal(text, expected);
}

static void an_error_has_a_line_for_each_cause(void **state)
{
    struct error err = {0};

    (void)state;
    catch_output(stderr);
    messages_print_error(&err);
    assert_caught("moefs: error: failed without a message\n");
    error_add(&err, "one\r");
    error_add(&err, "two");
    catch_output(stderr);
    messages_print_error(&err);
    assert_caught("moefs: error: one\\x0d\n  two\n");
    error_free(&err);
}

static void of_many_lines_the_first_are_printed(void **state)
{
    struct error err = {0};
    struct notes notes = {0};

    (void)state;
    for (int i = 0; i < 18; i++)
        error_add(&err, "%d", i);
    catch_output(stderr);
    messages_print_error(&err);
    assert_caught(
        "moefs: error: 0\n  1\n  2\n  3\n  4\n  5\n  6\n  7\n  8\n  9\n  10\n  11\n  12\n  13\n  14\n"
        "  15\n  ... and 2 more lines of this kind\n");
    error_free(&err);
    for (int i = 0; i < 17; i++)
        notes_add(&notes, NOTE_INFO, "%d", i);
    notes_add(&notes, NOTE_WARNING, "w");
    catch_output(stderr);
    messages_print_notes(&notes);
    assert_caught("moefs: 0\nmoefs: 1\nmoefs: 2\nmoefs: 3\nmoefs: 4\nmoefs: 5\nmoefs: 6\nmoefs: 7\nmoefs: 8\n"
                  "moefs: 9\nmoefs: 10\nmoefs: 11\nmoefs: 12\nmoefs: 13\nmoefs: 14\nmoefs: 15\n"
                  "moefs: warning: w\nmoefs: ... and 1 more remark\n");
    notes_free(&notes);
}

static void the_formats_line_break_is_printed(void **state)
{
    (void)state;
    catch_output(stdout);
    messages_printf("%s: %d\n", "a\nb\x1b", 1);
    messages_printf("%s", "\n");
    messages_printf("\n");
    messages_printf("%s", "");
    assert_caught("a\\x0ab\\x1b: 1\n\\x0a\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_has_a_line_for_each_cause),
        cmocka_unit_test(of_many_lines_the_first_are_printed),
        cmocka_unit_test(the_formats_line_break_is_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
