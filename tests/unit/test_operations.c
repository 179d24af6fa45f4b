/* Requests as the kernel sends them (linux/fuse.h), through libfuse, and the one reply that each must have: also
 * those that no kernel sends unless something is wrong. */
#include "fs/base/buffer_pool.h"
#include "fs/mount/operations.h"
#include "fs/mount/readahead.h"
#include "fs/source/source.h"
#include "fs/view/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define GENERATION 77
#define TIMEOUT 5
#define HANDLE 4711
#define CANARY 64
#define CANARY_BYTE 0xa5
#define FILE_SIZE 1000
#define N_FILES 40
#define ROOT 1
#define DEEP 2                       /* an empty directory */
#define FIRST 3                      /* the first of the files */
#define BROKEN (FIRST + N_FILES - 1) /* the last: its source fails */
#define NOBODYS 99

/* ---- what the operations stand on ---- */

static int source_read(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    (void)source;
    for (size_t i = 0; i < length; i++)
        ((unsigned char *)buffer)[i] = (unsigned char)(offset + i);
    return file == BROKEN ? EIO : 0;
}

static const struct source_ops source_functions = {.pread = source_read};
static struct source the_source = {.ops = &source_functions};
static struct directory the_directory = {.source = &the_source};
static struct view the_view = {.directory = &the_directory};
static struct tree_inode inodes[BROKEN];
static char names[BROKEN + 1][64];
static struct tree the_tree = {.inodes = inodes, .n_inodes = BROKEN, .total_size = N_FILES * FILE_SIZE};

static void make_tree(void)
{
    for (uint32_t number = ROOT; number <= BROKEN; number++) {
        const bool is_directory = number < FIRST;
        /* names of different lengths, in order */
        snprintf(names[number], sizeof names[number], "f%03u%.*s", number, (int)(number % 9), "tensors-x");
        inodes[number - 1] = (struct tree_inode){
            .path = names[number],
            .name = names[number],
            .view = &the_view,
            .kind = is_directory ? TREE_DIRECTORY : TREE_PASSED,
            .file = number,
            .parent = ROOT,
            .first_child = number == ROOT ? DEEP : 0,
            .n_children = number == ROOT ? BROKEN - ROOT : 0,
            .stat = {.st_ino = number,
                     .st_mode = is_directory ? S_IFDIR | 0555 : S_IFREG | 0444,
                     .st_size = is_directory ? 0 : FILE_SIZE},
        };
    }
}

/* ---- buffers that tell when they are kept, or written behind ---- */

static int buffers_out;
static bool no_buffers;

struct pooled_buffer *__wrap_buffer_pool_take(struct buffer_pool *pool, size_t size);
void __wrap_buffer_pool_give(struct buffer_pool *pool, struct pooled_buffer *buffer);

struct pooled_buffer *__wrap_buffer_pool_take(struct buffer_pool *pool, size_t size)
{
    (void)pool;
    if (no_buffers)
        return NULL;
    struct pooled_buffer *buffer = malloc(sizeof *buffer);
    assert_non_null(buffer);
    *buffer = (struct pooled_buffer){.bytes = malloc(size + CANARY), .size = size};
    assert_non_null(buffer->bytes);
    memset(buffer->bytes, CANARY_BYTE, size + CANARY);
    buffers_out++;
    return buffer;
}

void __wrap_buffer_pool_give(struct buffer_pool *pool, struct pooled_buffer *buffer)
{
    (void)pool;
    for (size_t i = 0; i < CANARY; i++)
        assert_int_equal(buffer->bytes[buffer->size + i], CANARY_BYTE);
    free(buffer->bytes);
    free(buffer);
    buffers_out--;
}

/* ---- read-ahead that counts ---- */

static int handles_open;

uint64_t __wrap_readahead_open(struct readahead *readahead, const struct tree_inode *inode, pid_t thread);
void __wrap_readahead_release(struct readahead *readahead, uint64_t handle);

uint64_t __wrap_readahead_open(struct readahead *readahead, const struct tree_inode *inode, pid_t thread)
{
    (void)readahead;
    (void)inode;
    (void)thread;
    handles_open++;
    return HANDLE;
}

void __wrap_readahead_release(struct readahead *readahead, uint64_t handle)
{
    (void)readahead;
    assert_int_equal(handle, HANDLE);
    handles_open--;
}

void __wrap_readahead_note(struct readahead *readahead, uint64_t handle, uint64_t offset, uint64_t length);
void __wrap_readahead_note(struct readahead *readahead, uint64_t handle, uint64_t offset, uint64_t length)
{
    (void)readahead;
    (void)handle;
    assert_true(length > 0 && offset + length <= FILE_SIZE);
}

