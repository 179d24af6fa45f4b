/* The reader: any byte range of any planned file, computed and cached where it has to be. */
#ifndef MOEFS_FS_READER_H
#define MOEFS_FS_READER_H

#include "block_cache.h"
#include "layout/plan.h"
#include "fs/source/source.h"

struct reader;

#define READER_CACHE_DEFAULT ((size_t)256 << 20)
#define READER_CACHE_MIN ((size_t)1 << 20)

/* plan and source must outlive it. The source's file i is the checkpoint's shard i. cache_size: bytes of
 * computed blocks that are kept at most; the blocks' own size follows from it. NULL when memory is short. */
struct reader *reader_new(const struct plan *plan, struct source *source, size_t cache_size);
/* All loans must have been given back. */
void reader_free(struct reader *reader);

/* Bytes [offset, offset + length) of plan.files[file], all of which must lie inside the file (the caller cuts
 * at the end of the file). The whole range, or an errno; on failure the cause has been logged, with file and
 * range, and buffer's contents are unspecified. Thread-safe. */
int reader_read(struct reader *reader, uint32_t file, uint64_t offset, size_t length, void *buffer);

/* The same, but where all of the range lies in one computed block, `bytes` is in there and nothing is copied;
 * otherwise bytes is buffer. After success, and only then, the loan is to be given back, and soon: a lent
 * block stays in the cache. */
struct reader_loan {
    const void *bytes;
    size_t length;
    struct reader *reader; /* NULL: nothing is lent */
    struct block *block;
};
int reader_lend(struct reader *reader, uint32_t file, uint64_t offset, size_t length, void *buffer,
                struct reader_loan *loan);
void reader_take_back(const struct reader_loan *loan);

#endif
