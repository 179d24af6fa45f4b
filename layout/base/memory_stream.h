/* A stream into memory that cannot fail: what does not fit ends the program, as in memory.h.
 *
 * open_memstream() is not used: when memory runs out it drops bytes without setting the stream's error, and
 * fclose() answers 0 with no text at all. */
#ifndef MOEFS_LAYOUT_MEMORY_STREAM_H
#define MOEFS_LAYOUT_MEMORY_STREAM_H

#include <stddef.h>
#include <stdio.h>

struct memory_stream {
    FILE *out; /* write here */
    char *text;
    size_t length, size; /* bytes written (once flushed), bytes allocated */
};

/* The struct must stay where it is until it is closed. */
void memory_stream_open(struct memory_stream *stream);
/* The bytes written so far. */
size_t memory_stream_length(struct memory_stream *stream);
/* Closes the stream: its text, malloc'd, with a NUL behind it that *length does not count. */
char *memory_stream_close(struct memory_stream *stream, size_t *length);

#endif