/* ---- the kernel's side ---- */

static struct {
    unsigned n;
    int refuse; /* an errno that writing the reply gives: the request was interrupted */
    size_t length;
    _Alignas(8) unsigned char bytes[1 << 17];
} reply;

static ssize_t take_reply(int fd, struct iovec *parts, int n_parts, void *data)
{
    (void)fd;
    (void)data;
    reply.n++;
    reply.length = 0;
    for (int i = 0; i < n_parts; i++) {
        assert_true(reply.length + parts[i].iov_len <= sizeof reply.bytes);
        if (parts[i].iov_len > 0)
            memcpy(reply.bytes + reply.length, parts[i].iov_base, parts[i].iov_len);
        reply.length += parts[i].iov_len;
    }
    if (reply.refuse) {
        errno = reply.refuse;
        return -1;
    }
    return (ssize_t)reply.length;
}

static ssize_t give_request(int fd, void *buffer, size_t length, void *data)
{
    (void)fd;
    (void)buffer;
    (void)length;
    (void)data;
    return 0;
}

static const struct fuse_custom_io kernel = {.writev = take_reply, .read = give_request};
static struct fuse_session *session;
static struct operations operations = {.tree = &the_tree, .generation = GENERATION, .timeout = TIMEOUT};
static uint64_t unique;

/* Sends a request and gives the reply's error. Exactly one reply comes, and nothing is kept. */
static int request(uint32_t opcode, uint64_t inode, const void *body, size_t length)
{
    _Alignas(8) unsigned char bytes[1024];
    const struct fuse_in_header header = {.len = (uint32_t)(sizeof header + length),
                                          .opcode = opcode,
                                          .unique = unique + 1,
                                          .nodeid = inode,
                                          .pid = 1};
    const struct fuse_buf buffer = {.mem = bytes, .size = header.len};
    struct fuse_out_header answer;

    assert_true(header.len <= sizeof bytes);
    unique = header.unique;
    memcpy(bytes, &header, sizeof header);
    if (length > 0)
        memcpy(bytes + sizeof header, body, length);
    reply.n = 0;
    fuse_session_process_buf(session, &buffer);
    assert_int_equal(reply.n, 1);
    assert_int_equal(buffers_out, 0);
    memcpy(&answer, reply.bytes, sizeof answer);
    assert_int_equal(answer.unique, unique);
    assert_int_equal(answer.len, reply.length);
    return -answer.error;
}

/* What follows the reply's header. */
static const void *payload(void)
{
    return reply.bytes + sizeof(struct fuse_out_header);
}

static size_t payload_length(void)
{
    return reply.length - sizeof(struct fuse_out_header);
}

static int open_session(void **state)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    const struct fuse_init_in init = {
        .major = FUSE_KERNEL_VERSION, .minor = 31, .max_readahead = 131072, .flags = ~0U};

    (void)state;
    make_tree();
    fuse_opt_add_arg(&args, "test");
    session = fuse_session_new(&args, &operations_table, sizeof operations_table, &operations);
    fuse_opt_free_args(&args);
    if (!session || fuse_session_custom_io(session, &kernel, open("/dev/null", O_RDWR)) != 0)
        return -1;
    return request(FUSE_INIT, 0, &init, sizeof init) == 0 && operations.accepted ? 0 : -1;
}

static int close_session(void **state)
{
    (void)state;
    fuse_session_destroy(session);
    return 0;
}

static int request_open(uint32_t opcode, uint64_t inode, uint32_t flags)
{
    const struct fuse_open_in body = {.flags = flags};

    return request(opcode, inode, &body, sizeof body);
}

static int request_read(uint32_t opcode, uint64_t inode, uint64_t offset, uint32_t size)
{
    const struct fuse_read_in body = {.fh = HANDLE, .offset = offset, .size = size};

    return request(opcode, inode, &body, sizeof body);
}

static int request_lookup(uint64_t inode, const char *name)
{
    return request(FUSE_LOOKUP, inode, name, strlen(name) + 1);
}

/* ---- tests ---- */

static const uint32_t listings[] = {FUSE_READDIR, FUSE_READDIRPLUS};

