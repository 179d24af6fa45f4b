/* Memory while planning: allocation that cannot fail, and an arena for what lives as long as a checkpoint or
 * a plan.
 *
 * A plan that does not fit in memory cannot be mounted, and nothing is lost by ending there: these functions
 * print "moefs: out of memory" and exit with status 1. Code that answers reads never calls them (it answers
 * ENOMEM). */
#ifndef MOEFS_LAYOUT_MEMORY_H
#define MOEFS_LAYOUT_MEMORY_H

#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

_Noreturn void memory_exhausted(void);

void *xmalloc(size_t size);
void *xcalloc(size_t n, size_t size);
/* n * size is checked for overflow. */
void *xreallocarray(void *old, size_t n, size_t size);
char *xstrdup(const char *text);
char *xstrndup(const char *text, size_t length);
char *xasprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));
char *xvasprintf(const char *format, va_list args) __attribute__((format(printf, 1, 0)));

/* Frees *pointer and is meant for `cleanup_free char *text = ...;`. */
void cleanup_free_pointer(void *pointer);
#define cleanup_free __attribute__((cleanup(cleanup_free_pointer)))

/* Closes *stream, a FILE * or NULL, and is meant for `cleanup_close FILE *stream = ...;`. */
void cleanup_close_stream(void *stream);
#define cleanup_close __attribute__((cleanup(cleanup_close_stream)))

/* Many small allocations, freed together. Not thread-safe. A zeroed struct arena is empty and ready. */
struct arena_block;
struct arena {
    struct arena_block *blocks;
};

/* Aligned for any type; not zeroed. */
void *arena_alloc(struct arena *arena, size_t size);
/* A copy of length bytes with a NUL behind it. */
char *arena_strndup(struct arena *arena, const char *text, size_t length);
char *arena_strdup(struct arena *arena, const char *text);
void *arena_memdup(struct arena *arena, const void *bytes, size_t size);
/* Moves all that `from` holds to `into`, where it stays until that is freed; from is empty then. */
void arena_adopt(struct arena *into, struct arena *from);
void arena_free(struct arena *arena);

#endif
