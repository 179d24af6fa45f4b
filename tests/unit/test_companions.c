/* Companions: which tensors that are no weights belong to a group of experts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/names.h"

/* What shares the stem of a weight belongs to the group, whatever follows; what only begins alike does not. */
static void companions_are_found_by_stems(void **state)
{
    static const struct {
        const char *type, *layout, *name;
        bool belongs;
    } rows[] = {
        {"qwen3_moe", "per-expert", "b.experts.1.gate_proj.weight_scale", true},
        {"qwen3_moe", "per-expert", "b.experts.1.gate_proj@scale", true},
        {"qwen3_moe", "per-expert", "b.experts.1.gate_proj", true},
        {"qwen3_moe", "per-expert", "b.experts.1.gate_proj.weight.absmax", true},
        {"qwen3_moe", "per-expert", "b.experts.9.anything", true},
        {"qwen3_moe", "per-expert", "b.experts.gate_up_proj_scale", true},
        {"qwen3_moe", "merged", "b.experts.gate_up_proj.weight", true},
        {"qwen3_moe", "merged", "b.experts.down_proj_x", true},
        {"qwen3_moe", "merged", "b.experts.gate_proj_scale", true},
        {"qwen3_moe", "merged", "b.experts.down_projection", false},
        {"qwen3_moe", "merged", "b.experts.e_score_correction_bias", false},
        {"qwen3_moe", "merged", "b.shared_experts.gate_up_proj_scale", false},
        {"qwen3_moe", "merged", "a.experts.gate_up_proj_scale", false},
        {"qwen3_moe", "merged", "b.gate.weight", false},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct names names = {.n = 0};
        add_block(&names, rows[i].layout, "b", 2, 5, 7);
        add(&names, rows[i].name, 1, 3, 0, 0);
        struct recognition r = run(&names, rows[i].type, NULL);
        assert_int_equal(r.n_groups, 1);
        if ((r.group_of[names.n - 1] != NO_GROUP) != rows[i].belongs)
            fail_msg("%s beside %s", rows[i].name, rows[i].layout);
        assert_int_equal(r.groups[0].n_companions, rows[i].belongs);
        recognition_free(&r);
    }
}

static void companions_are_counted_and_strays_are_not(void **state)
{
    (void)state;
    struct names names = {.n = 0};
    add_block(&names, "per-expert", "b", 2, 3, 4);
    add(&names, "b.experts.e_score_correction_bias", 1, 2, 0, 0);
    add(&names, "b.shared_experts.0.up_proj.weight", 2, 3, 4, 0);
    add(&names, "b.gate.weight", 2, 2, 4, 0);
    struct recognition r = run(&names, "qwen3_moe", NULL);
    assert_int_equal(r.n_groups, 1);
    assert_int_equal(r.groups[0].n_companions, 0);
    assert_int_equal(r.group_of[names.n - 1], NO_GROUP);
    recognition_free(&r);

    add(&names, "b.experts.0.up_proj.weight_scale_inv", 2, 1, 1, 0);
    add(&names, "b.experts.1.down_proj.bias", 1, 4, 0, 0);
    add(&names, "b.experts.1.act.alpha", 1, 4, 0, 0);
    r = run(&names, "qwen3_moe", NULL);
    assert_int_equal(r.groups[0].n_companions, 3);
    assert_string_equal(names.infos[r.groups[0].companion].name, "b.experts.0.up_proj.weight_scale_inv");
    recognition_free(&r);
}

static void expert_like_names_of_no_layout_are_reported_once(void **state)
{
    (void)state;
    struct names names = {.n = 0};
    add(&names, "b.experts.0.gate_proj.qweight", 2, 3, 4, 0);
    add(&names, "b.experts.1.gate_proj.qweight", 2, 3, 4, 0);
    struct recognition r = run(&names, "qwen3_moe", NULL);
    assert_int_equal(r.n_groups, 0);
    assert_int_equal(r.n_unfit, 1);
    assert_non_null(strstr(r.unfit[0].reason, "b.experts.0.gate_proj.qweight"));
    recognition_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(companions_are_found_by_stems),
        cmocka_unit_test(companions_are_counted_and_strays_are_not),
        cmocka_unit_test(expert_like_names_of_no_layout_are_reported_once),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
