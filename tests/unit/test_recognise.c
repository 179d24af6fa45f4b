/* Recognition: what a group of names and shapes is taken for. The expectations are the
 * layouts' definitions. */
#include "layout/recognise.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/names.h"

/* All four layouts, all sizes up to 6, square ones among them: always the one that it was made in. */
static void square_sizes_leave_no_doubt(void **state)
{
    static const char *const kinds[] = {"per-expert", "stacked", "merged", "in-out"};
    (void)state;

    for (size_t k = 0; k < 4; k++)
        for (uint64_t I = 1; I <= 6; I++)
            for (uint64_t H = 1; H <= 6; H++) {
                struct names names = {.n = 0};
                add_block(&names, kinds[k], "model.layers.0.mlp", 3, I, H);
                struct recognition r = run(&names, "qwen3_moe", NULL);
                assert_int_equal(r.n_groups, 1);
                assert_int_equal(r.n_unfit, 0);
                assert_string_equal(r.groups[0].bound->layout->name, kinds[k]);
                assert_string_equal(r.groups[0].block, "model.layers.0.mlp");
                assert_int_equal(r.groups[0].n_experts, 3);
                recognition_free(&r);
            }
}

static void an_unknown_architecture_hides_the_order_of_gate_and_up(void **state)
{
    (void)state;
    struct names names = {.n = 0};
    add_block(&names, "merged", "m", 2, 3, 4);
    struct recognition r = run(&names, "nobody_knows", NULL);
    assert_true(r.groups[0].ambiguous);
    recognition_free(&r);
    r = run(&names, "nobody_knows", "merged");
    assert_false(r.groups[0].ambiguous);
    assert_true(r.groups[0].from_option);
    recognition_free(&r);
    names.n = 0;
    add_block(&names, "stacked", "m", 2, 3, 4);
    r = run(&names, "nobody_knows", NULL);
    assert_false(r.groups[0].ambiguous);
    recognition_free(&r);
}

static void says_why_nothing_fits(void **state)
{
    static const struct {
        const char *remove; /* a tensor to leave out, or NULL */
        const char *add;    /* a tensor to add, or NULL */
        const char *reason;
    } rows[] = {
        {"b.experts.1.up_proj.weight", NULL, "per-expert: expert 1 is missing (b.experts.1.up_proj.weight)"},
        {"b.experts.2.down_proj.weight", NULL,
         "per-expert: expert 2 is missing (b.experts.2.down_proj.weight)"},
        {"b.experts.1.up_proj.weight", "b.experts.01.up_proj.weight", "per-expert: expert 1 is missing"},
        {NULL, "b.experts.down_proj", "two sets of experts in one block"},
        {NULL, "b.experts.gate_up_proj", "two sets of experts in one block"},
        {NULL, "b.experts.4.gate_proj.weight",
         "per-expert: expert 3 is missing (b.experts.3.gate_proj.weight)"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct names all = {.n = 0}, names = {.n = 0};
        add_block(&all, "per-expert", "b", 3, 5, 7);
        for (uint32_t t = 0; t < all.n; t++)
            if (!rows[i].remove || strcmp(all.infos[t].name, rows[i].remove) != 0)
                add(&names, all.infos[t].name, 2, all.infos[t].shape[0], all.infos[t].shape[1], 0);
        if (rows[i].add)
            add(&names, rows[i].add, 2, 5, 7, 0);
        struct recognition r = run(&names, "qwen3_moe", NULL);
        assert_true(r.n_unfit >= 1);
        if (!strstr(r.unfit[0].reason, rows[i].reason))
            fail_msg("row %zu: got \"%s\", expected \"%s\"", i, r.unfit[0].reason, rows[i].reason);
        recognition_free(&r);
    }
}

/* Whichever expert and projection it is, the first and the last too. */
static void all_experts_have_one_shape(void **state)
{
    (void)state;
    for (uint32_t odd = 0; odd < 12; odd++) {
        struct names names = {.n = 0};
        add_block(&names, "per-expert", "b", 4, 5, 7);
        uint64_t *shape = arena_memdup(&arena, names.infos[odd].shape, 2 * sizeof *shape);
        shape[odd % 2] += 1;
        names.infos[odd].shape = shape;
        struct recognition r = run(&names, "qwen3_moe", NULL);
        assert_int_equal(r.n_groups, 0);
        assert_int_equal(r.n_unfit, 1);
        /* expert 0 is what the others are compared with */
        if (odd >= 3 && !strstr(r.unfit[0].reason, names.infos[odd].name))
            fail_msg("%s: %s", names.infos[odd].name, r.unfit[0].reason);
        assert_false(r.unfit[0].companion != NO_TENSOR || r.unfit[0].codes != NO_TENSOR);
        recognition_free(&r);
    }
}

/* gate and up count another axis than down: without any down nothing tells how many there should be. */
static void a_projection_with_an_axis_of_its_own_is_missed(void **state)
{
    char name[64];

    (void)state;
    struct names names = {.n = 0};
    for (unsigned e = 0; e < 3; e++)
        for (unsigned p = 0; p < 2; p++) {
            snprintf(name, sizeof name, "b.experts.%u.%s_proj.weight", e, p ? "up" : "gate");
            add(&names, name, 2, 5, 7, 0);
        }
    struct recognition r = run(&names, "longcat_flash", NULL);
    assert_int_equal(r.n_groups, 0);
    assert_non_null(strstr(r.unfit[0].reason, "b.experts.0.down_proj.weight is missing"));
    recognition_free(&r);
}

/* A lone expert's number, also where {modality expert} makes two coordinates of it. */
static void a_lone_large_number_is_refused(void **state)
{
    static const char *const types[] = {"qwen3_moe", "ernie4_5_vl_moe", "nllb-moe"};
    static const struct {
        const char *number, *reason; /* reason: of the composite number */
    } rows[] = {
        {"4294967295", "b.experts.0.gate_proj.weight is missing"},
        {"4294967296", "4294967297 experts cannot be numbered through 2 kinds"},
        {"18446744073709551614", "18446744073709551615 experts cannot be numbered through 2 kinds"},
        {"18446744073709551615", "experts cannot be numbered up to 18446744073709551615"},
        {"18446744073709551616", NULL}, /* no 64-bit integer: no layout's name */
    };
    (void)state;

    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            struct names names = {.n = 0};
            char name[128];
            snprintf(name, sizeof name, "b.experts.%s%s.%s.weight", t == 2 ? "expert_" : "", rows[i].number,
                     t == 2 ? "fc1" : "gate_proj");
            add(&names, name, 2, 5, 7, 0);
            struct recognition r = run(&names, types[t], NULL);
            assert_int_equal(r.n_groups, 0);
            assert_int_equal(r.n_unfit, t == 2 && !rows[i].reason ? 0 : 1);
            if (t == 1 && rows[i].reason && !strstr(r.unfit[0].reason, rows[i].reason))
                fail_msg("%s: got \"%s\"", name, r.unfit[0].reason);
            recognition_free(&r);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(square_sizes_leave_no_doubt),
        cmocka_unit_test(an_unknown_architecture_hides_the_order_of_gate_and_up),
        cmocka_unit_test(says_why_nothing_fits),
        cmocka_unit_test(all_experts_have_one_shape),
        cmocka_unit_test(a_projection_with_an_axis_of_its_own_is_missed),
        cmocka_unit_test(a_lone_large_number_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
