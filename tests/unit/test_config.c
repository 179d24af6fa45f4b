/* Expected values: what Python's json.load and transformers' configuration classes take from the
 * same text. */
#include "layout/format/config.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define COUNTS_MAX 4

static const struct {
    const char *text;
    const char *model_type, *transformers_weights;
    uint64_t counts[COUNTS_MAX]; /* ends with 0 */
} ACCEPTED[] = {
    {"{}", NULL, NULL, {0}},
    {"{\"model_type\":\"qwen3_moe\",\"num_experts\":128}", "qwen3_moe", NULL, {128}},
    {"{\"model_type\":null,\"transformers_weights\":\"w.safetensors\"}", NULL, "w.safetensors", {0}},
    {"{\"model_type\":\"old\",\"model_type\":\"new\"}", "new", NULL, {0}},
    {"{\"text_config\":{\"num_local_experts\":8,\"x\":[{\"n_routed_experts\":4}]},\"moe_num_experts\":64,"
     "\"num_experts\":8}",
     NULL,
     NULL,
     {4, 8, 64}},
    {"{\"num_experts\":0,\"num_local_experts\":-1,\"n_routed_experts\":8.0,\"moe_num_experts\":[64,64]}",
     NULL,
     NULL,
     {0}},
    {"{\"num_experts\":\"8\",\"a\":{\"num_experts\":null},\"b\":{\"num_experts\":true}}", NULL, NULL, {0}},
    {"{\"num_experts_per_tok\":8,\"xnum_experts\":3}", NULL, NULL, {0}},
    {"{\"num_experts\":9007199254740993}", NULL, NULL, {UINT64_C(9007199254740993)}},
    {"{\"a\":NaN,\"b\":[Infinity,-Infinity,NaN,NaN],\"model_type\":\"NaN, -Infinity\"}",
     "NaN, -Infinity",
     NULL,
     {0}},
    {" {\"model_type\":\"\\u0071\"} \n", "q", NULL, {0}},
};

static void configs_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(ACCEPTED); i++) {
        struct error err = {0};
        struct config config;
        size_t n = 0;
        if (config_parse("d/config.json", ACCEPTED[i].text, strlen(ACCEPTED[i].text), &config, &err))
            fail_msg("%s: %s", ACCEPTED[i].text, err.text);
        const char *const pairs[2][2] = {{config.model_type, ACCEPTED[i].model_type},
                                         {config.transformers_weights, ACCEPTED[i].transformers_weights}};
        for (int p = 0; p < 2; p++) {
            assert_int_equal(pairs[p][0] != NULL, pairs[p][1] != NULL);
            if (pairs[p][1])
                assert_string_equal(pairs[p][0], pairs[p][1]);
        }
        while (n < COUNTS_MAX && ACCEPTED[i].counts[n])
            n++;
        assert_int_equal(config.expert_counts.n, n);
        for (size_t c = 0; c < n; c++)
            assert_true(config.expert_counts.numbers[c] == ACCEPTED[i].counts[c]);
        config_free(&config);
    }
}

