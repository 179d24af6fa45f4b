/* The first differences are kept in their order, whoever finds them when; and the first failure. */
#include "fs/verify/report.h"

#include "layout/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define FOUND 50
#define KEPT 20

static void test_first_differences(void **state)
{
    struct report report;

    (void)state;
    report_begin(&report);
    for (unsigned i = 0; i < FOUND; i++) {
        const unsigned number = i * 37 % FOUND; /* each once, in no order */
        const struct difference place = report_place(number < 5 ? DIFFERENCE_INDEX : DIFFERENCE_GROUPS,
                                                     number < 5 ? 1000 + number : number, "bytes");
        report_difference(&report, &place, "tensor", "%u", number);
    }
    assert_int_equal(report.n_found, FOUND);
    assert_int_equal(report.n_differences, KEPT);
    for (unsigned i = 0; i < KEPT; i++) {
        char text[8];
        snprintf(text, sizeof text, "%u", i);
        assert_string_equal(report.differences[i].text, text);
        assert_true(report.differences[i].row == DIFFERENCE_NONE);
        assert_true(report.differences[i].digest == DIFFERENCE_NONE);
    }
    report_free(&report);
}

static void test_first_failure(void **state)
{
    struct report report;

    (void)state;
    report_begin(&report);
    assert_int_equal(report_failure(&report, "the %s", "first"), -1);
    assert_int_equal(report_failure(&report, "the second"), -1);
    assert_string_equal(report.failure.text, "the first");
    report_free(&report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_differences),
        cmocka_unit_test(test_first_failure),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
