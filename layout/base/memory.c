/* Allocation that cannot fail, and arenas. */
#include "memory.h"
#include "checked.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define ARENA_BLOCK_SIZE ((size_t)64 << 10)

struct arena_block {
    struct arena_block *next;
    size_t used, size;
    alignas(max_align_t) unsigned char bytes[];
};

void memory_exhausted(void)
{
    fputs("moefs: out of memory\n", stderr);
    exit(1);
}

void *xmalloc(size_t size)
{
    void *memory = malloc(size ? size : 1);
    if (!memory)
        memory_exhausted();
    return memory;
}

void *xcalloc(size_t n, size_t size)
{
    void *memory = calloc(n ? n : 1, size ? size : 1);
    if (!memory)
        memory_exhausted();
    return memory;
}

void *xreallocarray(void *old, size_t n, size_t size)
{
    void *memory = reallocarray(old, n ? n : 1, size ? size : 1);
    if (!memory)
        memory_exhausted();
    return memory;
}

char *xstrdup(const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        memory_exhausted();
    return copy;
}

char *xstrndup(const char *text, size_t length)
{
    char *copy = strndup(text, length);
    if (!copy)
        memory_exhausted();
    return copy;
}

char *xvasprintf(const char *format, va_list args)
{
    char *text;

    if (vasprintf(&text, format, args) < 0)
        memory_exhausted();
    return text;
}

char *xasprintf(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    char *text = xvasprintf(format, args);
    va_end(args);
    return text;
}

void cleanup_free_pointer(void *pointer)
{
    free(*(void **)pointer);
}

void cleanup_close_stream(void *stream)
{
    FILE *file = *(FILE **)stream;

    if (file)
        fclose(file);
}

void *arena_alloc(struct arena *arena, size_t size)
{
    struct arena_block *block = arena->blocks;
    size_t rounded = (size + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);

    if (rounded < size)
        memory_exhausted();
    if (!block || block->size - block->used < rounded) {
        size_t space = max_u64(rounded, ARENA_BLOCK_SIZE);
        if (space > SIZE_MAX - sizeof *block)
            memory_exhausted();
        block = xmalloc(sizeof *block + space);
        block->used = 0;
        block->size = space;
        block->next = arena->blocks;
        arena->blocks = block;
    }
    void *memory = block->bytes + block->used;
    block->used += rounded;
    return memory;
}

/* Text needs no alignment, but names are many: 16-byte steps cost 8 bytes a name on average, which is
 * accepted. */
char *arena_strndup(struct arena *arena, const char *text, size_t length)
{
    char *copy = arena_alloc(arena, length + 1);
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

char *arena_strdup(struct arena *arena, const char *text)
{
    return arena_strndup(arena, text, strlen(text));
}

void *arena_memdup(struct arena *arena, const void *bytes, size_t size)
{
    void *copy = arena_alloc(arena, size);
    if (size)
        memcpy(copy, bytes, size);
    return copy;
}

void arena_adopt(struct arena *into, struct arena *from)
{
    struct arena_block **end = &from->blocks;

    while (*end)
        end = &(*end)->next;
    /* behind the block that is being filled */
    struct arena_block **at = into->blocks ? &into->blocks->next : &into->blocks;
    *end = *at;
    *at = from->blocks;
    from->blocks = NULL;
}

void arena_free(struct arena *arena)
{
    while (arena->blocks) {
        struct arena_block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
}
