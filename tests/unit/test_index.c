/* Expected texts were written by Python: json.dumps(..., indent=2, sort_keys=True) + "\n". */
#include "layout/format/index.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static int parse(const char *text, struct arena *arena, struct index *index, struct error *err)
{
    return index_parse("d/i.json", text, strlen(text), arena, index, err);
}

static void an_index_gives_entries_and_files(void **state)
{
    static const char TEXT[] = "{\"other\": [1, {}], \"weight_map\": {\"b\": \"2.safetensors\", \"a\": "
                               "\"1.safetensors\", \"\\u0063\\ud83d\\ude00\": \"2.safetensors\"},"
                               " \"metadata\": {\"total_size\": 1e3, \"x\": NaN} }";
    struct arena arena = {0};
    struct error err = {0};
    struct index index;

    (void)state;
    assert_int_equal(parse(TEXT, &arena, &index, &err), 0);
    assert_int_equal(index.n_files, 2);
    assert_string_equal(index.files[0], "1.safetensors");
    assert_string_equal(index.files[1], "2.safetensors");
    assert_int_equal(index.n_entries, 3);
    assert_string_equal(index.entries[0].tensor, "b");
    assert_int_equal(index.entries[0].file, 1);
    assert_string_equal(index.entries[1].tensor, "a");
    assert_int_equal(index.entries[1].file, 0);
    assert_string_equal(index.entries[2].tensor, "c\xf0\x9f\x98\x80");
    assert_int_equal(index.entries[2].file, 1);
    assert_int_equal(index.metadata_length, strlen("{\"total_size\": 1e3, \"x\": NaN}"));
    assert_memory_equal(index.metadata, "{\"total_size\": 1e3, \"x\": NaN}", index.metadata_length);
    arena_free(&arena);
}

static void metadata_may_be_missing(void **state)
{
    static const char *const TEXTS[] = {"{\"weight_map\":{}}", "{\"metadata\":null,\"weight_map\":{}}"};
    struct arena arena = {0};
    struct error err = {0};
    struct index index;

    (void)state;
    for (size_t i = 0; i < LENGTH(TEXTS); i++) {
        assert_int_equal(parse(TEXTS[i], &arena, &index, &err), 0);
        assert_null(index.metadata);
        assert_int_equal(index.n_entries, 0);
        assert_int_equal(index.n_files, 0);
    }
    arena_free(&arena);
}

#define NAMES(file) "{\"weight_map\":{\"a\":\"" file "\"}}"

static const struct {
    const char *text, *message;
} REFUSED[] = {
    {"", "d/i.json: not valid JSON: byte 0: the text ends"},
    {"[]", "d/i.json: not a JSON object"},
    {"null", "d/i.json: not a JSON object"},
    {"{}", "d/i.json: weight_map is missing"},
    {"{\"weight_map\":{}", "d/i.json: not valid JSON: byte 16: the text ends"},
    {"{\"weight_map\":{}} x", "d/i.json: not valid JSON: byte 18"},
    {"{\"weight_map\":[]}", "d/i.json: weight_map is not an object"},
    {"{\"weight_map\":{},\"weight_map\":{}}", "d/i.json: weight_map is given twice"},
    {"{\"metadata\":{},\"weight_map\":{},\"\\u006detadata\":{}}", "d/i.json: metadata is given twice"},
    {"{\"metadata\":[],\"weight_map\":{}}", "d/i.json: metadata is not an object"},
    {"{\"metadata\":{\"a\\u0000\":1},\"weight_map\":{}}", "d/i.json: byte 14: a string holds U+0000"},
    {"{\"weight_map\":{\"a\":1}}", "d/i.json: tensor 'a': weight_map does not give a file name"},
    {"{\"weight_map\":{\"a\":null}}", "tensor 'a': weight_map does not give a file name"},
    {"{\"weight_map\":{\"a\\u0000\":\"f\"}}", "d/i.json: byte 16: a string holds U+0000"},
    {"{\"weight_map\":{\"a\":\"f\",\"b\":\"f\",\"\\u0061\":\"g\"}}", "tensor 'a': the name is given twice"},
    {NAMES(""), "d/i.json: tensor 'a': '' is not the name of a file in the checkpoint's own directory"},
    {NAMES("."), "'.' is not the name of a file"},
    {NAMES(".."), "'..' is not the name of a file"},
    {NAMES("/etc/passwd"), "'/etc/passwd' is not the name of a file"},
    {NAMES("../../etc/passwd"), "'../../etc/passwd' is not the name of a file"},
    {NAMES("sub/f.safetensors"), "'sub/f.safetensors' is not the name of a file"},
    {NAMES("..\\u002ff"), "'../f' is not the name of a file"},
    {NAMES("f\\u0000/x"), "d/i.json: byte 20: a string holds U+0000"},
};

