/* nullfs LIKE MNT [-o OPTIONS]: the yardstick of scripts/bench. Shows the files of the directory LIKE with
 * their sizes; of a *.safetensors file the bytes are its own header and then one block of memory over and
 * over, of any other file its own. Everything else is as libfuse does it by default, so that it shows what
 * FUSE costs when computing the bytes costs nothing. Stays in the foreground; SIGTERM unmounts. */
#define FUSE_USE_VERSION 314
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_MAX 256
#define BLOCK_SIZE ((size_t)4 << 20) /* larger than a request, so that one reply never wraps twice */
#define HEAD_MAX ((uint64_t)100 << 20)
#define LENGTH_SIZE 8
#define TIMEOUT 1.0

struct null_file {
    char *name;
    char *head;
    size_t head_length;
    off_t size;
};

static struct null_file files[FILES_MAX];
static size_t n_files;
static char *block;

static void fail(const char *what)
{
    fprintf(stderr, "nullfs: %s: %s\n", what, errno ? strerror(errno) : "unusable");
    exit(1);
}

/* What of the file is kept: a weight file's header, another file's every byte. */
static size_t head_length(int fd, const char *name, off_t size)
{
    static const char suffix[] = ".safetensors";
    unsigned char length[LENGTH_SIZE];
    const size_t n = strlen(name), n_suffix = sizeof suffix - 1;
    uint64_t value = 0;

    if (n < n_suffix || strcmp(name + n - n_suffix, suffix) != 0)
        return (uint64_t)size <= HEAD_MAX ? (size_t)size : 0;
    if (pread(fd, length, sizeof length, 0) != (ssize_t)sizeof length)
        fail(name);
    for (int i = LENGTH_SIZE - 1; i >= 0; i--)
        value = value << 8 | length[i];
    errno = 0;
    if (value > HEAD_MAX || value + LENGTH_SIZE > (uint64_t)size)
        fail(name);
    return (size_t)value + LENGTH_SIZE;
}

static void load_file(int directory, const char *name)
{
    struct stat stat;
    int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &stat) != 0)
        fail(name);
    if (S_ISREG(stat.st_mode)) {
        errno = ENOBUFS;
        if (n_files == FILES_MAX)
            fail(name);
        struct null_file *file = &files[n_files++];
        file->name = strdup(name);
        file->size = stat.st_size;
        file->head_length = head_length(fd, name, stat.st_size);
        file->head = malloc(file->head_length + 1);
        if (!file->name || !file->head ||
            pread(fd, file->head, file->head_length, 0) != (ssize_t)file->head_length)
            fail(name);
    }
    close(fd);
}

static void load_directory(const char *path)
{
    DIR *directory = opendir(path);

    if (!directory)
        fail(path);
    for (struct dirent *entry; (entry = readdir(directory));)
        load_file(dirfd(directory), entry->d_name);
    closedir(directory);
    block = malloc(BLOCK_SIZE);
    if (!block)
        fail("memory");
    for (size_t i = 0; i < BLOCK_SIZE; i++)
        block[i] = (char)(i * 31 + (i >> 12));
}

/* Inode 1 is the directory, number i + 2 is files[i]. */
static int fill_stat(fuse_ino_t number, struct stat *stat)
{
    *stat = (struct stat){.st_ino = number, .st_mode = S_IFDIR | 0755, .st_nlink = 2};
    if (number == FUSE_ROOT_ID)
        return 0;
    if (number < 2 || number - 2 >= n_files)
        return ENOENT;
    stat->st_mode = S_IFREG | 0444;
    stat->st_nlink = 1;
    stat->st_size = files[number - 2].size;
    return 0;
}

static void null_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.attr_timeout = TIMEOUT, .entry_timeout = TIMEOUT};

    for (size_t i = 0; parent == FUSE_ROOT_ID && i < n_files; i++) {
        if (strcmp(files[i].name, name) == 0) {
            entry.ino = i + 2;
            fill_stat(entry.ino, &entry.attr);
            fuse_reply_entry(request, &entry);
            return;
        }
    }
    fuse_reply_err(request, ENOENT);
}

static void null_getattr(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *info)
{
    struct stat stat;
    int e = fill_stat(number, &stat);

    (void)info;
    if (e)
        fuse_reply_err(request, e);
    else
        fuse_reply_attr(request, &stat, TIMEOUT);
}

static void null_readdir(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                         struct fuse_file_info *info)
{
    char *buffer = malloc(size);
    size_t used = 0;

    (void)info;
    if (!buffer || number != FUSE_ROOT_ID) {
        fuse_reply_err(request, buffer ? ENOTDIR : ENOMEM);
        free(buffer);
        return;
    }
    for (size_t i = (size_t)offset; i < n_files; i++) {
        struct stat stat;
        fill_stat(i + 2, &stat);
        size_t length =
            fuse_add_direntry(request, buffer + used, size - used, files[i].name, &stat, (off_t)i + 1);
        if (length > size - used)
            break;
        used += length;
    }
    fuse_reply_buf(request, buffer, used);
    free(buffer);
}

static void null_open(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *info)
{
    if (number == FUSE_ROOT_ID)
        fuse_reply_err(request, EISDIR);
    else
        fuse_reply_open(request, info);
}

static void null_read(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                      struct fuse_file_info *info)
{
    const struct null_file *file = &files[number - 2];
    const size_t left = offset < file->size ? (size_t)(file->size - offset) : 0;
    const size_t length = size < left ? size : left, at = (size_t)offset;
    struct iovec parts[3];
    int n = 0;

    (void)info;
    size_t done = 0;
    if (at < file->head_length) {
        done = length < file->head_length - at ? length : file->head_length - at;
        parts[n++] = (struct iovec){file->head + at, done};
    }
    for (int i = 0; i < 2 && done < length; i++) {
        const size_t inside = (at + done) % BLOCK_SIZE;
        const size_t part = length - done < BLOCK_SIZE - inside ? length - done : BLOCK_SIZE - inside;
        parts[n++] = (struct iovec){block + inside, part};
        done += part;
    }
    if (done < length)
        fuse_reply_err(request, EIO);
    else
        fuse_reply_iov(request, parts, n);
}

static const struct fuse_lowlevel_ops null_operations = {
    .lookup = null_lookup,
    .getattr = null_getattr,
    .readdir = null_readdir,
    .open = null_open,
    .read = null_read,
};

int main(int argc, char **argv)
{
    int status = 1;

    if (argc < 3) {
        fprintf(stderr, "usage: nullfs LIKE MNT [-o OPTIONS]\n");
        return 2;
    }
    load_directory(argv[1]);
    const char *mount_point = argv[2];
    argv[2] = argv[0];
    struct fuse_args args = FUSE_ARGS_INIT(argc - 2, argv + 2);
    struct fuse_session *session = fuse_session_new(&args, &null_operations, sizeof null_operations, NULL);
    if (!session)
        goto out;
    if (fuse_set_signal_handlers(session) != 0 || fuse_session_mount(session, mount_point) != 0)
        goto out_session;
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    status = fuse_session_loop_mt(session, config) < 0;
    fuse_loop_cfg_destroy(config);
    fuse_session_unmount(session);
out_session:
    fuse_remove_signal_handlers(session);
    fuse_session_destroy(session);
out:
    fuse_opt_free_args(&args);
    return status;
}
