/* Measures `moefs verify` of one layer beside reading the same bytes once through the reader.
 *
 * usage: bench_verify MOEFS SRC [LAYER [ROUNDS [cold]]]. Both in turn, round by round, with as many threads
 * as there are processors; the medians of wall and CPU seconds are printed, and their ratios. cold: the page
 * cache gives up SRC's weights before each. */
#include "fs/source/directory.h"
#include "fs/base/parallel.h"
#include "fs/read/reader.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIECE ((uint64_t)3 << 20) /* an expert's projection of Qwen3-30B */
#define ROUNDS_MAX 99
#define PIECES_MAX 65536

extern char **environ;

struct piece {
    uint32_t file;
    uint64_t offset;
    size_t length;
};

struct reading {
    struct reader *reader;
    struct piece pieces[PIECES_MAX];
    uint64_t n, bytes;
    void **buffers; /* one a thread */
};

struct seconds {
    double wall, cpu;
};

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "bench_verify: %s\n", what);
    exit(1);
}

static double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

static struct seconds now(int who)
{
    struct rusage usage;
    struct timespec wall;

    getrusage(who, &usage);
    clock_gettime(CLOCK_MONOTONIC, &wall);
    return (struct seconds){(double)wall.tv_sec + (double)wall.tv_nsec / 1e9,
                            seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime)};
}

static struct seconds since(int who, struct seconds begin)
{
    struct seconds end = now(who);

    return (struct seconds){end.wall - begin.wall, end.cpu - begin.cpu};
}

static void find_pieces(const struct plan *plan, const char *layer, struct reading *reading)
{
    char part[32];

    snprintf(part, sizeof part, ".layers.%s.", layer);
    for (uint32_t t = 0; t < plan->n_tensors; t++) {
        const struct planned_tensor *tensor = &plan->tensors[t];
        if (!strstr(tensor->info.name, part))
            continue;
        reading->bytes += tensor->length;
        for (uint64_t at = 0; at < tensor->length; at += PIECE) {
            if (reading->n == PIECES_MAX)
                fail("too large a layer");
            reading->pieces[reading->n++] =
                (struct piece){tensor->file, tensor->offset + at,
                               (size_t)(tensor->length - at < PIECE ? tensor->length - at : PIECE)};
        }
    }
    if (reading->n == 0)
        fail("no tensor of this layer");
}

static int read_piece(void *context, unsigned thread, uint64_t number)
{
    const struct reading *reading = context;
    const struct piece *piece = &reading->pieces[number];

    return reader_read(reading->reader, piece->file, piece->offset, piece->length, reading->buffers[thread]);
}

static void forget(const struct directory *directory)
{
    for (uint32_t f = 0; f < directory->checkpoint.n_shards; f++) {
        int fd = open(source_name(directory->source, f), O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fdatasync(fd) < 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
            fail("the page cache cannot be told");
        close(fd);
    }
}

static struct seconds run_verify(char *moefs, char *src, char *layer)
{
    char verify[] = "verify", layers[] = "--layers", json[] = "--json";
    char *arguments[] = {moefs, verify, src, layers, layer, json, NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    int status;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    const struct seconds begin = now(RUSAGE_CHILDREN);
    if (posix_spawn(&pid, moefs, &actions, NULL, arguments, environ) != 0 ||
        waitpid(pid, &status, 0) != pid || status != 0)
        fail("verify failed");
    posix_spawn_file_actions_destroy(&actions);
    return since(RUSAGE_CHILDREN, begin);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare);
    return values[n / 2];
}

int main(int argc, char **argv)
{
    static struct reading reading;
    static double wall[2][ROUNDS_MAX], cpu[2][ROUNDS_MAX];
    const struct scan_options options = {0};
    const struct plan_options plan_options = {0};
    const unsigned threads = parallel_processors();
    struct directory directory;
    struct plan plan;
    struct error err = {0};
    char zero[] = "0";

    if (argc < 3)
        fail("usage: bench_verify MOEFS SRC [LAYER [ROUNDS [cold]]]");
    char *layer = argc > 3 ? argv[3] : zero;
    const int rounds = argc > 4 ? (int)strtol(argv[4], NULL, 10) : 5;
    if (rounds < 1 || rounds > ROUNDS_MAX)
        fail("1 to 99 rounds");
    if (directory_open(argv[2], &options, &directory, &err) < 0 ||
        plan_build(&directory.checkpoint, &plan_options, &plan, &err) < 0)
        fail(err.text);
    if (!(reading.reader = reader_new(&plan, directory.source, READER_CACHE_DEFAULT)))
        fail("out of memory");
    find_pieces(&plan, layer, &reading);
    reading.buffers = xcalloc(threads, sizeof *reading.buffers);
    for (unsigned t = 0; t < threads; t++)
        memset(reading.buffers[t] = xmalloc(PIECE), 1, PIECE);
    for (int round = 0; round < rounds; round++) {
        if (argc > 5)
            forget(&directory);
        const struct seconds begin = now(RUSAGE_SELF);
        if (parallel_run(reading.n, threads, read_piece, &reading) != 0)
            fail("a read failed");
        const struct seconds read = since(RUSAGE_SELF, begin);
        if (argc > 5)
            forget(&directory);
        const struct seconds verify = run_verify(argv[1], argv[2], layer);
        wall[0][round] = read.wall;
        cpu[0][round] = read.cpu;
        wall[1][round] = verify.wall;
        cpu[1][round] = verify.cpu;
    }
    const double read_wall = median(wall[0], rounds), read_cpu = median(cpu[0], rounds);
    const double verify_wall = median(wall[1], rounds), verify_cpu = median(cpu[1], rounds);
    printf("%.2f GB, %u threads, %d rounds%s: reading %.3f s (CPU %.3f), verify %.3f s (CPU %.3f): %.2f x "
           "(CPU %.2f x)\n",
           (double)reading.bytes / 1e9, threads, rounds, argc > 5 ? ", cold" : "", read_wall, read_cpu,
           verify_wall, verify_cpu, verify_wall / read_wall, verify_cpu / read_cpu);
    for (unsigned t = 0; t < threads; t++)
        free(reading.buffers[t]);
    free(reading.buffers);
    reader_free(reading.reader);
    plan_free(&plan);
    directory_close(&directory);
    return 0;
}
