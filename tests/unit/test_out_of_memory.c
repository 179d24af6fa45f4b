/* What is written into memory is there, or the program has ended: an index or a header that is cut short would
 * be mounted. A child does the work with less and less memory. */
#include "layout/format/index.h"
#include "layout/format/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NAME_LENGTH (128 << 10)
#define STEP (512 << 10) /* bytes: of memory more each time */
#define NAMES 16

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum outcome { WHOLE, EXHAUSTED = 1, CUT = 2 };

typedef char *writer(const char *const *names, uint64_t *length);

static char *write_index(const char *const *names, uint64_t *length)
{
    return index_write(NULL, 0, 0, names, names, NAMES, length);
}

static char *write_header(const char *const *names, uint64_t *length)
{
    struct tensor_info infos[NAMES];
    const struct tensor_info *pointers[NAMES];
    struct error err = {0};

    for (size_t i = 0; i < NAMES; i++) {
        infos[i] = (struct tensor_info){.name = names[i], .dtype = DTYPE_F32};
        pointers[i] = &infos[i];
    }
    return safetensors_write_header("f", pointers, NAMES, length, &err);
}

static void limit_memory(uint64_t more)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");

    if (!file || fscanf(file, "%lu", &pages) != 1)
        _exit(CUT);
    fclose(file);
    rlim_t bytes = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + more;
    if (setrlimit(RLIMIT_AS, &(struct rlimit){bytes, bytes}) < 0)
        _exit(CUT);
}

static enum outcome write_with(writer *write_it, const char *const *names, uint64_t more, const char *want,
                               uint64_t want_length)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        uint64_t length = 0;
        if (!freopen("/dev/null", "we", stderr))
            _exit(CUT);
        limit_memory(more);
        char *text = write_it(names, &length);
        _exit(text && length == want_length && memcmp(text, want, length) == 0 ? WHOLE : CUT);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? (enum outcome)WEXITSTATUS(status) : CUT;
}

static void nothing_is_cut_short(void **state)
{
    static writer *const writers[] = {write_index, write_header};
    char *longest = malloc(NAME_LENGTH);
    const char *names[NAMES];
    (void)state;

    assert_non_null(longest);
    memset(longest, 'n', NAME_LENGTH - 1);
    longest[NAME_LENGTH - 1] = '\0';
    for (size_t i = 0; i < NAMES; i++)
        names[i] = longest + i;
    for (size_t w = 0; w < sizeof writers / sizeof *writers; w++) {
        enum outcome outcome = EXHAUSTED;
        unsigned exhausted = 0;
        uint64_t length;
        char *whole = writers[w](names, &length);
        for (uint64_t more = 0; outcome != WHOLE; more += STEP) {
            outcome = write_with(writers[w], names, more, whole, length);
            exhausted += outcome == EXHAUSTED;
            if (outcome == CUT)
                fail_msg("writer %zu: with %llu bytes more its text is not what it should be", w,
                         (unsigned long long)more);
        }
        assert_true(exhausted > 0);
        free(whole);
    }
    free(longest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_cut_short),
    };

    if (SANITIZED) {
        puts("skipped: a sanitizer takes more address space than any limit leaves");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
