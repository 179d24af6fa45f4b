/* Measures what reading through the gathers costs, without FUSE: the transpose in memory beside memcpy, and
 * the reader beside pread of the same bytes, from a file that the page cache holds.
 *
 * usage: bench_reader FILE [threads [rounds]]. FILE is made where it is absent and stays: 672 MB of random
 * bytes. Everything is measured in turn, round by round; the medians are printed, in GB/s of target bytes. */
#include "fs/read/gather.h"
#include "fs/read/reader.h"
#include "fs/source/files.h"
#include "fs/read/strided_copy.h"
#include "fs/read/transpose.h"
#include "layout/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define REQUEST ((size_t)1 << 20)
#define FILE_SIZE ((uint64_t)672 << 20)
#define PAGE 4096
#define ROUNDS_MAX 99
#define THREADS_MAX 64

/* Experts of one tensor, each a matrix of rows x columns elements in the source; the target is its transpose.
 * step 2: gpt_oss's interleaved columns, of which the target has the even ones, then the odd ones. */
static const struct shape {
    const char *name;
    uint64_t rows, columns, step;
} shapes[] = {
    {"2048 x 1536 (Qwen3 gate_up)", 2048, 1536, 1},
    {"768 x 2048 (Qwen3 down)", 768, 2048, 1},
    {"2880 x 5760 interleaved (gpt_oss)", 2880, 5760, 2},
    {"5120 x 16384 (Llama 4)", 5120, 16384, 1},
};
#define N_SHAPES (sizeof shapes / sizeof shapes[0])

struct work {
    struct reader *reader; /* NULL: preads of fd */
    int fd;
    uint64_t length;
    unsigned n_threads, number;
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;

    return a < b ? -1 : a > b;
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return values[n / 2];
}

