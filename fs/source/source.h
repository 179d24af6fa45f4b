/* Where the checkpoint's bytes come from: a `pread` that is exact or fails.
 *
 * The contract of every layer down here: the whole range or a positive errno, never short. Thread-safe. */
#ifndef MOEFS_FS_SOURCE_H
#define MOEFS_FS_SOURCE_H

#include <stddef.h>
#include <stdint.h>

struct source;

struct source_ops {
    /* Reads length bytes at offset of file number `file` into buffer. 0, or an errno: EIO where the file ends
     * early or is no longer the one that was opened. buffer's contents are unspecified on failure. */
    int (*pread)(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length);
    /* Reads n runs of length bytes, the first at offset and each `stride` bytes behind the one before it, one
     * after another into buffer. As so many preads, but a layer may check once for all of them. No function:
     * they are so many preads. */
    int (*pread_runs)(struct source *source, uint32_t file, uint64_t offset, uint64_t stride, uint64_t n,
                      void *buffer, size_t length);
    /* What file number `file` is called, for messages; NULL where it has no name. The source's. */
    const char *(*name)(struct source *source, uint32_t file);
    /* A descriptor of file number `file` whose bytes are what pread gives, for a caller that hands it to the
     * kernel. -1, or no function: reads have to come through here. The source's. */
    int (*descriptor)(struct source *source, uint32_t file);
    void (*close)(struct source *source);
};

/* A layer: the first member of each implementation's own struct. */
struct source {
    const struct source_ops *ops;
};

static inline int source_pread(struct source *source, uint32_t file, uint64_t offset, void *buffer,
                               size_t length)
{
    return source->ops->pread(source, file, offset, buffer, length);
}

static inline int source_pread_runs(struct source *source, uint32_t file, uint64_t offset, uint64_t stride,
                                    uint64_t n, void *buffer, size_t length)
{
    if (source->ops->pread_runs)
        return source->ops->pread_runs(source, file, offset, stride, n, buffer, length);
    for (uint64_t i = 0; i < n; i++) {
        int e = source_pread(source, file, offset + i * stride, (unsigned char *)buffer + i * length, length);
        if (e)
            return e;
    }
    return 0;
}

static inline const char *source_name(struct source *source, uint32_t file)
{
    return source->ops->name ? source->ops->name(source, file) : NULL;
}

static inline int source_descriptor(struct source *source, uint32_t file)
{
    return source->ops->descriptor ? source->ops->descriptor(source, file) : -1;
}

static inline void source_close(struct source *source)
{
    if (source)
        source->ops->close(source);
}

#endif