static void inodes_of_another_mount_are_stale(void **state)
{
    const struct fuse_getattr_in getattr = {0};
    static const uint64_t strangers[] = {0, NOBODYS, UINT64_MAX};

    (void)state;
    for (size_t i = 0; i < LENGTH(strangers); i++) {
        assert_int_equal(request(FUSE_GETATTR, strangers[i], &getattr, sizeof getattr), ESTALE);
        assert_int_equal(request_lookup(strangers[i], "."), ESTALE);
        assert_int_equal(request_open(FUSE_OPEN, strangers[i], O_RDONLY), ESTALE);
        assert_int_equal(request_open(FUSE_OPENDIR, strangers[i], O_RDONLY), ESTALE);
        assert_int_equal(request_read(FUSE_READ, strangers[i], 0, 10), ESTALE);
        for (size_t n = 0; n < LENGTH(listings); n++)
            assert_int_equal(request_read(listings[n], strangers[i], 0, 4096), ESTALE);
    }
}

static void files_are_no_directories_nor_the_other_way_round(void **state)
{
    (void)state;
    assert_int_equal(request_open(FUSE_OPENDIR, FIRST, O_RDONLY), ENOTDIR);
    for (size_t n = 0; n < LENGTH(listings); n++)
        assert_int_equal(request_read(listings[n], FIRST, 0, 4096), ENOTDIR);
    assert_int_equal(request_read(FUSE_READ, ROOT, 0, 10), EISDIR);
}

static void nothing_is_opened_for_writing(void **state)
{
    static const uint32_t flags[] = {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC};

    (void)state;
    for (size_t i = 0; i < LENGTH(flags); i++)
        assert_int_equal(request_open(FUSE_OPEN, FIRST, flags[i]), EROFS);
    assert_int_equal(handles_open, 0);
}

static void an_open_file_is_released_once(void **state)
{
    const struct fuse_release_in release = {.fh = HANDLE};

    (void)state;
    assert_int_equal(request_open(FUSE_OPEN, FIRST, O_RDONLY), 0);
    assert_int_equal(((const struct fuse_open_out *)payload())->fh, HANDLE);
    assert_int_equal(handles_open, 1);
    assert_int_equal(request(FUSE_RELEASE, FIRST, &release, sizeof release), 0);
    assert_int_equal(handles_open, 0);
    reply.refuse = ENOENT; /* the opener was interrupted, and the kernel will not release what it has not */
    request_open(FUSE_OPEN, FIRST, O_RDONLY);
    reply.refuse = 0;
    assert_int_equal(handles_open, 0);
}

static void reads_are_cut_at_the_end_alone(void **state)
{
    static const struct {
        uint64_t offset;
        uint32_t size;
        size_t length;
    } cases[] = {{0, 10, 10},   {990, 10, 10}, {990, 11, 10}, {999, 4096, 1},  {1000, 10, 0},
                 {1001, 10, 0}, {5000, 1, 0},  {0, 0, 0},     {0, 4096, 1000}, {INT64_MAX, 10, 0}};

    (void)state;
    for (size_t i = 0; i < LENGTH(cases); i++) {
        assert_int_equal(request_read(FUSE_READ, FIRST, cases[i].offset, cases[i].size), 0);
        assert_int_equal(payload_length(), cases[i].length);
        for (size_t n = 0; n < cases[i].length; n++)
            assert_int_equal(((const unsigned char *)payload())[n], (unsigned char)(cases[i].offset + n));
    }
    assert_int_equal(request_read(FUSE_READ, FIRST, UINT64_MAX, 10), EINVAL);
    assert_int_equal(request_read(FUSE_READ, BROKEN, 0, 10), EIO);
}

static void without_memory_it_is_enomem(void **state)
{
    (void)state;
    no_buffers = true;
    const int read = request_read(FUSE_READ, FIRST, 0, 10),
              end = request_read(FUSE_READ, FIRST, FILE_SIZE, 10);
    const int plain = request_read(FUSE_READDIR, ROOT, 0, 4096),
              plus = request_read(FUSE_READDIRPLUS, ROOT, 0, 4096);
    no_buffers = false;
    assert_int_equal(read, ENOMEM);
    assert_int_equal(plain, ENOMEM);
    assert_int_equal(plus, ENOMEM);
    assert_int_equal(end, 0); /* needs none */
}

static void check_entry(const struct fuse_entry_out *entry, uint64_t inode)
{
    assert_int_equal(entry->nodeid, inode);
    assert_int_equal(entry->generation, inode == ROOT || inode == 0 ? 0 : GENERATION);
    assert_int_equal(entry->entry_valid, TIMEOUT);
    if (inode != 0) {
        assert_int_equal(entry->attr_valid, TIMEOUT);
        assert_int_equal(entry->attr.ino, inode);
    }
}

