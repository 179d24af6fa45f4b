/* Expected results: RFC 8259, and what serde_json and Python's json do with the same text. */
#include "layout/format/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* One letter a token: { } [ ] k s n t f 0(null) . */
static char letter(enum json_kind kind)
{
    return "{}[]ksntf0."[kind];
}

static int read_all(const char *text, size_t length, bool accept_nan, char *letters, struct error *err)
{
    struct json_reader reader;
    struct json_token token;

    json_reader_init(&reader, text, length);
    reader.accept_nan = accept_nan;
    do {
        if (json_next(&reader, &token, err))
            return -1;
        *letters++ = letter(token.kind);
    } while (token.kind != JSON_END);
    *letters = '\0';
    return 0;
}

static const struct {
    const char *text, *letters;
} VALID[] = {
    {"{}", "{}."},
    {" \t\r\n[ ] \n", "[]."},
    {"{\"a\" : 1 , \"b\":[true,false,null]}", "{knk[tf0]}."},
    {"\"x\"", "s."},
    {"-0", "n."},
    {"[0.5,1e3,1E+2,-1.25e-7,18446744073709551616]", "[nnnnn]."},
    {"[[],{},[{}]]", "[[]{}[{}]]."},
    {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83D\\uDE00\"", "s."},
    {"\"\x7f\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf\"", "s."},
    {"{\"a\":1,\"a\":2}", "{knkn}."},
};

static void valid_texts_give_their_tokens(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(VALID); i++) {
        char letters[64];
        struct error err = {0};
        assert_int_equal(read_all(VALID[i].text, strlen(VALID[i].text), false, letters, &err), 0);
        assert_string_equal(letters, VALID[i].letters);
    }
}

static const struct {
    const char *text, *message;
} INVALID[] = {
    {"", "byte 0: the text ends where a value is expected"},
    {"{", "byte 1: the text ends where a key is expected"},
    {"[1", "byte 2: the text ends where a comma or ] is expected"},
    {"[1,]", "byte 3: ']' where a value is expected"},
    {"{\"a\":1,}", "byte 7: '}' where a key is expected"},
    {"{\"a\" 1}", "byte 5: '1' where a colon is expected"},
    {"{1:1}", "byte 1: '1' where a key is expected"},
    {"[1 2]", "byte 3: '2' where a comma or ] is expected"},
    {"{\"a\":1]", "byte 6: ']' where a comma or } is expected"},
    {"[1}", "byte 2: '}' where a comma or ] is expected"},
    {"1 x", "byte 2: 'x' where the end of the text is expected"},
    {"{}}", "byte 2: '}' where the end of the text is expected"},
    {"01", "byte 0: a number with a leading zero"},
    {"-01", "byte 1: a number with a leading zero"},
    {"+1", "byte 0: '+' where a value is expected"},
    {".5", "byte 0: '.' where a value is expected"},
    {"1.", "byte 2: the text ends where a digit is expected"},
    {"1e", "byte 2: the text ends where a digit is expected"},
    {"-", "byte 1: the text ends where a digit is expected"},
    {"tru", "byte 0: 't' where a value is expected"},
    {"NaN", "byte 0: 'N' where a value is expected"},
    {"-Infinity", "byte 1: 'I' where a digit is expected"},
    {"'a'", "byte 0: ''' where a value is expected"},
    {"\"a", "byte 0: a string that does not end"},
    {"\"a\nb\"", "byte 2: a raw control character (0x0a) in a string"},
    {"\"\\x\"", "byte 1: an unknown escape in a string"},
    {"\"\\u12g4\"", "byte 1: \\u without four hexadecimal digits"},
    {"\"\\u12", "byte 1: \\u without four hexadecimal digits"},
    {"\"\xff\"", "byte 1: not UTF-8 (0xff)"},
    {"\"\x80\"", "byte 1: not UTF-8 (0x80)"},
    {"\"\xc0\xaf\"", "byte 1: not UTF-8 (0xc0)"},
    {"\"\xe0\x80\x80\"", "byte 1: not UTF-8 (0xe0)"},
    {"\"\xed\xa0\x80\"", "byte 1: not UTF-8 (0xed)"},
    {"\"\xf0\x80\x80\x80\"", "byte 1: not UTF-8 (0xf0)"},
    {"\"\xf4\x90\x80\x80\"", "byte 1: not UTF-8 (0xf4)"},
    {"\"\xe2\x82", "byte 1: not UTF-8 (0xe2)"},
    {"\xef\xbb\xbf{}", "byte 0: 0xef where a value is expected"},
    {"[1,/**/2]", "byte 3: '/' where a value is expected"},
};

static void invalid_texts_are_refused_with_their_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(INVALID); i++) {
        char letters[64];
        struct error err = {0};
        assert_int_equal(read_all(INVALID[i].text, strlen(INVALID[i].text), false, letters, &err), -1);
        assert_string_equal(err.text, INVALID[i].message);
        error_free(&err);
    }
}

static void a_nul_byte_is_no_end(void **state)
{
    char letters[64];
    struct error err = {0};

    (void)state;
    assert_int_equal(read_all("1\0", 2, false, letters, &err), -1);
    assert_string_equal(err.text, "byte 1: 0x00 where the end of the text is expected");
    assert_int_equal(read_all("\"\\\0\"", 4, false, letters, &err), -1);
    assert_string_equal(err.text, "byte 1: an unknown escape in a string");
    error_free(&err);
}