static void sizes_are_collected(void **state)
{
    static const struct {
        const char *text;
        uint64_t hidden[COUNTS_MAX], inner[COUNTS_MAX]; /* end with 0 */
    } rows[] = {
        {"{\"num_experts\":8}", {0}, {0}},
        {"{\"hidden_size\":7,\"intermediate_size\":9,\"moe_intermediate_size\":5}", {7}, {5, 9}},
        {"{\"text_config\":{\"hidden_size\":7},\"vision\":[{\"d_model\":3,\"d_ff\":1}]}", {3, 7}, {1}},
        {"{\"moe_intermediate_size\":[6,5,6],\"hidden_size\":[]}", {0}, {5, 6}},
        {"{\"hidden_size\":[8,[9,10],11],\"x\":[12]}", {8}, {0}}, /* nobody's list of lists */
        {"{\"hidden_size\":[8,null,9],\"x\":12}", {8}, {0}},
        {"{\"hidden_size\":{\"x\":12},\"intermediate_size\":\"9\"}", {0}, {0}},
        {"{\"hidden_size\":0,\"intermediate_size\":-1,\"ffn_dim\":2.5,\"d_ff\":NaN}", {0}, {0}},
        {"{\"hidden_size\":18446744073709551615,\"n_embd\":18446744073709551616}", {UINT64_MAX}, {0}},
    };
    (void)state;

    for (size_t i = 0; i < LENGTH(rows); i++) {
        struct error err = {0};
        struct config config;
        assert_int_equal(config_parse("c", rows[i].text, strlen(rows[i].text), &config, &err), 0);
        const struct config_set *const sets[2] = {&config.hidden_sizes, &config.inner_sizes};
        const uint64_t *const wanted[2] = {rows[i].hidden, rows[i].inner};
        for (int s = 0; s < 2; s++) {
            size_t n = 0;
            for (; wanted[s][n]; n++)
                if (!config_set_has(sets[s], wanted[s][n]))
                    fail_msg("%s: no %llu", rows[i].text, (unsigned long long)wanted[s][n]);
            if (sets[s]->n != n)
                fail_msg("%s: %zu numbers", rows[i].text, sets[s]->n);
            assert_false(config_set_has(sets[s], 4));
        }
        config_free(&config);
    }
}

static void numbers_are_found_by_their_paths(void **state)
{
    static const struct {
        const char *text, *paths;
        uint64_t numbers[COUNTS_MAX]; /* ends with 0 */
    } rows[] = {
        {"{\"a\":{\"b\":3}}", "a.b", {3}},
        {"{\"a\":{\"b\":3},\"c\":4}", "c a.b", {4, 3}},
        {"{\"a\":{\"b\":[3,5,3]}}", "a.b", {3, 5}},
        {"{\"a\":{\"b\":3},\"a\":{\"b\":6}}", "a.b", {6}}, /* the last one counts */
        {"{\"a\":[3]}", "a.b", {0}},                       /* what should be an object is none */
        {"{\"a\":[{\"b\":3}]}", "a.b", {0}},
        {"{\"a\":3}", "a.b", {0}},
        {"{\"a\":null,\"c\":2}", "a.b c", {2}},
        {"{\"a\":\"b\"}", "a.b", {0}},
        {"{}", "a.b", {0}},
    };
    (void)state;

    for (size_t i = 0; i < LENGTH(rows); i++) {
        struct error err = {0};
        struct config config;
        uint64_t numbers[COUNTS_MAX];
        size_t n = 0;
        assert_int_equal(config_parse("c", rows[i].text, strlen(rows[i].text), &config, &err), 0);
        while (rows[i].numbers[n])
            n++;
        if (config_numbers(&config, rows[i].paths, numbers, COUNTS_MAX) != n ||
            memcmp(numbers, rows[i].numbers, n * sizeof *numbers) != 0)
            fail_msg("%s: other numbers at %s", rows[i].text, rows[i].paths);
        config_free(&config);
    }
}

static void nan_and_infinity_read_as_null(void **state)
{
    static const char TEXT[] = "{\"a\":NaN,\"b\":-Infinity,\"c\":[Infinity,1],\"d\":\"Infinity\"}";
    struct error err = {0};
    struct config config;

    (void)state;
    assert_int_equal(config_parse("config.json", TEXT, strlen(TEXT), &config, &err), 0);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(config.root, "a")));
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(config.root, "b")));
    assert_true(cJSON_IsNull(cJSON_GetArrayItem(cJSON_GetObjectItem(config.root, "c"), 0)));
    assert_int_equal(cJSON_GetArrayItem(cJSON_GetObjectItem(config.root, "c"), 1)->valueint, 1);
    assert_string_equal(cJSON_GetObjectItem(config.root, "d")->valuestring, "Infinity");
    assert_string_equal(config.text, TEXT); /* as the file has it */
    assert_int_equal(config.length, strlen(TEXT));
    config_free(&config);
}

