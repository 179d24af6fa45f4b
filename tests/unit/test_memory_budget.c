/* What fits in a control group's memory limit, and what is said of the rest. */
#include "fs/mount/memory_budget.h"
#include "fs/mount/memory_limit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define MIB ((uint64_t)1 << 20)

/* clang-format off */
static const struct {
    const char *what;
    struct memory_budget asked;
    uint64_t limit, weights;
    struct memory_budget fits;
    const char *notes[4];
} CASES[] = {
    {"no limit", {256 * MIB, 64 * MIB, 32}, MEMORY_LIMIT_NONE, 1 << 30, {256 * MIB, 64 * MIB, 32}, {NULL}},
    {"a large limit", {256 * MIB, 64 * MIB, 32}, 1024 * MIB, 900 * MIB, {256 * MIB, 64 * MIB, 32}, {NULL}},
    {"a cache of more than a quarter", {256 * MIB + 1, 64 * MIB, 32}, 1024 * MIB, 900 * MIB,
     {256 * MIB, 64 * MIB, 32}, {"--cache-size is reduced to 268435456 bytes"}},
    {"a window of more than an eighth", {64 * MIB, 65 * MIB, 32}, 512 * MIB, 512 * MIB,
     {64 * MIB, 64 * MIB, 32}, {"--readahead is reduced to 67108864 bytes"}},
    {"more weights than the limit", {64 * MIB, 64 * MIB, 32}, 512 * MIB, 512 * MIB + 1,
     {64 * MIB, 0, 32}, {"read-ahead is off"}},
    {"a window that would be too small", {1 * MIB, 64 * MIB, 1}, 8 * MIB - 1, 0, {1 * MIB, 0, 1}, {"read-ahead is off"}},
    {"no read-ahead asked for", {1 * MIB, 0, 2}, 16 * MIB, 1024 * MIB, {1 * MIB, 0, 2}, {NULL}},
    {"threads of more than a quarter", {1 * MIB, 0, 32}, 64 * MIB, 0, {1 * MIB, 0, 8}, {"8 threads answer requests instead of 32"}},
    {"threads of a quarter", {1 * MIB, 0, 32}, 256 * MIB, 0, {1 * MIB, 0, 32}, {NULL}},
    {"a tiny limit", {256 * MIB, 64 * MIB, 256}, 1 * MIB, 2 * MIB, {1 * MIB, 0, 4},
     {"--cache-size is reduced to 1048576 bytes", "4 threads answer requests instead of 256", "read-ahead is off"}},
};
/* clang-format on */

static void what_does_not_fit_is_made_smaller(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(CASES); i++) {
        struct memory_budget budget = CASES[i].asked;
        struct notes notes = {0};
        size_t n = 0;
        memory_budget_fit(&budget, CASES[i].limit, CASES[i].weights, &notes);
        if (budget.cache_size != CASES[i].fits.cache_size || budget.readahead != CASES[i].fits.readahead ||
            budget.threads != CASES[i].fits.threads)
            fail_msg("%s: cache %zu, read-ahead %zu, %u threads", CASES[i].what, budget.cache_size,
                     budget.readahead, budget.threads);
        for (; CASES[i].notes[n]; n++)
            if (n >= notes.n || strstr(notes.list[n].text, CASES[i].notes[n]) != notes.list[n].text)
                fail_msg("%s: note %zu is %s", CASES[i].what, n,
                         n < notes.n ? notes.list[n].text : "missing");
        assert_int_equal(notes.n, n);
        notes_free(&notes);
    }
}

static void more_threads_than_cores(void **state)
{
    (void)state;
    assert_true(memory_budget_threads() >= 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_does_not_fit_is_made_smaller),
        cmocka_unit_test(more_threads_than_cores),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
