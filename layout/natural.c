#include "natural.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

static bool is_number(const char *part, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (!isdigit((unsigned char)part[i]))
            return false;
    return length > 0;
}

static size_t leading_zeros(const char *digits, size_t length)
{
    size_t n = 0;

    while (n + 1 < length && digits[n] == '0')
        n++;
    return n;
}

/* Two parts; 0 where they are the same text. */
static int compare_parts(const char *a, size_t a_length, const char *b, size_t b_length)
{
    bool a_number = is_number(a, a_length), b_number = is_number(b, b_length);

    if (a_number != b_number)
        return a_number ? -1 : 1;
    if (a_number) {
        size_t skip_a = leading_zeros(a, a_length), skip_b = leading_zeros(b, b_length);
        size_t digits_a = a_length - skip_a, digits_b = b_length - skip_b;
        if (digits_a != digits_b)
            return digits_a < digits_b ? -1 : 1;
        int order = memcmp(a + skip_a, b + skip_b, digits_a);
        if (order)
            return order;
    }
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    return order ? order : (a_length > b_length) - (a_length < b_length);
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
