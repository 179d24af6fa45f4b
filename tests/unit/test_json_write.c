/* Expected texts: what Python's json.dumps gives for the same values. */
#include "layout/format/json_write.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* What is written lies in *text once the stream is closed. */
static FILE *open_stream(char **text)
{
    static size_t size;
    FILE *out = open_memstream(text, &size);

    assert_non_null(out);
    return out;
}

static const struct {
    const char *text, *written, *raw;
} STRINGS[] = {
    {"", "\"\"", "\"\""},
    {"a/b", "\"a/b\"", "\"a/b\""},
    {"say \"hi\" \\", "\"say \\\"hi\\\" \\\\\"", "\"say \\\"hi\\\" \\\\\""},
    {"\b\t\n\f\r", "\"\\b\\t\\n\\f\\r\"", "\"\\b\\t\\n\\f\\r\""},
    {"\x01\x1f\x7f", "\"\\u0001\\u001f\\u007f\"", "\"\\u0001\\u001f\x7f\""},
    {"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "\"\\u00e9 \\u20ac \\ud83d\\ude00\"",
     "\"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\""},
    /* not UTF-8: json.dumps(os.fsdecode(text)) */
    {"a\xff", "\"a\\udcff\"", NULL},
    {"\xc3(", "\"\\udcc3(\"", NULL},
    {"\xe2\x82", "\"\\udce2\\udc82\"", NULL},
    {"\xed\xa0\x80", "\"\\udced\\udca0\\udc80\"", NULL},
    {"\xc0\x80\xf5", "\"\\udcc0\\udc80\\udcf5\"", NULL},
};

static void strings_are_escaped(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(STRINGS); i++) {
        char *text;
        FILE *out = open_stream(&text);
        json_write_string(out, STRINGS[i].text);
        fclose(out);
        assert_string_equal(text, STRINGS[i].written);
        free(text);
        if (!STRINGS[i].raw)
            continue;
        out = open_stream(&text);
        json_write_string_raw(out, STRINGS[i].text);
        fclose(out);
        assert_string_equal(text, STRINGS[i].raw);
        free(text);
    }
}

static void write_values(struct json_writer *w)
{
    json_write_object(w, JSON_ONE_LINE);
    json_write_key(w, "empty");
    json_write_array(w, JSON_ONE_LINE);
    json_write_end(w);
    json_write_text_of(w, "te\"xt", "x");
    json_write_text_of(w, "none", NULL);
    json_write_number_of(w, "most", UINT64_MAX);
    json_write_real_of(w, "real", 0.25);
    json_write_real_of(w, "nan", NAN);
    json_write_bool_of(w, "yes", true);
    json_write_key(w, "shape");
    json_write_numbers(w, (const uint64_t[]){4, 48, 64}, 3);
    json_write_key(w, "list");
    json_write_array(w, JSON_ONE_LINE);
    json_write_object(w, JSON_ONE_LINE);
    json_write_end(w);
    json_write_bool(w, false);
    json_write_end(w);
    json_write_end(w);
}

static void commas_stand_between_values(void **state)
{
    struct json_writer w;
    char *text;

    (void)state;
    json_writer_init(&w, open_stream(&text));
    write_values(&w);
    fclose(w.out);
    assert_string_equal(
        text, "{\"empty\": [], \"te\\\"xt\": \"x\", \"none\": null, \"most\": 18446744073709551615, "
              "\"real\": 0.25, \"nan\": null, \"yes\": true, \"shape\": [4, 48, 64], "
              "\"list\": [{}, false]}");
    free(text);
}

static void elements_stand_on_lines(void **state)
{
    struct json_writer w;
    char *text;

    (void)state;
    json_writer_init(&w, open_stream(&text));
    json_write_object(&w, JSON_LINES);
    json_write_number_of(&w, "a", 1);
    json_write_key(&w, "b");
    json_write_array(&w, JSON_LINES);
    json_write_numbers(&w, (const uint64_t[]){1, 2}, 2);
    json_write_number(&w, 3);
    json_write_end(&w);
    json_write_end(&w);
    fclose(w.out);
    assert_string_equal(text, "{\"a\": 1,\n \"b\": [\n  [1, 2],\n  3]}");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings_are_escaped),
        cmocka_unit_test(commas_stand_between_values),
        cmocka_unit_test(elements_stand_on_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