static void fail(const char *what)
{
    fprintf(stderr, "bench_reader: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    uint64_t *words = xmalloc(REQUEST), word = 1;

    if (fd < 0)
        fail(path);
    if (lseek(fd, 0, SEEK_END) != (off_t)FILE_SIZE)
        for (uint64_t at = 0; at < FILE_SIZE; at += REQUEST) {
            for (size_t i = 0; i < REQUEST / sizeof *words; i++)
                words[i] = word = word * UINT64_C(6364136223846793005) + 1;
            if (pwrite(fd, words, REQUEST, (off_t)at) != (ssize_t)REQUEST)
                fail(path);
        }
    free(words);
    return fd;
}

/* The requests of a thread: every n_threads-th MiB, as a sequential reader's are spread over a daemon's
 * threads. */
static void *work_run(void *argument)
{
    const struct work *work = argument;
    unsigned char *buffer = xmalloc(REQUEST);

    memset(buffer, 0, REQUEST);
    for (uint64_t at = work->number * REQUEST; at < work->length; at += work->n_threads * REQUEST) {
        const size_t n = work->length - at < REQUEST ? (size_t)(work->length - at) : REQUEST;
        if (work->reader ? reader_read(work->reader, 0, at, n, buffer) != 0
                         : pread(work->fd, buffer, n, (off_t)at) != (ssize_t)n)
            fail("read");
    }
    free(buffer);
    return NULL;
}

static double run_threads(struct work work)
{
    pthread_t threads[THREADS_MAX];
    struct work works[THREADS_MAX];
    const double begin = now();

    for (unsigned i = 0; i < work.n_threads; i++) {
        works[i] = work;
        works[i].number = i;
        if (pthread_create(&threads[i], NULL, work_run, &works[i]) != 0)
            fail("pthread_create");
    }
    for (unsigned i = 0; i < work.n_threads; i++)
        pthread_join(threads[i], NULL);
    return (double)work.length / (now() - begin) / 1e9;
}

static void bench_shape(const struct shape *shape, int fd, struct source *source, unsigned threads,
                        int rounds)
{
    const uint64_t matrix = shape->rows * shape->columns * 2, n = FILE_SIZE / matrix;
    struct extent *extents = xcalloc(n, sizeof *extents);
    struct gather *gathers = xcalloc(n, sizeof *gathers);
    struct gather_box *boxes = xcalloc(n * shape->step, sizeof *boxes);
    struct planned_tensor tensor = {.info = {.name = "t"}, .length = n * matrix, .n_extents = (uint32_t)n};
    struct planned_file file = {
        .name = "f", .size = tensor.length, .verbatim_shard = PLAN_NO_SHARD, .head = "", .n_tensors = 1};
    struct plan plan = {.files = &file, .n_files = 1, .tensors = &tensor, .n_tensors = 1};
    double raw[ROUNDS_MAX], read[ROUNDS_MAX], ratio[ROUNDS_MAX];

    for (uint32_t i = 0; i < n; i++) {
        extents[i] = (struct extent){.begin = i * matrix, .length = matrix, .gather = i};
        gathers[i] =
            (struct gather){matrix, i * (uint32_t)shape->step, (uint32_t)shape->step, 2, shape->rows * 2};
        for (uint64_t k = 0; k < shape->step; k++)
            boxes[i * shape->step + k] =
                (struct gather_box){.n_dims = 2,
                                    .source = i * matrix + k * 2,
                                    .target = k * matrix / shape->step,
                                    .dims = {{shape->columns / shape->step, shape->rows, shape->step},
                                             {shape->rows, 1, shape->columns}}};
    }
    plan.extents = extents;
    plan.gathers = gathers;
    plan.boxes = boxes;
    plan.n_extents = plan.n_gathers = (uint32_t)n;
    plan.n_boxes = (uint32_t)(n * shape->step);
    struct work work = {.fd = fd, .length = tensor.length, .n_threads = threads};
    struct work through = work;
    through.reader = reader_new(&plan, source, READER_CACHE_DEFAULT);
    if (!through.reader)
        fail("reader");
    /* The first round fills the cache; the next ones find nothing in it, since it is smaller than the tensor.
     */
    for (int r = -1; r < rounds; r++) {
        const double pread_speed = run_threads(work), speed = run_threads(through);
        if (r >= 0) {
            raw[r] = pread_speed;
            read[r] = speed;
            ratio[r] = speed / pread_speed;
        }
    }
    reader_free(through.reader);
    printf("%-36s %u threads: pread %5.2f, reader %5.2f: %.2f\n", shape->name, threads, median(raw, rounds),
           median(read, rounds), median(ratio, rounds));
    free(extents);
    free(gathers);
    free(boxes);
}

static double time_copy(const struct transpose_level *level, unsigned char *target,
                        const unsigned char *source, unsigned size, uint64_t rows, uint64_t columns)
{
    const double begin = now();

    if (level)
        strided_copy_2d(target, source, size, columns, rows, rows, 1, 1, columns);
    else
        memcpy(target, source, rows * columns * size);
    return (double)(rows * columns * size) / (now() - begin) / 1e9;
}

static void bench_kernel(unsigned size, uint64_t rows, uint64_t columns, int rounds)
{
    const struct transpose_level *levels[4] = {NULL};
    const unsigned n = transpose_levels(levels + 1, 3) + 1;
    const size_t length = rows * columns * size;
    /* As the cache's blocks and the scratch are: on a page's border, so that lines are lines on both sides.
     */
    unsigned char *source = aligned_alloc(PAGE, length), *target = aligned_alloc(PAGE, length);
    double speeds[4][ROUNDS_MAX];

    if (!source || !target)
        fail("memory");
    memset(source, 1, length);
    memset(target, 2, length);
    for (int r = 0; r < rounds; r++)
        for (unsigned i = 0; i < n; i++) {
            if (levels[i])
                transpose_force(levels[i]);
            time_copy(levels[i], target, source, size, rows, columns);
            speeds[i][r] = time_copy(levels[i], target, source, size, rows, columns);
        }
    transpose_force(NULL);
    const double memory = median(speeds[0], rounds);
    printf("%llu x %llu of %u bytes, in memory: memcpy %.1f", (unsigned long long)rows,
           (unsigned long long)columns, size, memory);
    for (unsigned i = 1; i < n; i++) {
        const double speed = median(speeds[i], rounds);
        printf(", %s %.1f (%.2f)", levels[i]->name, speed, speed / memory);
    }
    putchar('\n');
    free(source);
    free(target);
}

int main(int argc, char **argv)
{
    const unsigned threads = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 2;
    const int rounds = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 5;

    if (argc < 2 || threads < 1 || threads > THREADS_MAX || rounds < 1 || rounds > ROUNDS_MAX) {
        fputs("usage: bench_reader FILE [threads [rounds]]\n", stderr);
        return 2;
    }
    for (unsigned size = 1; size <= 8; size *= 2)
        bench_kernel(size, 2048, 1536, rounds * 3);
    bench_kernel(2, 768, 2048, rounds * 3);
    int fd = open_file(argv[1]);
    char *path = realpath(argv[1], NULL);
    if (!path)
        fail(argv[1]);
    struct files_target target = {.path = path + 1, .root = open("/", O_PATH), .target = path + 1};
    struct error err = {0};
    if (fstat(fd, &target.stat) != 0)
        fail(argv[1]);
    struct source *source = source_files_open("", &target, 1, &err);
    if (!source)
        fail(err.text);
    for (size_t i = 0; i < N_SHAPES; i++) {
        bench_shape(&shapes[i], fd, source, 1, rounds);
        if (threads > 1)
            bench_shape(&shapes[i], fd, source, threads, rounds);
    }
    source_close(source);
    close(target.root);
    free(path);
    close(fd);
    return 0;
}
