/* Where a checkpoint's files come from: what they are, and a `pread` that is exact or fails.
 *
 * The contract of every layer down here: the whole range or a positive errno, never short. Thread-safe, but
 * for source_keep(), which ends the opening. */
#ifndef MOEFS_FS_SOURCE_H
#define MOEFS_FS_SOURCE_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

struct source;

/* What is known of a file, or of a directory, without reading it. */
struct source_info {
    const char *path; /* relative to the checkpoint's directory: "tokenizer.json", "original/params.json" */
    uint64_t size;    /* bytes */
    struct timespec mtime;
    uid_t uid;
    gid_t gid;
    mode_t mode;        /* type and permissions, as in struct stat */
    const char *sha256; /* what its store promises of the contents: 64 lower-case digits. NULL: nothing */
};

struct source_ops {
    /* Reads length bytes at offset of file number `file` into buffer. 0, or an errno: EIO where the file ends
     * early or is no longer the one that was opened. buffer's contents are unspecified on failure. */
    int (*pread)(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length);
    /* Reads n runs of length bytes, the first at offset and each `stride` bytes behind the one before it, one
     * after another into buffer. The same as n preads, but a layer may check once for all of them. No
     * function: source_pread_runs() calls pread n times. */
    int (*pread_runs)(struct source *source, uint32_t file, uint64_t offset, uint64_t stride, uint64_t n,
                      void *buffer, size_t length);
    /* What file number `file` is called in messages; NULL where there is no such file. The source's. No
     * function: its path. */
    const char *(*name)(struct source *source, uint32_t file);
    /* A descriptor of file number `file` whose bytes are what pread gives, for a caller that hands it to the
     * kernel. -1, or no function: reads have to come through here. The source's. */
    int (*descriptor)(struct source *source, uint32_t file);
    /* See source_hold_head() and source_keep(). No function: nothing is compared; the files cannot be chosen.
     */
    int (*hold_head)(struct source *source, uint32_t file, const void *head, size_t length);
    int (*keep)(struct source *source, const uint32_t *numbers, uint32_t n);
    void (*close)(struct source *source);
};

/* A layer: the first member of each implementation's own struct. */
struct source {
    const struct source_ops *ops;
    const struct source_info *files; /* file number i is files[i]; the source's */
    uint32_t n_files;
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
    if (source->ops->name)
        return source->ops->name(source, file);
    return file < source->n_files ? source->files[file].path : NULL;
}

static inline int source_descriptor(struct source *source, uint32_t file)
{
    return source->ops->descriptor ? source->ops->descriptor(source, file) : -1;
}

/* Says that the file's first `length` bytes, which were read from it, decide what the rest means: a header. A
 * source that suspects a change compares them before it goes on. 0 or an errno. May be called by several
 * threads, each for another file. */
static inline int source_hold_head(struct source *source, uint32_t file, const void *head, size_t length)
{
    return source->ops->hold_head ? source->ops->hold_head(source, file, head, length) : 0;
}

/* Ends the opening: from now on file i is what was file numbers[i] (each at most once), and files that are
 * not among them are given up. Nobody else may be using the source. Until then the opener tells the user of
 * failures; afterwards the source logs them. 0 or an errno, and then nothing has changed. */
static inline int source_keep(struct source *source, const uint32_t *numbers, uint32_t n)
{
    return source->ops->keep ? source->ops->keep(source, numbers, n) : ENOTSUP;
}

static inline void source_close(struct source *source)
{
    if (source)
        source->ops->close(source);
}

#endif
