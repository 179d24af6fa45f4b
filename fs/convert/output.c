/* Files that appear whole, and are taken back when the work fails. */
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
    while (errno = 0, result == 0 && (entry = readdir(stream)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            result = error_set(err, "%s is not empty (it holds %s)", path, entry->d_name);
    if (result == 0 && errno != 0)
        result = error_set(err, "cannot read the directory %s: %s", path, strerror(errno));
    closedir(stream);
    return result;
}

int output_check_empty(const char *path, struct error *err)
{
    const int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (directory < 0)
        return error_set(err, "%s: %s", path, strerror(errno));
    const int result = check_empty(path, directory, err);
    close(directory);
    return result;
}

int output_open(const char *path, mode_t mode, bool sync, struct output *output, struct error *err)
{
    *output = (struct output){.path = path, .sync = sync};
    output->created = mkdir(path, mode) == 0;
    if (!output->created && errno != EEXIST)
        return error_set(err, "cannot make the directory %s: %s", path, strerror(errno));
    output->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (output->directory < 0) {
        error_set(err, "%s: %s", path, strerror(errno));
        if (output->created)
            rmdir(path);
        return -1;
    }
    if (check_empty(path, output->directory, err) < 0) {
        close(output->directory);
        return -1;
    }
    pthread_mutex_init(&output->lock, NULL);
    utarray_new(output->names, &ut_str_icd);
    return 0;
}

/* What cannot be removed stays: the first error is the one to report. */
static void discard_all(const struct output *output)
{
    char **name = NULL;

    while ((name = (char **)utarray_prev(output->names, name)))
        if (unlinkat(output->directory, *name, 0) < 0 && errno == EISDIR)
            unlinkat(output->directory, *name, AT_REMOVEDIR);
    if (output->created)
        rmdir(output->path);
}

void output_close(struct output *output, bool discard)
{
    if (discard)
        discard_all(output);
    utarray_free(output->names);
    pthread_mutex_destroy(&output->lock);
    close(output->directory);
}

/* What is there from now on. */
static void remember(struct output *output, const char *name)
{
    pthread_mutex_lock(&output->lock);
    utarray_push_back(output->names, &name);
    pthread_mutex_unlock(&output->lock);
}

static int fail(const struct output *output, const char *name, const char *what, struct error *err)
{
    return error_set(err, "%s/%s: cannot %s: %s", output->path, name, what, strerror(errno));
}

int output_make_directory(struct output *output, const char *name, mode_t mode, struct error *err)
{
    if (mkdirat(output->directory, name, mode) < 0)
        return fail(output, name, "make the directory", err);
    remember(output, name);
    return 0;
}

int output_begin(struct output *output, const char *name, mode_t mode, struct output_file *file,
                 struct error *err)
{
    const char *slash = strrchr(name, '/');
    const int parent = slash ? (int)(slash + 1 - name) : 0;

    *file = (struct output_file){.output = output, .name = xstrdup(name)};
    file->temporary = xasprintf("%.*s.%s.incomplete", parent, name, name + parent);
    file->fd = openat(output->directory, file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (file->fd >= 0)
        return 0;
    fail(output, name, "create the file", err);
    free(file->name);
    free(file->temporary);
    return -1;
}

int output_write(struct output_file *file, uint64_t offset, const void *bytes, size_t length,
                 struct error *err)
{
    const char *from = bytes;

    while (length > 0) {
        ssize_t n = pwrite(file->fd, from, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(file->output, file->name, "write", err);
        from += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

int output_set_size(struct output_file *file, uint64_t size, struct error *err)
{
    errno = EFBIG;
    if (size > INT64_MAX || ftruncate(file->fd, (off_t)size) < 0)
        return fail(file->output, file->name, "extend the file", err);
    return 0;
}

/* What need not be synced cannot be: some filesystems refuse it for directories. */
static int sync_descriptor(int fd)
{
    int result;

    do
        result = fsync(fd);
    while (result < 0 && errno == EINTR);
    return result < 0 && (errno == EINVAL || errno == ENOSYS || errno == EROFS) ? 0 : result;
}

static int sync_directory(const struct output *output, const char *name, struct error *err)
{
    const int fd = openat(output->directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int result = 0;

    if (fd < 0 && errno == ENOTDIR) /* a file, which was synced when it was finished */
        return 0;
    if (fd < 0 || sync_descriptor(fd) < 0)
        result = fail(output, name, "bring the directory to the disk", err);
    if (fd >= 0)
        close(fd);
    return result;
}

int output_sync_names(struct output *output, struct error *err)
{
    char **name = NULL;
    int result = 0;

    if (!output->sync)
        return 0;
    while (result == 0 && (name = (char **)utarray_prev(output->names, name)))
        result = sync_directory(output, *name, err);
    if (result == 0)
        result = sync_directory(output, ".", err);
    if (result == 0 && output->created)
        result = sync_directory(output, "..", err);
    return result;
}

static void file_free(struct output_file *file)
{
    free(file->name);
    free(file->temporary);
    *file = (struct output_file){.fd = -1};
}

int output_finish(struct output_file *file, struct error *err)
{
    struct output *output = file->output;
    const bool synced = !output->sync || sync_descriptor(file->fd) == 0;

    if (!synced)
        fail(output, file->name, "bring the file to the disk", err);
    const int closed = close(file->fd);
    file->fd = -1;
    if (!synced) {
        output_abandon(file);
        return -1;
    }
    if (closed < 0)
        fail(output, file->name, "write", err);
    else if (renameat(output->directory, file->temporary, output->directory, file->name) < 0)
        fail(output, file->name, "rename the file", err);
    else {
        remember(output, file->name);
        file_free(file);
        return 0;
    }
    output_abandon(file);
    return -1;
}

void output_abandon(struct output_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    unlinkat(file->output->directory, file->temporary, 0);
    file_free(file);
}