static void lookups(void **state)
{
    char name[300];

    (void)state;
    assert_int_equal(request_lookup(ROOT, names[FIRST]), 0);
    check_entry(payload(), FIRST);
    assert_int_equal(request_lookup(FIRST, "."), 0);
    check_entry(payload(), FIRST);
    assert_int_equal(request_lookup(DEEP, ".."), 0);
    check_entry(payload(), ROOT);
    assert_int_equal(request_lookup(ROOT, "absent"), 0);
    check_entry(payload(), 0);
    memset(name, 'x', sizeof name);
    name[255] = '\0';
    assert_int_equal(request_lookup(ROOT, name), 0);
    check_entry(payload(), 0);
    name[255] = 'x';
    name[256] = '\0';
    assert_int_equal(request_lookup(ROOT, name), ENAMETOOLONG);
}

/* Lists the root in replies of at most `size` bytes: every name once, in order. */
static void list_in(uint32_t opcode, uint32_t size)
{
    const bool plus = opcode == FUSE_READDIRPLUS;
    uint64_t offset = 0, n = 0;

    for (;;) {
        assert_int_equal(request_read(opcode, ROOT, offset, size), 0);
        assert_true(payload_length() <= size);
        if (payload_length() == 0)
            break;
        for (size_t at = 0; at < payload_length(); n++) {
            const unsigned char *bytes = (const unsigned char *)payload() + at;
            const struct fuse_entry_out *entry = (const struct fuse_entry_out *)bytes;
            const struct fuse_dirent *found =
                (const struct fuse_dirent *)(plus ? (const void *)(entry + 1) : bytes);
            const char *name = n == 0 ? "." : n == 1 ? ".." : names[n];
            assert_int_equal(found->namelen, strlen(name));
            assert_memory_equal(found->name, name, found->namelen);
            assert_int_equal(found->off, n + 1);
            if (plus && n >= 2)
                check_entry(entry, n);
            else if (plus)
                assert_int_equal(entry->nodeid, 0);
            offset = found->off;
            at +=
                plus ? FUSE_DIRENTPLUS_SIZE((const struct fuse_direntplus *)entry) : FUSE_DIRENT_SIZE(found);
        }
    }
    assert_int_equal(n, BROKEN + 1);
}

static void listings_of_any_size(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(listings); i++) {
        /* from one that has room for the longest entry and no more */
        const uint32_t least =
            FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + (uint32_t)strlen(names[8])) +
            (listings[i] == FUSE_READDIRPLUS ? (uint32_t)sizeof(struct fuse_entry_out) : 0);
        for (uint32_t size = least; size < least + 300; size++)
            list_in(listings[i], size);
        list_in(listings[i], 65536);
        assert_int_equal(request_read(listings[i], ROOT, 0, 0), 0);
        assert_int_equal(payload_length(), 0);
        assert_int_equal(request_read(listings[i], ROOT, 0, 20), 0); /* no entry has room */
        assert_int_equal(payload_length(), 0);
        assert_int_equal(request_read(listings[i], ROOT, UINT64_MAX, 4096), 0);
        assert_int_equal(payload_length(), 0);
    }
}

static void attributes_and_numbers(void **state)
{
    const struct fuse_getattr_in getattr = {0};

    (void)state;
    assert_int_equal(request(FUSE_GETATTR, FIRST, &getattr, sizeof getattr), 0);
    const struct fuse_attr_out *attributes = payload();
    assert_int_equal(attributes->attr.size, FILE_SIZE);
    assert_int_equal(attributes->attr_valid, TIMEOUT);
    assert_int_equal(request(FUSE_STATFS, ROOT, NULL, 0), 0);
    const struct fuse_statfs_out *numbers = payload();
    assert_int_equal(numbers->st.files, BROKEN);
    assert_int_equal(numbers->st.blocks, (N_FILES * FILE_SIZE + 4095) / 4096);
    assert_int_equal(numbers->st.frsize, 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inodes_of_another_mount_are_stale),
        cmocka_unit_test(files_are_no_directories_nor_the_other_way_round),
        cmocka_unit_test(nothing_is_opened_for_writing),
        cmocka_unit_test(an_open_file_is_released_once),
        cmocka_unit_test(reads_are_cut_at_the_end_alone),
        cmocka_unit_test(without_memory_it_is_enomem),
        cmocka_unit_test(lookups),
        cmocka_unit_test(listings_of_any_size),
        cmocka_unit_test(attributes_and_numbers),
    };

    return cmocka_run_group_tests(tests, open_session, close_session);
}
