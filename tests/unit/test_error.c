/* Errors and notes: what they hold is safe to print, and their lines are the causes. */
#include "layout/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void names_cannot_break_lines(void **state)
{
    struct error err = {0};

    (void)state;
    assert_int_equal(error_set(&err, "%s: unknown", "a\nmoefs: error: \x1b[2Jb"), -1);
    assert_string_equal(err.text, "a\\x0amoefs: error: \\x1b[2Jb: unknown");
    assert_int_equal(error_add(&err, "%s: too", "c\r"), -1);
    assert_string_equal(err.text, "a\\x0amoefs: error: \\x1b[2Jb: unknown\nc\\x0d: too");
    error_set(&err, "again");
    assert_string_equal(err.text, "again");
    error_free(&err);
    assert_null(err.text);
    error_add(&err, "first");
    assert_string_equal(err.text, "first");
    error_free(&err);
}

static void an_error_passes_on_with_its_lines(void **state)
{
    struct error from = {0}, to = {0};

    (void)state;
    error_add(&from, "one");
    error_add(&from, "%s", "t\nwo");
    assert_int_equal(error_relay(&to, from.text), -1);
    assert_string_equal(to.text, "one\nt\\x0awo");
    error_free(&from);
    error_free(&to);
}

static void notes_are_safe_too(void **state)
{
    struct notes notes = {0};

    (void)state;
    notes_add(&notes, NOTE_WARNING, "%s: ignored", "x\x9b\n");
    assert_int_equal(notes.n, 1);
    assert_string_equal(notes.list[0].text, "x\\x9b\\x0a: ignored");
    notes_free(&notes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_cannot_break_lines),
        cmocka_unit_test(an_error_passes_on_with_its_lines),
        cmocka_unit_test(notes_are_safe_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
