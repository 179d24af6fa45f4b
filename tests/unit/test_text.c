/* Expected: Python's bytes.decode(), and the definitions in text.h. */
#include "layout/base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static const struct {
    const char *text;
    bool utf8;
} TEXTS[] = {
    {"", true},
    {"plain", true},
    {"\x7f", true},
    {"\xc2\x80", true},
    {"\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf", true},
    {"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", true},
    {"\x80", false},
    {"\xc1\xbf", false},             /* overlong */
    {"\xe0\x9f\xbf", false},         /* overlong */
    {"\xf0\x8f\xbf\xbf", false},     /* overlong */
    {"\xed\xa0\x80", false},         /* a surrogate */
    {"\xf4\x90\x80\x80", false},     /* above U+10FFFF */
    {"\xf8\x88\x80\x80\x80", false}, /* no lead byte */
    {"a\xc3", false},                /* cut */
    {"\xe2\x82", false},
    {"\xf0\x9f\x98", false},
    {"\xe2\x28\xa1", false},
};

static void utf8_is_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(TEXTS); i++)
        assert_int_equal(text_is_utf8(TEXTS[i].text), TEXTS[i].utf8);
    assert_int_equal(text_utf8_length("\xe2\x82\xac", 3), 3);
    assert_int_equal(text_utf8_length("\xe2\x82\xac", 2), 0);
    assert_int_equal(text_utf8_length("", 0), 0);
}

static const struct {
    const char *path, *directory, *rest;
} PATHS[] = {
    {"/a/b", "/a", "/b"}, {"/a", "/a", ""},     {"/ab", "/a", NULL},
    {"/", "/", ""},       {"/a", "/", "/a"},    {"/a/", "/a", ""},
    {"/b", "/a", NULL},   {"/a", "/a/b", NULL}, {"/a/b/c", "/a/b", "/c"},
};

static void paths_below_are_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(PATHS); i++) {
        const char *rest = text_path_below(PATHS[i].path, PATHS[i].directory);
        if (PATHS[i].rest)
            assert_string_equal(rest, PATHS[i].rest);
        else
            assert_null(rest);
    }
}

static void shapes_are_written(void **state)
{
    static const uint64_t shape[] = {4, UINT64_MAX, 0};
    static const char *const texts[] = {"[]", "[4]", "[4, 18446744073709551615]",
                                        "[4, 18446744073709551615, 0]"};

    (void)state;
    for (unsigned n = 0; n <= 3; n++) {
        char *text = text_of_shape(shape, n);
        assert_string_equal(text, texts[n]);
        free(text);
    }
}

static const struct {
    const char *text, *escaped;
} ESCAPES[] = {
    {"", ""},
    {"plain \\x1b text", "plain \\x1b text"}, /* a backslash stays: a copy is copied unchanged */
    {"\x1b[2J", "\\x1b[2J"},
    {"a\nb\rc\td\x7f", "a\\x0ab\\x0dc\\x09d\\x7f"},
    {"\x9b"
     "31m",
     "\\x9b31m"}, /* no UTF-8, and C1's CSI to some terminals */
    {"\xc2\x9b"
     "31m",
     "\\xc2\\x9b31m"},                        /* the same as UTF-8 */
    {"\xc2\xa0\xc3\xa9", "\xc2\xa0\xc3\xa9"}, /* the first ones behind C1 */
    {"\xe2\x80\xae"
     "cba",
     "\\xe2\\x80\\xaecba"},              /* U+202E: from right to left */
    {"\xe2\x81\xa6", "\\xe2\\x81\\xa6"}, /* U+2066 */
    {"\xe2\x80\xa8", "\\xe2\\x80\\xa8"}, /* U+2028: a line break to some */
    {"\xe6\xa8\xa1\xf0\x9f\x98\x80", "\xe6\xa8\xa1\xf0\x9f\x98\x80"},
    {"\xc3(\xe2\x82", "\\xc3(\\xe2\\x82"}, /* cut characters */
};

static void what_a_terminal_obeys_is_escaped(void **state)
{
    char to[128];

    (void)state;
    for (size_t i = 0; i < LENGTH(ESCAPES); i++) {
        const size_t length = strlen(ESCAPES[i].escaped);
        assert_int_equal(text_escape(NULL, 0, ESCAPES[i].text), length);
        assert_int_equal(text_escape(to, sizeof to, ESCAPES[i].text), length);
        assert_string_equal(to, ESCAPES[i].escaped);
        assert_int_equal(text_escape(to, length + 1, ESCAPES[i].escaped), length);
        assert_string_equal(to, ESCAPES[i].escaped);
    }
    /* no escape and no character is cut */
    assert_int_equal(text_escape(to, 5,
                                 "a\x1b"
                                 "b"),
                     6);
    assert_string_equal(to, "a");
    assert_int_equal(text_escape(to, 3, "a\xc3\xa9"), 3);
    assert_string_equal(to, "a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_is_told),
        cmocka_unit_test(paths_below_are_told),
        cmocka_unit_test(shapes_are_written),
        cmocka_unit_test(what_a_terminal_obeys_is_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