static void nan_and_infinity_are_numbers_when_asked_for(void **state)
{
    static const char TEXT[] = "[NaN,Infinity,-Infinity,-1]";
    char letters[64];
    struct error err = {0};

    (void)state;
    assert_int_equal(read_all(TEXT, strlen(TEXT), true, letters, &err), 0);
    assert_string_equal(letters, "[nnnn].");
    assert_int_equal(read_all("Nan", 3, true, letters, &err), -1);
    error_free(&err);
}

static void nesting_ends_at_the_limit(void **state)
{
    char text[2 * JSON_DEPTH_MAX + 2], letters[2 * JSON_DEPTH_MAX + 4];
    struct error err = {0};

    (void)state;
    memset(text, '[', JSON_DEPTH_MAX);
    memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    assert_int_equal(read_all(text, (size_t)2 * JSON_DEPTH_MAX, false, letters, &err), 0);
    assert_int_equal(strlen(letters), 2 * JSON_DEPTH_MAX + 1);
    memset(text, '[', JSON_DEPTH_MAX + 1);
    memset(text + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
    assert_int_equal(read_all(text, (size_t)2 * JSON_DEPTH_MAX + 2, false, letters, &err), -1);
    assert_string_equal(err.text, "byte 128: nested deeper than 128");
    error_free(&err);
}

static void skip_ends_behind_the_value(void **state)
{
    static const char TEXT[] = "[{\"a\":[1,{\"]\":\"}\"}],\"b\":2},3]";
    struct json_reader reader;
    struct json_token token;
    struct error err = {0};

    (void)state;
    json_reader_init(&reader, TEXT, strlen(TEXT));
    assert_int_equal(json_next(&reader, &token, &err), 0);
    assert_int_equal(json_next(&reader, &token, &err), 0);
    assert_int_equal(token.kind, JSON_OBJECT_BEGIN);
    assert_int_equal(json_skip(&reader, &token, &err), 0);
    assert_int_equal(json_next(&reader, &token, &err), 0);
    assert_int_equal(token.kind, JSON_NUMBER);
    assert_memory_equal(token.text, "3", 1);
    assert_int_equal(json_skip(&reader, &token, &err), 0);
    assert_int_equal(json_next(&reader, &token, &err), 0);
    assert_int_equal(token.kind, JSON_ARRAY_END);
}

static int first_token(const char *text, struct json_token *token)
{
    struct json_reader reader;
    struct error err = {0};

    json_reader_init(&reader, text, strlen(text));
    return json_next(&reader, token, &err);
}

static const struct {
    const char *text, *decoded; /* decoded NULL: refused with the message */
    const char *message;
} STRINGS[] = {
    {"\"\"", "", NULL},
    {"\"plain \xc3\xa9\"", "plain \xc3\xa9", NULL},
    {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", NULL},
    {"\"\\u0061\\u00E9\\u20ac\\uFFFF\"", "a\xc3\xa9\xe2\x82\xac\xef\xbf\xbf", NULL},
    {"\"\\ud83d\\ude00x\"", "\xf0\x9f\x98\x80x", NULL},
    {"\"\\udbff\\udfff\"", "\xf4\x8f\xbf\xbf", NULL},
    {"\"a\\u0000b\"", NULL, "a string holds U+0000"},
    {"\"\\ud83d\"", NULL, "a string holds the lone surrogate \\ud83d"},
    {"\"\\ud83dxxxxxx\"", NULL, "a string holds the lone surrogate \\ud83d"},
    {"\"\\ud83d\\u0061\"", NULL, "a string holds the lone surrogate \\ud83d"},
    {"\"\\ude00\\ud83d\"", NULL, "a string holds the lone surrogate \\ude00"},
};

static void strings_are_decoded(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(STRINGS); i++) {
        struct arena arena = {0};
        struct error err = {0};
        struct json_token token;
        const char *text;
        size_t length;
        assert_int_equal(first_token(STRINGS[i].text, &token), 0);
        int failed = json_string(&token, &arena, &text, &length, &err);
        if (STRINGS[i].decoded) {
            assert_int_equal(failed, 0);
            assert_string_equal(text, STRINGS[i].decoded);
            assert_int_equal(length, strlen(STRINGS[i].decoded));
        } else {
            assert_int_equal(failed, -1);
            assert_string_equal(err.text, STRINGS[i].message);
        }
        error_free(&err);
        arena_free(&arena);
    }
}

static const struct {
    const char *text;
    bool taken;
    uint64_t value;
} INTEGERS[] = {
    {"0", true, 0},
    {"7", true, 7},
    {"9007199254740993", true, UINT64_C(9007199254740993)},
    {"18446744073709551615", true, UINT64_MAX},
    {"18446744073709551616", false, 0},
    {"99999999999999999999999", false, 0},
    {"-0", false, 0},
    {"-1", false, 0},
    {"1.0", false, 0},
    {"1e3", false, 0},
    {"\"1\"", false, 0},
    {"true", false, 0},
};

static void integers_are_exact(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(INTEGERS); i++) {
        struct json_token token;
        uint64_t value;
        assert_int_equal(first_token(INTEGERS[i].text, &token), 0);
        assert_int_equal(json_u64(&token, &value), INTEGERS[i].taken);
        if (INTEGERS[i].taken)
            assert_true(value == INTEGERS[i].value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(valid_texts_give_their_tokens),
        cmocka_unit_test(invalid_texts_are_refused_with_their_place),
        cmocka_unit_test(a_nul_byte_is_no_end),
        cmocka_unit_test(nan_and_infinity_are_numbers_when_asked_for),
        cmocka_unit_test(nesting_ends_at_the_limit),
        cmocka_unit_test(skip_ends_behind_the_value),
        cmocka_unit_test(strings_are_decoded),
        cmocka_unit_test(integers_are_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
