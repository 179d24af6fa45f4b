/* A checkpoint's names: finding one, and listing some of them in a message. */
#include "listing.h"

#include <string.h>
#include <sys/stat.h>

#include <utstring.h>

#define LISTED_MAX 8 /* names in one message */

static int compare_path(const void *key, const void *listed)
{
    return strcmp(key, ((const struct listed *)listed)->info.path);
}

void listing_free(struct listing *listing)
{
    free(listing->list);
    notes_free(&listing->notes);
    arena_free(&listing->arena);
    *listing = (struct listing){0};
}

const struct listed *listing_find(const struct listing *listing, const char *path)
{
    return listing->n > 0 ? bsearch(path, listing->list, listing->n, sizeof *listing->list, compare_path)
                          : NULL;
}

const char *listing_kind_name(const struct listed *listed)
{
    switch (listed->kind) {
    case LISTED_FILE:
        return "file";
    case LISTED_DIRECTORY:
        return "directory";
    case LISTED_EXCLUDED:
        return "file hidden by --exclude";
    case LISTED_PRIVATE:
        return "name that is not shown";
    case LISTED_LOOP:
        return "link loop";
    case LISTED_DANGLING:
    case LISTED_OUTSIDE:
    case LISTED_DENIED:
        return "symbolic link";
    case LISTED_SPECIAL:
        break;
    }
    return S_ISFIFO(listed->info.mode) ? "fifo" : S_ISSOCK(listed->info.mode) ? "socket" : "device";
}

bool listing_is_top(const struct listed *listed)
{
    return strchr(listed->info.path, '/') == NULL;
}

bool listing_ends_with(const char *path, const char *end)
{
    size_t length = strlen(path), tail = strlen(end);

    return length >= tail && strcmp(path + length - tail, end) == 0;
}

char *listing_marked_names(const struct listing *listing, const bool *marks)
{
    UT_string text;
    size_t n = 0;

    utstring_init(&text);
    for (size_t i = 0; i < listing->n; i++) {
        const struct listed *listed = &listing->list[i];
        if (!marks[i])
            continue;
        if (n < LISTED_MAX)
            utstring_printf(&text, "%s%s%s", n > 0 ? ", " : "", listed->info.path,
                            listed->kind == LISTED_DIRECTORY ? "/" : "");
        n++;
    }
    if (n > LISTED_MAX)
        utstring_printf(&text, " and %zu more", n - LISTED_MAX);
    if (n > 0)
        return utstring_body(&text);
    utstring_done(&text);
    return NULL;
}

char *listing_names(const struct listing *listing, bool (*wanted)(const struct listed *listed))
{
    cleanup_free bool *marks = xcalloc(listing->n + 1, sizeof *marks);

    for (size_t i = 0; i < listing->n; i++)
        marks[i] = wanted(&listing->list[i]);
    return listing_marked_names(listing, marks);
}
