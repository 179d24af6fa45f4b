/* Each row: two config.json, and what config_keys_compare() tells of them: "path want got;" for a key that
 * changes what is loaded, "+path got;" for one of the other alone that does not have to. */
#include "fs/verify/config_keys.h"

#include "layout/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <utstring.h>

static const struct {
    const char *source, *other, *told;
} ROWS[] = {
    /* the same */
    {"{}", "{}", ""},
    {"{\"a\": 1000000, \"b\": 0.5}", "{\"b\": 5e-1, \"a\": 1e6}", ""},
    {"{\"a\": [1, {\"b\": [2.0]}], \"c\": {}}", "{\"a\": [1.0, {\"b\": [2]}]}", ""},
    {"{\"a\": NaN, \"b\": -Infinity}", "{\"a\": NaN, \"b\": -Infinity}", ""},
    {"{\"a\": 1, \"a\": 2}", "{\"a\": 2}", ""}, /* the last one counts */
    {"{\"a\": null}", "{}", ""},
    {"{}", "{\"a\": null, \"b\": {}, \"c\": []}", ""},
    {"{\"transformers_version\": \"4\", \"t\": {\"use_cache\": true}}", "{\"transformers_version\": \"5\"}",
     ""},
    /* other values */
    {"{\"a\": \"x\"}", "{\"a\": \"y\"}", "a \"x\" \"y\";"},
    {"{\"a\": 1}", "{\"a\": \"1\"}", "a 1 \"1\";"},
    {"{\"a\": true}", "{\"a\": 1}", "a true 1;"},
    {"{\"a\": {\"b\": 1}}", "{\"a\": {\"b\": 2}}", "a.b 1 2;"},
    {"{\"a\": {\"b\": 1}, \"b\": 3}", "{\"a\": {\"b\": 1}, \"b\": 4}", "b 3 4;"},
    {"{\"a\": {\"b\": {\"c\": 1}}, \"d\": 1}", "{\"a\": {\"b\": {\"c\": 1}}, \"d\": 2}", "d 1 2;"},
    {"{\"a\": [1, 2]}", "{\"a\": [2, 1]}", "a [1, 2] [2, 1];"},
    {"{\"a\": Infinity}", "{\"a\": null}", "a Infinity -;"},
    {"{\"a\": 9007199254740993}", "{\"a\": 9007199254740992}", "a 9007199254740993 9007199254740992;"},
    {"{\"a.b\": 1}", "{\"a\": {\"b\": 1}}", "\"a.b\" 1 -;+a.b 1;"},
    /* a key that one of them lacks */
    {"{\"a\": false}", "{}", "a false -;"},
    {"{}", "{\"a\": false}", "+a false;"},
    {"{\"a\": null}", "{\"a\": 1}", "+a 1;"},
    {"{}", "{\"t\": {\"model_type\": \"x\"}}", "t.model_type - \"x\";"},
    {"{}", "{\"quantization_config\": {\"bits\": 4}}", "quantization_config.bits - 4;"},
    {NULL, "{\"a\": 1}", "+a 1;"},
    {"{\"a\": 1}", NULL, "a 1 -;"},
    /* spellings */
    {"{\"torch_dtype\": \"float16\"}", "{\"dtype\": \"float16\"}", ""},
    {"{\"torch_dtype\": \"float16\"}", "{\"dtype\": \"float32\"}", "dtype \"float16\" \"float32\";"},
    {"{\"rope_theta\": 1e6}", "{\"rope_parameters\": {\"rope_theta\": 1e6, \"rope_type\": \"default\"}}", ""},
    {"{\"t\": {\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}}}",
     "{\"t\": {\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4.0}}}", ""},
    {"{\"num_experts\": 4}", "{\"num_local_experts\": 4, \"num_experts\": 4}", ""},
    {"{\"num_experts\": 4}", "{\"num_experts\": 4, \"num_local_experts\": 8}", "num_local_experts - 8;"},
    {"{\"my_torch_dtype\": 1}", "{\"my_dtype\": 1}", "my_torch_dtype 1 -;+my_dtype 1;"},
};

static void note(void *context, const struct config_key_difference *difference)
{
    if (difference->changes)
        utstring_printf((UT_string *)context, "%s %s %s;", difference->path,
                        difference->want ? difference->want : "-", difference->got ? difference->got : "-");
    else
        utstring_printf((UT_string *)context, "+%s %s;", difference->path, difference->got);
}

static struct config_text text_of(const char *text)
{
    return (struct config_text){text ? xstrdup(text) : NULL, text ? strlen(text) : 0};
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        struct config_text source = text_of(ROWS[i].source), other = text_of(ROWS[i].other);
        struct error err = {0};
        UT_string told;
        utstring_init(&told);
        assert_int_equal(config_keys_compare(&source, &other, note, &told, &err), 0);
        assert_string_equal(utstring_body(&told), ROWS[i].told);
        utstring_done(&told);
        free(source.text);
        free(other.text);
    }
}

static void test_malformed(void **state)
{
    struct config_text source = text_of("{\"a\": [1, }"), other = text_of("{}");
    struct error err = {0};
    UT_string told;

    (void)state;
    utstring_init(&told);
    assert_int_equal(config_keys_compare(&source, &other, note, &told, &err), -1);
    assert_non_null(err.text);
    error_free(&err);
    utstring_done(&told);
    free(source.text);
    free(other.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_malformed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