static void the_text_need_not_end_in_nul(void **state)
{
    static const char TEXT[] = {'{', '"', 'n', 'u', 'm', '_', 'e', 'x', 'p', 'e',
                                'r', 't', 's', '"', ':', 'N', 'a', 'N', '}', 'x'};
    struct error err = {0};
    struct config config;

    (void)state;
    assert_int_equal(config_parse("config.json", TEXT, sizeof TEXT - 1, &config, &err), 0);
    assert_int_equal(config.expert_counts.n, 0);
    assert_int_equal(config.length, sizeof TEXT - 1);
    assert_int_equal(strlen(config.text), sizeof TEXT - 1);
    config_free(&config);
}

static const struct {
    const char *text, *message;
} REFUSED[] = {
    {"", "d/config.json: byte 0: the text ends where a value is expected"},
    {"[]", "d/config.json: byte 0: not a JSON object"},
    {"null", "d/config.json: byte 0: not a JSON object"},
    {"NaN", "d/config.json: byte 0: not a JSON object"},
    {"{\"a\":1", "d/config.json: byte 6: the text ends where a comma or } is expected"},
    {"{\"a\":1}}", "d/config.json: byte 7: '}' where the end of the text is expected"},
    {"{\"a\":NaNN}", "d/config.json: byte 8: 'N' where a comma or } is expected"},
    {"{\"a\":nan}", "d/config.json: byte 5: 'n' where a value is expected"},
    {"version https://git-lfs.github.com/spec/v1\n", "d/config.json: byte 0: 'v' where a value is expected"},
    {"{\"model_type\":3}", "d/config.json: model_type is not a string"},
    {"{\"model_type\":[\"a\"]}", "d/config.json: model_type is not a string"},
    {"{\"transformers_weights\":{}}", "d/config.json: transformers_weights is not a string"},
    {"{\"model_type\":\"a\\u0000b\"}", "d/config.json: byte 15: a string holds U+0000"},
    {"{\"a\":{\"b\":\"\\ud800\"}}", "d/config.json: near byte "},
};

static void bad_configs_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(REFUSED); i++) {
        struct error err = {0};
        struct config config;
        if (config_parse("d/config.json", REFUSED[i].text, strlen(REFUSED[i].text), &config, &err) == 0)
            fail_msg("accepted: %s", REFUSED[i].text);
        if (!strstr(err.text, REFUSED[i].message))
            fail_msg("%s: \"%s\" lacks \"%s\"", REFUSED[i].text, err.text, REFUSED[i].message);
        error_free(&err);
    }
}

