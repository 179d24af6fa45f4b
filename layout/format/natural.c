/* The order in which checkpoints are saved. */
#include "natural.h"
#include "layout/base/checked.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

/* Digits at the end of a part: they count as a number. */
static size_t trailing_digits(const char *part, size_t length)
{
    size_t n = 0;

    while (n < length && isdigit((unsigned char)part[length - 1 - n]))
        n++;
    return n;
}

/* Two texts of digits, of any length. */
static int compare_numbers(const char *a, size_t a_length, const char *b, size_t b_length)
{
    for (; a_length > 1 && *a == '0'; a_length--)
        a++;
    for (; b_length > 1 && *b == '0'; b_length--)
        b++;
    if (a_length != b_length)
        return a_length < b_length ? -1 : 1;
    return memcmp(a, b, a_length);
}

static int compare_texts(const char *a, size_t a_length, const char *b, size_t b_length)
{
    int order = memcmp(a, b, min_u64(a_length, b_length));

    return order ? order : (a_length > b_length) - (a_length < b_length);
}

/* Two parts: a number goes before a word; words by their letters, then by the number at their end. 0 where
 * they are the same text. */
static int compare_parts(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t a_digits = trailing_digits(a, a_length), b_digits = trailing_digits(b, b_length);
    bool a_number = a_digits > 0 && a_digits == a_length, b_number = b_digits > 0 && b_digits == b_length;

    if (a_number != b_number)
        return a_number ? -1 : 1;
    int order = compare_texts(a, a_length - a_digits, b, b_length - b_digits);
    if (order == 0 && (a_digits > 0) != (b_digits > 0))
        order = a_digits > 0 ? 1 : -1;
    if (order == 0 && a_digits > 0)
        order = compare_numbers(a + a_length - a_digits, a_digits, b + b_length - b_digits, b_digits);
    return order ? order : compare_texts(a, a_length, b, b_length);
}

int natural_compare(const char *a, const char *b)
{
    for (;;) {
        size_t a_length = strcspn(a, "."), b_length = strcspn(b, ".");
        int order = compare_parts(a, a_length, b, b_length);
        if (order)
            return order;
        if (!a[a_length] || !b[b_length])
            return (a[a_length] != 0) - (b[b_length] != 0);
        a += a_length + 1;
        b += b_length + 1;
    }
}
