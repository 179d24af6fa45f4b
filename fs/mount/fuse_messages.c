/* libfuse's messages put together from their pieces, for an error or for the log. */
#include "fuse_messages.h"

#include "libfuse.h"
#include "fs/base/log.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define LINE_BYTES 1024
#define KEPT_BYTES 2048
#define PREFIX "fuse: "

static struct {
    pthread_mutex_t lock;
    bool keeping;
    unsigned n_kept;
    char line[LINE_BYTES]; /* the beginning of a message whose end has not come yet */
    char kept[KEPT_BYTES];
} messages = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Adds as much as there is room for. */
static void append(char *text, size_t size, const char *more)
{
    const size_t length = strlen(text);
    const size_t added = strnlen(more, size - 1 - length);

    memcpy(text + length, more, added);
    text[length + added] = '\0';
}

/* Under the lock. */
static void end_line(enum log_level level)
{
    const char *line = messages.line;

    if (strncmp(line, PREFIX, strlen(PREFIX)) == 0)
        line += strlen(PREFIX);
    if (*line != '\0' && messages.keeping) {
        if (messages.n_kept++ > 0)
            append(messages.kept, sizeof messages.kept, "\n");
        append(messages.kept, sizeof messages.kept, line);
    } else if (*line != '\0') {
        log_line(level, "%s", line);
    }
    messages.line[0] = '\0';
}

/* A message may come in several pieces, of which the last ends with the line. */
__attribute__((format(printf, 2, 0))) static void take_piece(enum fuse_log_level fuse_level,
                                                             const char *format, va_list args)
{
    const enum log_level level = fuse_level <= FUSE_LOG_ERR ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO;
    char piece[LINE_BYTES];

    vsnprintf(piece, sizeof piece, format, args);
    pthread_mutex_lock(&messages.lock);
    for (char *at = piece, *end; *at; at = end) {
        end = at + strcspn(at, "\n");
        const bool ends = *end == '\n';
        if (ends)
            *end++ = '\0';
        append(messages.line, sizeof messages.line, at);
        if (ends)
            end_line(level);
    }
    pthread_mutex_unlock(&messages.lock);
}

void fuse_messages_keep(void)
{
    fuse_set_log_func(take_piece);
    pthread_mutex_lock(&messages.lock);
    messages.keeping = true;
    messages.n_kept = 0;
    messages.line[0] = messages.kept[0] = '\0';
    pthread_mutex_unlock(&messages.lock);
}

void fuse_messages_log(void)
{
    pthread_mutex_lock(&messages.lock);
    messages.keeping = false;
    pthread_mutex_unlock(&messages.lock);
}

int fuse_messages_fail(struct error *err, const char *what)
{
    pthread_mutex_lock(&messages.lock);
    if (messages.line[0])
        end_line(LOG_LEVEL_ERROR);
    if (messages.n_kept == 1) {
        error_set(err, "%s: %s", what, messages.kept);
    } else {
        char *rest = messages.kept;
        error_set(err, "%s", what);
        for (const char *line; messages.n_kept > 0 && (line = strsep(&rest, "\n"));)
            error_add(err, "%s", line);
    }
    pthread_mutex_unlock(&messages.lock);
    return -1;
}
