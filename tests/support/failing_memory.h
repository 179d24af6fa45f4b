/* Allocations that fail when a test says so: for a test that is linked with the --wrap arguments in
 * tests/unit/meson.build. What the C library allocates by itself is not counted. */
#ifndef MOEFS_TESTS_FAILING_MEMORY_H
#define MOEFS_TESTS_FAILING_MEMORY_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
void *__real_mremap(void *address, size_t old_length, size_t new_length, int flags);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
void *__wrap_mremap(void *address, size_t old_length, size_t new_length, int flags);

/* This many allocations from now the one that fails comes; negative: none does. */
static atomic_long memory_left = -1;

static bool memory_fails(void)
{
    return atomic_load(&memory_left) >= 0 && atomic_fetch_sub(&memory_left, 1) == 0;
}

void *__wrap_malloc(size_t size)
{
    return memory_fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return memory_fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return memory_fails() ? MAP_FAILED : __real_mmap(address, length, protection, flags, fd, offset);
}

void *__wrap_mremap(void *address, size_t old_length, size_t new_length, int flags)
{
    return memory_fails() ? MAP_FAILED : __real_mremap(address, old_length, new_length, flags);
}

#endif
