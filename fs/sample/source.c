/* The source of a sample: every value is computed from the seed, the tensor and its place. */
#include "source.h"

#include "layout/base/memory.h"
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

/* What one file holds: a text, or a shard of the model. */
struct contents {
    const char *text; /* NULL: a shard */
    const struct sample_shard *shard;
};

struct source_sample {
    struct source source;
    struct source_info *files; /* source.files */
    struct contents *contents; /* of each of them */
    const struct sample_model *model;
    char *config, *generation_config; /* the files' texts */
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

static void read_shard(const struct source_sample *self, const struct sample_shard *shard, uint64_t offset,
                       unsigned char *out, size_t length)
{
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
}

static int sample_pread(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    const struct source_sample *self = (const struct source_sample *)source;

    if (file >= source->n_files || offset > source->files[file].size ||
        length > source->files[file].size - offset)
        return EIO;
    if (self->contents[file].text)
        memcpy(buffer, self->contents[file].text + offset, length);
    else
        read_shard(self, self->contents[file].shard, offset, buffer, length);
    return 0;
}

static int sample_keep(struct source *source, const uint32_t *numbers, uint32_t n)
{
    struct source_sample *self = (struct source_sample *)source;
    struct source_info *files = xcalloc(n, sizeof *files);
    struct contents *contents = xcalloc(n, sizeof *contents);

    for (uint32_t i = 0; i < n; i++) {
        files[i] = self->files[numbers[i]];
        contents[i] = self->contents[numbers[i]];
    }
    free(self->files);
    free(self->contents);
    self->files = files;
    self->contents = contents;
    source->files = files;
    source->n_files = n;
    return 0;
}

static void sample_close(struct source *source)
{
    struct source_sample *self = (struct source_sample *)source;

    free(self->files);
    free(self->contents);
    free(self->config);
    free(self->generation_config);
    free(self);
}

static const struct source_ops sample_ops = {
    .pread = sample_pread,
    .keep = sample_keep,
    .close = sample_close,
};

static void add_file(struct source_sample *self, struct listing *listing, const char *path, uint64_t size,
                     struct contents contents)
{
    const uint32_t number = self->source.n_files++;

    self->files[number] = (struct source_info){.path = path, .size = size, .mode = S_IFREG | 0644};
    self->contents[number] = contents;
    listing->list[listing->n++] =
        (struct listed){.info = self->files[number], .kind = LISTED_FILE, .file = number};
}

static int compare_listed(const void *a, const void *b)
{
    const struct listed *x = a, *y = b;

    return strcmp(x->info.path, y->info.path);
}

struct source *source_sample_open(const struct sample_model *model, const char *path, uint64_t seed,
                                  struct listing *listing)
{
    struct source_sample *self = xcalloc(1, sizeof *self);
    const size_t most = 2 + (size_t)model->n_shards;

    *self = (struct source_sample){.source = {.ops = &sample_ops},
                                   .files = xcalloc(most, sizeof *self->files),
                                   .contents = xcalloc(most, sizeof *self->contents),
                                   .model = model,
                                   .config = xasprintf("%s\n", model->config),
                                   .generation_config = xasprintf("%s\n", model->generation_config),
                                   .seed = seed};
    *listing = (struct listing){.top = {.path = path, .mode = S_IFDIR | 0755},
                                .list = xcalloc(most, sizeof *listing->list)};
    add_file(self, listing, "config.json", strlen(self->config), (struct contents){.text = self->config});
    add_file(self, listing, "generation_config.json", strlen(self->generation_config),
             (struct contents){.text = self->generation_config});
    for (uint32_t i = 0; i < model->n_shards; i++)
        add_file(self, listing, model->shards[i].name, model->shards[i].size,
                 (struct contents){.shard = &model->shards[i]});
    qsort(listing->list, listing->n, sizeof *listing->list, compare_listed);
    self->source.files = self->files;
    return &self->source;
}
