#include "source.h"
#include "layout/base/splitmix.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

/* Four BF16 at a time: of each 16 random bits these stay, and the base is added to them. */
#define LANES(bits) (UINT64_C(0x0001000100010001) * (bits))
#define SMALL_MASK LANES(0x81ff) /* sign, two bits of exponent, mantissa */
#define SMALL_BASE LANES(0x3b00) /* exponent 118: 2^-9 */
#define ONE_MASK LANES(0x000f)   /* the mantissa's low bits: 1 to 1.117 */
#define ONE_BASE LANES(0x3f80)   /* 1.0 */

struct source_sample {
    struct source source;
    struct source_info *files; /* source.files */
    const struct sample_model *model;
    uint64_t seed;
};

/* One tensor's contents as a sequence of 8-byte words. */
struct stream {
    uint64_t key, mask, base;
};

static inline uint64_t stream_word(const struct stream *stream, uint64_t i)
{
    return htole64((splitmix_word(stream->key, i) & stream->mask) + stream->base);
}

static void stream_read(const struct stream *stream, uint64_t offset, unsigned char *buffer, size_t length)
{
    uint64_t i = offset / 8;
    size_t skip = offset % 8;

    while (length) {
        uint64_t word = stream_word(stream, i++);
        size_t n = length < 8 - skip ? length : 8 - skip;

        memcpy(buffer, (const unsigned char *)&word + skip, n);
        buffer += n;
        length -= n;
        skip = 0;
        for (; length >= 8; length -= 8, buffer += 8, i++) {
            word = stream_word(stream, i);
            memcpy(buffer, &word, 8);
        }
    }
}

/* The tensor that holds the byte at offset, which lies behind the head and inside the file. */
static const struct sample_tensor *find_tensor(const struct sample_model *model,
                                               const struct sample_shard *shard, uint64_t offset)
{
    const struct sample_tensor *tensors = model->tensors + shard->first_tensor;
    uint32_t low = 0, high = shard->n_tensors;

    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (tensors[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    return tensors + low;
}

static int sample_pread(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    const struct source_sample *self = (const struct source_sample *)source;
    const struct sample_shard *shard = self->model->shards + file;
    unsigned char *out = buffer;

    if (file >= self->model->n_shards || offset > shard->size || length > shard->size - offset)
        return EIO;
    if (length && offset < shard->head_length) {
        uint64_t left = shard->head_length - offset;
        size_t n = length < left ? length : (size_t)left;
        memcpy(out, shard->head + offset, n);
        out += n;
        offset += n;
        length -= n;
    }
    while (length) {
        const struct sample_tensor *tensor = find_tensor(self->model, shard, offset);
        uint64_t at = offset - tensor->offset, left = tensor->length - at;
        size_t n = length < left ? length : (size_t)left;
        struct stream stream = {
            .key = XXH3_64bits_withSeed(tensor->info.name, strlen(tensor->info.name), self->seed),
            .mask = tensor->near_one ? ONE_MASK : SMALL_MASK,
            .base = tensor->near_one ? ONE_BASE : SMALL_BASE,
        };
        stream_read(&stream, at, out, n);
        out += n;
        offset += n;
        length -= n;
    }
    return 0;
}

static void sample_close(struct source *source)
{
    struct source_sample *self = (struct source_sample *)source;

    free(self->files);
    free(self);
}

static const struct source_ops sample_ops = {
    .pread = sample_pread,
    .close = sample_close,
};

struct source *source_sample_open(const struct sample_model *model, uint64_t seed)
{
    struct source_sample *self = xmalloc(sizeof *self);
    struct source_info *files = xcalloc(model->n_shards, sizeof *files);

    for (uint32_t i = 0; i < model->n_shards; i++)
        files[i] = (struct source_info){
            .path = model->shards[i].name, .size = model->shards[i].size, .mode = S_IFREG | 0444};
    *self = (struct source_sample){
        .source = {.ops = &sample_ops, .files = files, .n_files = model->n_shards},
        .files = files,
        .model = model,
        .seed = seed,
    };
    return &self->source;
}
