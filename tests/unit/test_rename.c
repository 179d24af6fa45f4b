/* Renames: what pairs of templates make of names, there and back. */
#include "layout/rename.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define PAIRS_MAX 3

static void pairs_are_applied_there_and_back(void **state)
{
    static const struct {
        const char *pairs[PAIRS_MAX][2];
        const char *name, *there, *back;
    } rows[] = {
        {{{"a.weight", "b.w"}}, "a.weight", "b.w", "a.weight"},
        {{{"a.weight", "b.w"}}, "xa.weight", "xa.weight", "xa.weight"},
        {{{"a.weight", "b.w"}}, "a.weights", "a.weights", "a.weights"},
        {{{"a.weight", "b.w"}}, "a_weight", "a_weight", "a_weight"}, /* "." is a point, not any letter */
        {{{"a+(b)[c]", "d^$|*?"}}, "a+(b)[c]", "d^$|*?", "a+(b)[c]"},
        /* holes: numbers without leading zeros, and any text but none */
        {{{"l.{n}.q", "m.{n}.r"}}, "l.0.q", "m.0.r", "l.0.q"},
        {{{"l.{n}.q", "m.{n}.r"}}, "l.120.q", "m.120.r", "l.120.q"},
        {{{"l.{n}.q", "m.{n}.r"}},
         "l.18446744073709551616.q",
         "m.18446744073709551616.r",
         "l.18446744073709551616.q"},
        {{{"l.{n}.q", "m.{n}.r"}}, "l.01.q", "l.01.q", "l.01.q"},
        {{{"l.{n}.q", "m.{n}.r"}}, "l.-1.q", "l.-1.q", "l.-1.q"},
        {{{"l.{n}.q", "m.{n}.r"}}, "l..q", "l..q", "l..q"},
        {{{"{block}.q", "r.{block}"}}, "a.b.c.q", "r.a.b.c", "a.b.c.q"},
        {{{"{block}.q", "r.{block}"}}, ".q", ".q", ".q"},
        {{{"{a}.{b}.{c}", "{c}-{a}-{b}"}}, "1.2.3", "3-1-2", "1.2.3"},
        /* the first pair that fits counts */
        {{{"a.{n}", "x.{n}"}, {"a.7", "seven"}}, "a.7", "x.7", "a.7"},
        {{{"a.7", "seven"}, {"a.{n}", "x.{n}"}}, "a.7", "seven", "a.7"},
        {{{"a.7", "seven"}, {"a.{n}", "x.{n}"}}, "a.8", "x.8", "a.8"},
        /* back: a pair whose name the layout would spell otherwise is passed over */
        {{{"a.7", "seven"}, {"a.{n}", "x.{n}"}}, "x.7", "x.7", "x.7"},
        {{{"a", "b"}, {"b", "a"}}, "a", "b", "a"},
        /* pairs that have no way back: the caller must compare */
        {{{"a.{n}.w", "z.{n}"}, {"b.{n}.w", "z.{n}"}}, "b.5.w", "z.5", "a.5.w"},
        {{{"a", "b"}}, "b", "b", "a"},
        {{{"a.{n}.{m}", "z{n}1{m}"}}, "a.2.315", "z21315", "a.213.5"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *pairs[PAIRS_MAX][2];
        struct layout layout = {.rename = pairs};
        struct renames *there, *back;
        struct arena arena = {0};
        struct error err = {0};
        for (; layout.n_renames < PAIRS_MAX && rows[i].pairs[layout.n_renames][0]; layout.n_renames++)
            memcpy(pairs[layout.n_renames], rows[i].pairs[layout.n_renames], sizeof *pairs);
        assert_int_equal(renames_compile(&layout, &there, &err), 0);
        assert_int_equal(renames_compile_back(&layout, &back, &err), 0);
        const char *name = renames_apply(there, rows[i].name, &arena);
        assert_string_equal(name, rows[i].there);
        assert_string_equal(renames_apply(back, name, &arena), rows[i].back);
        renames_free(there);
        renames_free(back);
        arena_free(&arena);
    }
    assert_string_equal(renames_apply(NULL, "kept", NULL), "kept");
}

static void malformed_pairs_are_refused(void **state)
{
    static const struct {
        const char *from, *to, *message;
    } rows[] = {
        {"a.{n", "b", "a brace is not closed"},
        {"a.n}", "b", "a brace is not closed"},
        {"a.{}", "b", "a brace is not closed"},
        {"a.{{n}}", "b", "a brace is not closed"},
        {"a", "b.{n", "a brace is not closed"},
        {"a.{n}", "b.{n}}", "a brace is not closed"},
        {"a.{n}.{n}", "b.{n}", "a hole is given twice"},
        {"a.{n}", "b.{m}", "has no hole {m}"},
        {"a.{n}", "b", "do not have the same holes"},
        {"a.{n}", "b.{n}.{n}", "do not have the same holes"},
        {"x{n}{m}", "y{n}.{m}", "\"x{n}{m}\": two holes touch"},
        {"x{n}.{m}", "y{m}{n}", "\"y{m}{n}\": two holes touch"},
        {"{block}{m}", "{m}.{block}", "two holes touch"},
        {"{a}.{b}.{c}.{d}.{e}.{f}.{g}.{h}.{i}", "x", "more than 8"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *pairs[1][2] = {{rows[i].from, rows[i].to}};
        const struct layout layout = {.rename = pairs, .n_renames = 1};
        struct renames *renames;
        struct error err = {0};
        assert_int_equal(renames_compile(&layout, &renames, &err), -1);
        if (!strstr(err.text, rows[i].message))
            fail_msg("%s: got \"%s\"", rows[i].from, err.text);
        assert_null(renames);
        error_free(&err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_are_applied_there_and_back),
        cmocka_unit_test(malformed_pairs_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
