#include "output.h"

#include "layout/base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_empty(const char *path, int directory, struct error *err)
{
    int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    const struct dirent *entry;
    int result = 0;

    if (!stream) {
        error_set(err, "%s: %s", path, strerror(errno));
        if (copy >= 0)
            close(copy);
        return -1;
    }
    while (!result && (entry = readdir(stream)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            result = error_set(err, "%s is not empty (it holds %s)", path, entry->d_name);
    closedir(stream);
    return result;
}

int sample_output_open(const char *path, struct sample_output *output, struct error *err)
{
    *output = (struct sample_output){.path = path, .fd = -1};
    output->created = !mkdir(path, 0777);
    if (!output->created && errno != EEXIST)
        return error_set(err, "cannot make the directory %s: %s", path, strerror(errno));
    output->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (output->directory < 0) {
        error_set(err, "%s: %s", path, strerror(errno));
        if (output->created)
            rmdir(path);
        return -1;
    }
    if (check_empty(path, output->directory, err)) {
        close(output->directory);
        return -1;
    }
    utarray_new(output->names, &ut_str_icd);
    return 0;
}

static int fail(const struct sample_output *output, const char *what, struct error *err)
{
    return error_set(err, "%s/%s: cannot %s: %s", output->path, output->name, what, strerror(errno));
}

int sample_output_begin(struct sample_output *output, const char *name, struct error *err)
{
    output->name = xstrdup(name);
    output->temporary = xasprintf(".%s.incomplete", name);
    output->fd = openat(output->directory, output->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (output->fd >= 0)
        return 0;
    fail(output, "create the file", err);
    free(output->temporary); /* not ours to remove */
    output->temporary = NULL;
    return -1;
}

int sample_output_write(struct sample_output *output, const void *bytes, size_t length, struct error *err)
{
    const char *at = bytes;

    while (length) {
        ssize_t n = write(output->fd, at, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(output, "write", err);
        at += n;
        length -= (size_t)n;
    }
    return 0;
}

int sample_output_extend(struct sample_output *output, uint64_t size, struct error *err)
{
    if (size > INT64_MAX) {
        errno = EFBIG;
        return fail(output, "extend the file", err);
    }
    return ftruncate(output->fd, (off_t)size) ? fail(output, "extend the file", err) : 0;
}

static void forget_file(struct sample_output *output)
{
    free(output->name);
    free(output->temporary);
    output->name = output->temporary = NULL;
}

int sample_output_finish(struct sample_output *output, struct error *err)
{
    int fd = output->fd;

    output->fd = -1;
    if (close(fd))
        return fail(output, "write", err);
    if (renameat(output->directory, output->temporary, output->directory, output->name))
        return fail(output, "rename the file", err);
    utarray_push_back(output->names, &output->name);
    forget_file(output);
    return 0;
}

/* What cannot be removed stays: the first error is the one to report. */
static void discard_files(const struct sample_output *output)
{
    char **name = NULL;

    if (output->temporary)
        unlinkat(output->directory, output->temporary, 0);
    while ((name = (char **)utarray_next(output->names, name)))
        unlinkat(output->directory, *name, 0);
    if (output->created)
        rmdir(output->path);
}

void sample_output_close(struct sample_output *output, bool discard)
{
    if (output->fd >= 0)
        close(output->fd);
    if (discard)
        discard_files(output);
    forget_file(output);
    utarray_free(output->names);
    close(output->directory);
}
