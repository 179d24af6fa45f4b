/* Axis expressions: what parses, what sizes and strides follow. Strides are those of numpy's C order. */
#include "layout/axes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct axis_words words;
static struct arena arena;

static int set_up(void **state)
{
    (void)state;
    axis_words_init(&words);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    arena_free(&arena);
    return 0;
}

static struct axes parse(const char *text)
{
    struct axes axes;
    struct error err = {0};

    if (axes_parse(text, &words, &arena, &axes, &err) < 0)
        fail_msg("%s", err.text);
    return axes;
}

static uint8_t word(const char *text)
{
    return axis_word(&words, text, strlen(text), &arena);
}

static void refuses_malformed_expressions(void **state)
{
    static const struct {
        const char *text, *message;
    } rows[] = {
        {"expert (proj inner hidden", "a parenthesis is not closed"},
        {"expert )", "unexpected ')' at column 8"},
        {"()", "unexpected ')' at column 2"},
        {"((a b) c)", "unexpected '(' at column 2"},
        {"expert expert", "'expert' occurs twice"},
        {"(proj proj)", "'proj' occurs twice"},
        {"inner/", "'inner/' is malformed"},
        {"inner/0", "'inner/0' is malformed"},
        {"inner/x", "'inner/' is malformed"},
        {"hidden 0", "'0' is malformed"},
        {"18446744073709551616", "is malformed"},
        {"Expert", "unexpected 'E' at column 1"},
        {"a b c d e f g", "more than 6 dimensions"},
        {"(a b c d e f g)", "more than 6 axes in one dimension"},
        {"aa bb cc dd ee ff", NULL},
        {"gg hh ii jj kk ll", NULL},
        {"mm nn oo", "is one axis too many"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct axes axes;
        struct error err = {0};
        assert_int_equal(axes_parse(rows[i].text, &words, &arena, &axes, &err), rows[i].message ? -1 : 0);
        if (!rows[i].message)
            continue;
        if (!strstr(err.text, rows[i].message))
            fail_msg("'%s': got \"%s\", expected \"%s\"", rows[i].text, err.text, rows[i].message);
        error_free(&err);
    }
}

static void gives_row_major_strides(void **state)
{
    (void)state;
    struct axes axes = parse("expert (proj inner) hidden");
    uint64_t sizes[AXIS_WORDS_MAX] = {0}, strides[AXIS_WORDS_MAX], shape[AXES_DIMS_MAX];

    sizes[word("expert")] = 3;
    sizes[word("inner")] = 5;
    sizes[word("hidden")] = 7;
    axes_strides(&axes, &words, sizes, 2, strides);
    assert_int_equal(strides[word("expert")], 70);
    assert_int_equal(strides[AXIS_PROJ], 35);
    assert_int_equal(strides[word("inner")], 7);
    assert_int_equal(strides[word("hidden")], 1);
    assert_true(axes_shape(&axes, &words, sizes, 2, shape));
    assert_int_equal(shape[0], 3);
    assert_int_equal(shape[1], 10);
    assert_int_equal(shape[2], 7);
    sizes[word("inner")] = UINT64_MAX / 2 + 1;
    assert_false(axes_shape(&axes, &words, sizes, 2, shape));
}

static void a_scalar_has_no_dimensions(void **state)
{
    uint64_t sizes[AXIS_WORDS_MAX] = {0};
    struct error err = {0};
    bool solved = false;
    (void)state;

    struct axes axes = parse("");
    assert_int_equal(axes.n_dims, 0);
    assert_int_equal(axes_solve(&axes, &words, NULL, 0, 1, sizes, &solved, &err), 0);
    assert_false(solved);
}

static void solves_sizes_by_exact_division(void **state)
{
    static const struct {
        const char *text;
        uint64_t shape[3];
        uint8_t n_dims;
        uint64_t expert, inner, hidden; /* known before: 0 is unknown */
        uint64_t solved_inner;
        const char *message; /* NULL: fits */
    } rows[] = {
        {"expert (proj inner) hidden", {3, 10, 7}, 3, 0, 0, 0, 5, NULL},
        {"expert hidden (proj inner)", {3, 7, 10}, 3, 0, 0, 0, 5, NULL},
        {"expert (proj inner) hidden", {3, 9, 7}, 3, 0, 0, 0, 0, "dimension 1 is 9, not proj 2 x inner"},
        {"expert (proj inner) hidden", {3, 10, 7}, 3, 4, 0, 0, 0, "dimension 0 is 3, not expert 4"},
        {"expert (proj inner) hidden", {3, 10, 7}, 3, 0, 6, 0, 0, "dimension 1 is 10, not proj 2 x inner 6"},
        {"expert (proj inner) hidden", {30, 7}, 2, 0, 0, 0, 0, "2 dimensions, not 3"},
        {"expert (proj inner) hidden", {3, 0, 7}, 3, 0, 0, 0, 0, "dimension 1 is 0"},
        {"(expert inner) hidden", {15, 7}, 2, 3, 0, 0, 5, NULL},
        {"(expert inner) hidden", {15, 7}, 2, 0, 0, 0, 0, NULL}, /* two unknowns: stays open */
        {"expert (proj inner/128) hidden/128", {3, 4, 7}, 3, 0, 256, 896, 256, NULL},
        {"expert (proj inner/128) hidden/128", {3, 4, 8}, 3, 0, 256, 897, 256, NULL},
        {"expert (proj inner/128) hidden/128",
         {3, 5, 7},
         3,
         0,
         256,
         896,
         0,
         "dimension 1 is 5, not proj 2 x inner/128 2"},
        {"inner hidden 16", {5, 7, 16}, 3, 0, 0, 0, 5, NULL},
        {"inner hidden 16", {5, 7, 15}, 3, 0, 0, 0, 0, "dimension 2 is 15, not 16"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t sizes[AXIS_WORDS_MAX] = {0};
        struct error err = {0};
        bool solved = false;
        struct axes axes = parse(rows[i].text);
        sizes[word("expert")] = rows[i].expert;
        sizes[word("inner")] = rows[i].inner;
        sizes[word("hidden")] = rows[i].hidden;
        int result = axes_solve(&axes, &words, rows[i].shape, rows[i].n_dims, 2, sizes, &solved, &err);
        if (!rows[i].message) {
            assert_int_equal(result, 0);
            assert_int_equal(sizes[word("inner")], rows[i].solved_inner);
        } else {
            assert_int_equal(result, -1);
            if (strcmp(err.text, rows[i].message) != 0)
                fail_msg("row %zu: got \"%s\", expected \"%s\"", i, err.text, rows[i].message);
        }
        error_free(&err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(refuses_malformed_expressions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gives_row_major_strides, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_scalar_has_no_dimensions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(solves_sizes_by_exact_division, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
