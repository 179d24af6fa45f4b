/* Pieces of a tensor in memory: read once, and brought into the logical order as three nested loops would. */
#include "fs/verify/slabs.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TENSOR_AT 24 /* bytes before the tensor in its file */

/* A file whose byte i is (unsigned char)(i * 7). */
struct counting_source {
    struct source source;
    unsigned n_reads;
    int error; /* that reads give; 0: none */
};

static int counting_pread(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    struct counting_source *counting = (struct counting_source *)source;

    (void)file;
    counting->n_reads++;
    for (size_t i = 0; i < length; i++)
        ((unsigned char *)buffer)[i] = (unsigned char)((offset + i) * 7);
    return counting->error;
}

static const struct source_ops counting_ops = {.pread = counting_pread};
static struct shard the_shard = {.name = "model.safetensors"};
static const struct checkpoint the_checkpoint = {.shards = &the_shard, .n_shards = 1};
static const struct side_tensor the_tensor = {
    .info = {.name = "experts.down_proj", .dtype = DTYPE_BF16}, .offset = TENSOR_AT, .length = 4096};

static void test_load(void **state)
{
    struct counting_source counting = {.source = {.ops = &counting_ops}};
    const struct side side = {.title = "the copy", .source = &counting.source, .checkpoint = &the_checkpoint};
    struct report report;
    struct slab slab = {0};

    (void)state;
    report_begin(&report);
    assert_int_equal(slab_load(&side, &the_tensor, 10, 30, &slab, &report), 0);
    for (size_t i = 0; i < 40; i++)
        assert_int_equal(slab.bytes[i], (unsigned char)((TENSOR_AT + 20 + i) * 7));
    assert_int_equal(slab_load(&side, &the_tensor, 12, 30, &slab, &report), 0); /* is there */
    assert_int_equal(counting.n_reads, 1);
    assert_int_equal(slab_load(&side, &the_tensor, 12, 31, &slab, &report), 0);
    assert_int_equal(counting.n_reads, 2);
    counting.error = EIO;
    assert_int_equal(slab_load(&side, &the_tensor, 100, 110, &slab, &report), -1);
    assert_string_equal(
        report.failure.text,
        "the copy: experts.down_proj in model.safetensors: bytes 224 to 244: Input/output error");
    counting.error = 0; /* what was read in vain is not taken for the tensor */
    assert_int_equal(slab_load(&side, &the_tensor, 100, 110, &slab, &report), 0);
    assert_int_equal(counting.n_reads, 4);
    free(slab.bytes);
    report_free(&report);
}

static const struct {
    enum dtype dtype;
    uint64_t n[2], first, stride[2];
    bool row_major;
} PLACES[] = {
    {DTYPE_BF16, {5, 7}, 3, {7, 1}, true},
    {DTYPE_BF16, {1, 7}, 0, {99, 1}, true}, /* an axis of one step has no stride */
    {DTYPE_BF16, {5, 7}, 0, {8, 1}, false},
    {DTYPE_U8, {40, 33}, 1, {1, 40}, false}, /* transposed, and more than one band */
    {DTYPE_F16, {40, 33}, 2, {1, 40}, false},
    {DTYPE_F32, {33, 65}, 0, {1, 33}, false},
    {DTYPE_F64, {34, 40}, 5, {2, 68}, false}, /* interleaved and transposed */
    {DTYPE_BF16, {6, 5}, 1, {10, 2}, false},
};

static void test_row_major(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) {
        const struct side_tensor tensor = {.info = {.dtype = PLACES[i].dtype}};
        const struct logical_form form = {
            .n_axes = 2, .n = {PLACES[i].n[0], PLACES[i].n[1]}, .elements = PLACES[i].n[0] * PLACES[i].n[1]};
        const struct logical_place place = {.tensor = &tensor,
                                            .first = PLACES[i].first,
                                            .stride = {PLACES[i].stride[0], PLACES[i].stride[1]}};
        const size_t size = slab_element_bytes(&tensor);
        unsigned char bytes[32768];
        for (size_t b = 0; b < sizeof bytes; b++)
            bytes[b] = (unsigned char)(b * 31 + b / 251);
        const struct slab slab = {.tensor = &tensor, .end = sizeof bytes / size, .bytes = bytes};
        unsigned char *copy = NULL;
        size_t copy_size = 0;

        assert_int_equal(slab_is_row_major(&form, &place), PLACES[i].row_major);
        const unsigned char *got = slab_row_major_bytes(&form, &place, &slab, &copy, &copy_size);
        assert_int_equal(copy == NULL, PLACES[i].row_major);
        for (uint64_t r = 0; r < form.n[0]; r++)
            for (uint64_t c = 0; c < form.n[1]; c++)
                assert_memory_equal(got + (r * form.n[1] + c) * size,
                                    bytes + (place.first + r * place.stride[0] + c * place.stride[1]) * size,
                                    size);
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_row_major),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
