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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_is_told),
        cmocka_unit_test(paths_below_are_told),
        cmocka_unit_test(shapes_are_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
