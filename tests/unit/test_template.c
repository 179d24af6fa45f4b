/* Name templates: what matches, from the right, and what they format. */
#include "layout/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct axis_words words;
static struct arena arena;
static struct enumeration modality; /* text, vision */

static int set_up(void **state)
{
    (void)state;
    axis_words_init(&words);
    modality = (struct enumeration){
        .axis = axis_word(&words, "modality", 8, &arena), .n = 2, .words = {"text", "vision"}};
    return 0;
}

static struct name_template parse(const char *text)
{
    struct name_template result;
    struct error err = {0};

    if (template_parse(text, &modality, &words, &arena, &result, &err) < 0)
        fail_msg("%s", err.text);
    return result;
}

#define NO UINT64_MAX

static void matches_from_the_right(void **state)
{
    static const struct {
        const char *template, *name;
        const char *block; /* NULL: no match */
        uint64_t expert;
    } rows[] = {
        {"{block}.experts.{expert}.up_proj.weight", "model.layers.3.mlp.experts.12.up_proj.weight",
         "model.layers.3.mlp", 12},
        {"{block}.experts.{expert}.up_proj.weight", "a.experts.0.up_proj.weight", "a", 0},
        {"{block}.experts.{expert}.up_proj.weight", "a.experts.00.up_proj.weight", NULL, NO},
        {"{block}.experts.{expert}.up_proj.weight", "a.experts.02.up_proj.weight", NULL, NO},
        {"{block}.experts.{expert}.up_proj.weight", "a.experts..up_proj.weight", NULL, NO},
        {"{block}.experts.{expert}.up_proj.weight", "a.experts.-1.up_proj.weight", NULL, NO},
        {"{block}.experts.{expert}.up_proj.weight", "a.experts.1x.up_proj.weight", NULL, NO},
        {"{block}.experts.{expert}.up_proj.weight", "a.shared_experts.1.up_proj.weight", NULL, NO},
        {"{block}.experts.{expert}.up_proj.weight", ".experts.1.up_proj.weight", NULL, NO},
        {"{block}.experts.{expert}.up_proj.weight", "experts.1.up_proj.weight", NULL, NO},
        {"{block}.experts.{expert}.up_proj.weight", "a.experts.1.up_proj.weight_scale", NULL, NO},
        {"{block}.experts.{expert}.up_proj.weight", "a.experts.18446744073709551616.up_proj.weight", NULL,
         NO},
        {"{block}.experts.{expert}.up_proj.weight", "", NULL, NO},
        {"{block}.experts.{expert}.up_proj.weight", "up_proj.weight", NULL, NO},
        {"{block}.experts.down_proj", "m.experts.down_proj", "m", NO},
        {"{block}.experts.down_proj", "m.experts.down_proj.weight", NULL, NO},
        {"{block}.experts.down_proj", "m.experts.down_proj_scale_inv", NULL, NO},
        {"{block}.experts.down_proj", "m.shared_experts.down_proj", NULL, NO},
        {"{block}.weight{expert}", "m.weight7", "m", 7},
        {"{block}.experts.expert_{expert}.wi", "e.experts.expert_10.wi", "e", 10},
        {"{block}.{modality}_moe.experts.w", "m.vision_moe.experts.w", "m", 1},
        {"{block}.{modality}_moe.experts.w", "m.audio_moe.experts.w", NULL, NO},
        {"{block}.experts.{modality expert}.w", "m.experts.12.w", "m", 12},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct name_template template = parse(rows[i].template);
        struct name_match match;
        bool found = template_match(&template, rows[i].name, strlen(rows[i].name), &match);
        if (found != (rows[i].block != NULL))
            fail_msg("'%s' %s '%s'", rows[i].template, found ? "matches" : "does not match", rows[i].name);
        if (!found)
            continue;
        assert_int_equal(match.block_length, strlen(rows[i].block));
        if (rows[i].expert != NO)
            assert_int_equal(match.values[0], rows[i].expert);
        assert_string_equal(template_format(&template, rows[i].block, match.values, &arena), rows[i].name);
    }
}

static void matches_stems_of_companions(void **state)
{
    struct name_template per_expert = parse("{block}.experts.{expert}.up_proj.weight");
    struct name_template merged = parse("{block}.experts.down_proj");
    struct name_match match;
    (void)state;

    assert_true(template_match_stem(&per_expert, "a.experts.4.up_proj", 19, &match));
    assert_int_equal(match.values[0], 4);
    assert_false(template_match_stem(&per_expert, "a.experts.4.up_proj.weight", 26, &match));
    assert_true(template_match_stem(&merged, "a.experts.down_proj", 19, &match));
}

static void refuses_malformed_templates(void **state)
{
    static const struct {
        const char *text, *message;
    } rows[] = {
        {"experts.{expert}", "does not begin with {block}"},
        {"{block}", "nothing but {block}"},
        {"{block}{expert}", "two holes touch"},
        {"{block}.{expert", "a brace is not closed"},
        {"{block}.{}.w", "a brace is not closed"},
        {"{block}.a}", "a brace is not closed"},
        {"{block}.{a}.{b}.{c}", "more than 2 holes"},
        {"{block}.{kind expert}.w", "'kind' has no list of words"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct name_template template;
        struct error err = {0};
        assert_int_equal(template_parse(rows[i].text, &modality, &words, &arena, &template, &err), -1);
        if (!strstr(err.text, rows[i].message))
            fail_msg("'%s': got \"%s\", expected \"%s\"", rows[i].text, err.text, rows[i].message);
        error_free(&err);
    }
}

static int tear_down(void **state)
{
    (void)state;
    arena_free(&arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(matches_from_the_right, set_up, tear_down),
        cmocka_unit_test_setup_teardown(matches_stems_of_companions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_malformed_templates, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
