/* A stream into memory, over a FILE of its own writing functions. */
#include "memory_stream.h"

#include "memory.h"

#include <string.h>
#include <sys/types.h>

static ssize_t write_bytes(void *cookie, const char *bytes, size_t n)
{
    struct memory_stream *stream = cookie;

    if (stream->size - stream->length <= n) { /* one more: the NUL */
        stream->size = 2 * stream->size + n;
        stream->text = xreallocarray(stream->text, stream->size, 1);
    }
    memcpy(stream->text + stream->length, bytes, n);
    stream->length += n;
    return (ssize_t)n;
}

void memory_stream_open(struct memory_stream *stream)
{
    const size_t first = 4096;

    *stream = (struct memory_stream){.text = xmalloc(first), .size = first};
    stream->out = fopencookie(stream, "w", (cookie_io_functions_t){.write = write_bytes});
    if (!stream->out)
        memory_exhausted();
}

size_t memory_stream_length(struct memory_stream *stream)
{
    fflush(stream->out); /* write_bytes() takes everything or does not return */
    return stream->length;
}

char *memory_stream_close(struct memory_stream *stream, size_t *length)
{
    fclose(stream->out);
    stream->text[stream->length] = '\0';
    *length = stream->length;
    return stream->text;
}
