/* The line that says how far a run is. */
#include "progress.h"

#include "layout/base/checked.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PERIOD 200       /* milliseconds between two lines */
#define WIDTH_DEFAULT 80 /* where the terminal does not tell */

void progress_begin(struct progress *progress, uint64_t total)
{
    *progress = (struct progress){.total = total, .show = isatty(STDERR_FILENO) == 1};
    clock_gettime(CLOCK_MONOTONIC, &progress->begin);
}

double progress_seconds(const struct progress *progress)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - progress->begin.tv_sec) +
           (double)(now.tv_nsec - progress->begin.tv_nsec) / 1e9;
}

/* A line that reached the last column would wrap, and the next one would not overwrite it. */
static int line_width(void)
{
    struct winsize size = {0};

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 2)
        return WIDTH_DEFAULT - 1;
    return size.ws_col - 1;
}

static void show(struct progress *progress, uint64_t done, double seconds)
{
    char line[160], files[64] = "";
    const uint64_t total = max_u64(done, progress->total);
    const double rate = (double)done / seconds;
    const int twentieths = total > 0 ? (int)(20.0 * (double)done / (double)total) : 0;

    if (progress->n_files > 0)
        snprintf(files, sizeof files, ", %.0f %%, %u of %u files",
                 total > 0 ? 100.0 * (double)done / (double)total : 0.0, atomic_load(&progress->files),
                 progress->n_files);
    snprintf(line, sizeof line, "[%.*s%*s] %.1f of %.1f GB, %.2f GB/s, %.0f s left%s", twentieths,
             "####################", 20 - twentieths, "", (double)done / 1e9, (double)total / 1e9, rate / 1e9,
             (double)(total - done) / rate, files);
    fprintf(stderr, "\r%.*s\033[K", line_width(), line);
}

void progress_add(struct progress *progress, uint64_t bytes)
{
    const uint64_t done = atomic_fetch_add(&progress->bytes, bytes) + bytes;

    if (!progress->show)
        return;
    const double seconds = progress_seconds(progress);
    uint64_t shown = atomic_load(&progress->shown);
    const uint64_t now = (uint64_t)(seconds * 1000);
    if (now >= shown + PERIOD && atomic_compare_exchange_strong(&progress->shown, &shown, now))
        show(progress, done, seconds);
}

void progress_add_file(struct progress *progress)
{
    atomic_fetch_add(&progress->files, 1);
}

void progress_end(const struct progress *progress)
{
    if (progress->show && atomic_load(&progress->shown) > 0)
        fputs("\r\033[K", stderr);
}
