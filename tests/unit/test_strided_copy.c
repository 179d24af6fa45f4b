/* Expected: the definition, element by element. */
#include "fs/read/strided_copy.h"
#include "fs/read/transpose.h"
#include "layout/base/memory.h"
#include "layout/base/splitmix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const unsigned element_sizes[] = {1, 2, 4, 8};

/* Bytes from the first to the last element, both included. */
static size_t extent(unsigned size, uint64_t outer, uint64_t inner, uint64_t outer_stride,
                     uint64_t inner_stride)
{
    return ((outer - 1) * outer_stride + (inner - 1) * inner_stride + 1) * size;
}

/* Every remainder of the tiles, both orders of the strides, on buffers that nothing aligns. The last element
 * is the last of its allocation: a sanitizer sees what is touched behind it. */
static void test_copy_2d(void **state)
{
    static const uint64_t extents[] = {1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 130};
    enum { N = sizeof extents / sizeof extents[0], ROOM = 300 * 300 * 8 };
    unsigned char *source = xmalloc(ROOM), *target = xmalloc(ROOM), *blank = xmalloc(ROOM);

    (void)state;
    for (size_t i = 0; i < ROOM; i++)
        source[i] = (unsigned char)splitmix_word(1, i);
    memset(blank, 0x5a, ROOM);
    memset(target, 0x5a, ROOM);
    for (int e = 0; e < 4; e++) {
        const unsigned size = element_sizes[e];
        for (int a = 0; a < N * N; a++) {
            const uint64_t outer = extents[a / N], inner = extents[a % N];
            const uint64_t strides[][4] = {{inner + 3, 1, 1, outer + 1}, {inner, 1, inner, 1},
                                           {1, outer + 5, inner, 1},     {inner * 2, 2, 1, outer},
                                           {inner * 2, 2, 2, 2 * outer}, {inner * 3, 3, 1, outer},
                                           {inner, 1, 2, outer * 2},     {inner, 1, 3, outer * 3},
                                           {inner + 1, 1, inner * 2, 2}, {1, outer, inner * 2 + 1, 2}};
            for (size_t k = 0; k < sizeof strides / sizeof strides[0]; k++) {
                const uint64_t *s = strides[k];
                unsigned char *to = target + ROOM - extent(size, outer, inner, s[0], s[1]);
                const unsigned char *from = source + ROOM - extent(size, outer, inner, s[2], s[3]);
                strided_copy_2d(to, from, size, outer, inner, s[0], s[1], s[2], s[3]);
                for (uint64_t o = 0; o < outer; o++)
                    for (uint64_t i = 0; i < inner; i++) {
                        unsigned char *at = to + (o * s[0] + i * s[1]) * size;
                        if (memcmp(at, from + (o * s[2] + i * s[3]) * size, size) != 0)
                            fail_msg("size %u, %llu x %llu, strides %zu: element %llu, %llu", size,
                                     (unsigned long long)outer, (unsigned long long)inner, k,
                                     (unsigned long long)o, (unsigned long long)i);
                        memset(at, 0x5a, size);
                    }
                assert_memory_equal(to - 64, blank, (size_t)(target + ROOM - to) + 64);
            }
        }
    }
    free(source);
    free(target);
    free(blank);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_copy_2d)};
    const struct transpose_level *levels[3];
    const unsigned n = transpose_levels(levels, 3);
    int failed = 0;

    /* Whatever the processor has; the best one last. */
    for (unsigned i = 0; i < n; i++) {
        transpose_force(levels[i]);
        failed += cmocka_run_group_tests_name(levels[i]->name, tests, NULL, NULL);
    }
    return failed;
}