static void bad_indexes_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(REFUSED); i++) {
        struct arena arena = {0};
        struct error err = {0};
        struct index index;
        if (parse(REFUSED[i].text, &arena, &index, &err) == 0)
            fail_msg("accepted: %s", REFUSED[i].text);
        if (!strstr(err.text, REFUSED[i].message))
            fail_msg("%s: \"%s\" lacks \"%s\"", REFUSED[i].text, err.text, REFUSED[i].message);
        error_free(&err);
        arena_free(&arena);
    }
}

static const char *const TENSORS[] = {"b", "a\xf0\x9f\x98\x80", "a\xef\xbf\xbf", "B"};
static const char *const FILES[] = {"m.safetensors", "m.safetensors", "m.safetensors", "k.safetensors"};

static const struct {
    const char *metadata; /* or NULL */
    size_t n;
    const char *text;
} WRITTEN[] = {
    {NULL, 0, "{\n  \"metadata\": {\n    \"total_size\": 12\n  },\n  \"weight_map\": {}\n}\n"},
    {"{ }", 0, "{\n  \"metadata\": {\n    \"total_size\": 12\n  },\n  \"weight_map\": {}\n}\n"},
    {"{\"total_size\": 1e3, \"total_parameters\": 6}", 1,
     "{\n  \"metadata\": {\n    \"total_parameters\": 6,\n    \"total_size\": 12\n  },\n"
     "  \"weight_map\": {\n    \"b\": \"m.safetensors\"\n  }\n}\n"},
    {"{\"z\":[1,[],{}],\"\xc3\xa9\x7f\":\"\xf0\x9f\x98\x80\\/\\\"\\\\\\b\\u0001\","
     "\"a\":{\"y\":null,\"b\":[true,NaN,-Infinity]},\"n\":\"\\u0000\"}",
     4,
     "{\n  \"metadata\": {\n    \"a\": {\n      \"b\": [\n        true,\n        NaN,\n        -Infinity\n   "
     "   ],\n"
     "      \"y\": null\n    },\n    \"n\": \"\\u0000\",\n    \"total_size\": 12,\n    \"z\": [\n      1,\n  "
     "    [],\n"
     "      {}\n    ],\n    \"\\u00e9\\u007f\": \"\\ud83d\\ude00/\\\"\\\\\\b\\u0001\"\n  },\n  "
     "\"weight_map\": {\n"
     "    \"B\": \"k.safetensors\",\n    \"a\\uffff\": \"m.safetensors\",\n    \"a\\ud83d\\ude00\": "
     "\"m.safetensors\",\n"
     "    \"b\": \"m.safetensors\"\n  }\n}\n"},
};

static void the_writer_equals_python(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(WRITTEN); i++) {
        const char *metadata = WRITTEN[i].metadata;
        uint64_t length;
        cleanup_free char *text =
            index_write(metadata, metadata ? strlen(metadata) : 0, 12, TENSORS, FILES, WRITTEN[i].n, &length);
        assert_string_equal(text, WRITTEN[i].text);
        assert_int_equal(length, strlen(WRITTEN[i].text));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_index_gives_entries_and_files),
        cmocka_unit_test(metadata_may_be_missing),
        cmocka_unit_test(bad_indexes_are_refused),
        cmocka_unit_test(the_writer_equals_python),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