static const struct {
    const char *text;
    bool dense;
} DENSE[] = {
    {"{}", true},
    {"{\"num_experts\":0}", true},
    {"{\"num_experts\":1,\"a\":[1,{\"num_experts\":1}]}", true},
    {"{\"num_experts\":2}", false},
    {"{\"num_experts\":1,\"num_local_experts\":4}", false},
    {"{\"a\":[0,{\"n_routed_experts\":8}]}", false},
    {"{\"num_experts\":8,\"num_hidden_layers\":3,\"mlp_only_layers\":[2,0,1]}", true},
    {"{\"num_experts\":8,\"num_hidden_layers\":3,\"mlp_only_layers\":[0,2]}", false},
    {"{\"num_experts\":8,\"mlp_only_layers\":[0,1]}", false},
    {"{\"num_experts\":8,\"num_hidden_layers\":3,\"decoder_sparse_step\":4}", true},
    {"{\"num_experts\":8,\"num_hidden_layers\":3,\"decoder_sparse_step\":3}", false},
    {"{\"n_routed_experts\":8,\"num_hidden_layers\":3,\"first_k_dense_replace\":3}", true},
    {"{\"n_routed_experts\":8,\"num_hidden_layers\":3,\"first_k_dense_replace\":2}", false},
    {"{\"num_local_experts\":8,\"num_hidden_layers\":3,\"moe_layers\":[]}", true},
    {"{\"num_local_experts\":8,\"num_hidden_layers\":3,\"moe_layers\":[1]}", false},
    {"{\"num_experts\":8,\"num_hidden_layers\":2,\"mlp_layer_types\":[\"dense\",\"dense\"]}", true},
    {"{\"num_experts\":8,\"num_hidden_layers\":2,\"mlp_layer_types\":[\"dense\",\"sparse\"]}", false},
    {"{\"num_experts\":8,\"num_hidden_layers\":2,\"num_dense_layers\":2}", true},
    {"{\"num_experts\":8,\"num_hidden_layers\":2,\"num_dense_layers\":1}", false},
    {"{\"num_experts\":8,\"num_dense_layers\":2}", false},
    {"{\"moe_num_experts\":8,\"num_hidden_layers\":2,\"moe_layer_start_index\":2}", true},
    {"{\"moe_num_experts\":8,\"num_hidden_layers\":2,\"moe_layer_start_index\":1}", false},
    {"{\"num_experts\":8,\"num_hidden_layers\":4,\"expert_layer_offset\":4,\"expert_layer_period\":8}", true},
    {"{\"num_experts\":8,\"num_hidden_layers\":5,\"expert_layer_offset\":4,\"expert_layer_period\":8}",
     false},
    {"{\"num_local_experts\":8,\"num_hidden_layers\":3,\"interleave_moe_layer_step\":4}", true},
    {"{\"num_local_experts\":8,\"num_hidden_layers\":3,\"interleave_moe_layer_step\":3}", false},
    {"{\"num_local_experts\":8,\"interleave_moe_layer_step\":3}", false},
    {"{\"n_routed_experts\":8,\"moe_layer_freq\":[0,0]}", true},
    {"{\"n_routed_experts\":8,\"moe_layer_freq\":[0,1]}", false},
    {"{\"n_routed_experts\":8,\"moe_layer_freq\":[]}", false},
    {"{\"n_routed_experts\":8,\"moe_layer_freq\":0}", false},
    {"{\"num_experts\":8,\"is_moe_layer\":[false,false]}", true},
    {"{\"num_experts\":8,\"is_moe_layer\":[false,true]}", false},
    {"{\"n_routed_experts\":8,\"hybrid_override_pattern\":\"M*-M\"}", true},
    {"{\"n_routed_experts\":8,\"hybrid_override_pattern\":\"M*EM\"}", false},
    {"{\"n_routed_experts\":8,\"layers_block_type\":[\"mamba\",\"mlp\"]}", true},
    {"{\"n_routed_experts\":8,\"layers_block_type\":[\"mamba\",\"moe\"]}", false},
    {"{\"n_routed_experts\":8,\"layers_block_type\":[]}", false},
    {"{\"num_experts\":8,\"enable_moe_block\":false}", true},
    {"{\"num_experts\":8,\"enable_moe_block\":true}", false},
    {"{\"num_hidden_layers\":3,\"mlp_only_layers\":[0,1,2],\"text_config\":{\"num_experts\":8}}", false},
};

/* Each model in the file by its own keys. */
static void configs_say_whether_there_are_moe_layers(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(DENSE); i++) {
        struct error err = {0};
        struct config config;
        assert_int_equal(config_parse("d/config.json", DENSE[i].text, strlen(DENSE[i].text), &config, &err),
                         0);
        if (config_is_dense(&config) != DENSE[i].dense)
            fail_msg("%s", DENSE[i].text);
        config_free(&config);
    }
}

/* An object of so many bytes, spaces behind it. */
static void the_length_is_limited(void **state)
{
    static char text[CONFIG_LENGTH_MAX + 1];
    struct error err = {0};
    struct config config;

    (void)state;
    memset(text, ' ', sizeof text);
    memcpy(text, "{}", 2);
    assert_int_equal(config_parse("d/config.json", text, CONFIG_LENGTH_MAX, &config, &err), 0);
    config_free(&config);
    assert_int_equal(config_parse("d/config.json", text, CONFIG_LENGTH_MAX + 1, &config, &err), -1);
    assert_string_equal(err.text,
                        "d/config.json has 4194305 bytes, more than the 4194304 that such a file may have");
    error_free(&err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configs_are_read),
        cmocka_unit_test(sizes_are_collected),
        cmocka_unit_test(numbers_are_found_by_their_paths),
        cmocka_unit_test(nan_and_infinity_read_as_null),
        cmocka_unit_test(the_text_need_not_end_in_nul),
        cmocka_unit_test(bad_configs_are_refused),
        cmocka_unit_test(configs_say_whether_there_are_moe_layers),
        cmocka_unit_test(the_length_is_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
