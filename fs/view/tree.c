/* Building the tree of inodes, finding them, and reading any of them. */
#include "tree.h"

#include "fs/base/log.h"

#include <inttypes.h>
#include <string.h>

static unsigned path_depth(const char *path)
{
    unsigned depth = *path != '\0';

    for (; *path; path++)
        depth += *path == '/';
    return depth;
}

/* Paths of one depth that share a parent share a prefix up to the last slash, so sorting by bytes makes
 * siblings neighbours, sorted by name. */
static int compare_inodes(const void *a, const void *b)
{
    const struct tree_inode *x = a, *y = b;
    unsigned x_depth = path_depth(x->path), y_depth = path_depth(y->path);

    if (x_depth != y_depth)
        return x_depth < y_depth ? -1 : 1;
    return strcmp(x->path, y->path);
}

static void set_size(struct stat *stat, uint64_t size)
{
    stat->st_size = (off_t)size;
    stat->st_blocks = (blkcnt_t)(size / 512 + (size % 512 != 0));
    stat->st_blksize = TREE_BLOCK_SIZE;
}

/* Modes are the source's, with the owner's right to write: the mount refuses writers whatever they say, but a
 * recursive copy takes them over, and its owner must be able to change and remove it. */
#define FILE_MODES 0644
#define DIRECTORY_MODES 0555
#define DIRECTORY_WRITE 0200

/* What everything computed from the shards has in common. Whoever reads a virtual file may see bytes of any
 * shard, so it grants only what every shard grants to everyone in the class; where owners differ, what it
 * grants to others. */
static struct stat virtual_stat(const struct directory *directory)
{
    struct stat stat = {.st_nlink = 1, .st_uid = directory->top.uid, .st_gid = directory->top.gid};
    mode_t mode = FILE_MODES;

    for (uint32_t i = 0; i < directory->checkpoint.n_shards; i++) {
        const struct source_info *shard = &directory->source->files[i];
        if (i == 0) {
            stat.st_uid = shard->uid;
            stat.st_gid = shard->gid;
            stat.st_mtim = shard->mtime;
        }
        mode_t others = shard->mode & 0004;
        mode &= shard->mode;
        if (shard->uid != stat.st_uid)
            mode &= ~(mode_t)0600 | others << 6;
        if (shard->gid != stat.st_gid)
            mode &= ~(mode_t)0040 | others << 3;
        if (shard->mtime.tv_sec > stat.st_mtim.tv_sec ||
            (shard->mtime.tv_sec == stat.st_mtim.tv_sec && shard->mtime.tv_nsec > stat.st_mtim.tv_nsec))
            stat.st_mtim = shard->mtime;
    }
    stat.st_mode = S_IFREG | mode;
    stat.st_atim = stat.st_mtim;
    stat.st_ctim = stat.st_mtim;
    return stat;
}

static struct stat passed_stat(const struct source_info *info, bool is_directory)
{
    struct stat stat = {.st_uid = info->uid,
                        .st_gid = info->gid,
                        .st_mtim = info->mtime,
                        .st_atim = info->mtime,
                        .st_ctim = info->mtime};

    if (is_directory) {
        stat.st_mode = S_IFDIR | (info->mode & DIRECTORY_MODES) | DIRECTORY_WRITE;
        stat.st_nlink = 2;
        set_size(&stat, 4096);
    } else {
        stat.st_mode = S_IFREG | (info->mode & FILE_MODES);
        stat.st_nlink = 1;
        set_size(&stat, info->size);
    }
    return stat;
}

/* Whether a planned file takes the place of the one that would pass through. */
static bool is_replaced(const struct plan *plan, const char *path)
{
    for (uint32_t i = 0; i < plan->n_files; i++)
        if (plan->files[i].replaces && strcmp(plan->files[i].name, path) == 0)
            return true;
    return false;
}

static const char *path_in_view(struct tree *tree, const struct view *view, const char *path)
{
    cleanup_free char *joined = view->name ? xasprintf("%s/%s", view->name, path) : NULL;

    return joined ? arena_strdup(&tree->arena, joined) : path;
}

/* Adds the view's inodes behind those that the tree has. */
static void fill_view(struct tree *tree, const struct view *view)
{
    const struct directory *directory = view->directory;
    const struct plan *plan = &view->plan;
    const struct stat common = virtual_stat(directory);
    struct tree_inode *inode = tree->inodes + tree->n_inodes;

    if (view->name)
        *inode++ = (struct tree_inode){.path = view->name,
                                       .view = view,
                                       .kind = TREE_DIRECTORY,
                                       .stat = passed_stat(&directory->top, true)};
    for (uint32_t i = 0; i < plan->n_files; i++, inode++) {
        *inode = (struct tree_inode){.path = path_in_view(tree, view, plan->files[i].name),
                                     .view = view,
                                     .kind = TREE_PLANNED,
                                     .file = i,
                                     .stat = common};
        set_size(&inode->stat, plan->files[i].size);
    }
    for (uint32_t i = 0; i < directory->n_entries; i++) {
        const struct directory_entry *entry = &directory->entries[i];
        if (!entry->is_directory && is_replaced(plan, entry->info.path))
            continue;
        *inode++ = (struct tree_inode){.path = path_in_view(tree, view, entry->info.path),
                                       .view = view,
                                       .kind = entry->is_directory ? TREE_DIRECTORY : TREE_PASSED,
                                       .file = entry->file,
                                       .stat = passed_stat(&entry->info, entry->is_directory)};
    }
    tree->n_inodes = (uint32_t)(inode - tree->inodes);
}

/* The directory among the first n inodes (sorted) whose path is the first `length` bytes of path. */
static struct tree_inode *find_parent(struct tree *tree, uint32_t n, const char *path, size_t length)
{
    uint32_t low = 0, high = n;
    unsigned depth = path_depth(path) - 1;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct tree_inode *inode = &tree->inodes[middle];
        unsigned inode_depth = path_depth(inode->path);
        int order = inode_depth < depth ? -1 : inode_depth > depth;
        if (order == 0)
            order = strncmp(inode->path, path, length);
        if (order == 0 && inode->path[length] != '\0')
            order = 1;
        if (order == 0)
            return inode->kind == TREE_DIRECTORY ? inode : NULL;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static int link_inode(struct tree *tree, uint32_t i, struct error *err)
{
    struct tree_inode *inode = &tree->inodes[i];
    const char *slash = strrchr(inode->path, '/');
    size_t parent_length = slash ? (size_t)(slash - inode->path) : 0;

    if (strcmp(inode->path, inode[-1].path) == 0)
        return error_set(err,
                         "%s: the converted checkpoint has a file of this name, and so has the source "
                         "directory beside its weights; --exclude '%s' hides the latter",
                         inode->path, inode->path);
    struct tree_inode *parent = find_parent(tree, i, inode->path, parent_length);
    if (!parent)
        return error_set(err, "%s: its directory is not among those that are shown", inode->path);
    inode->name = slash ? slash + 1 : inode->path;
    inode->parent = (uint32_t)(parent - tree->inodes) + 1;
    inode->stat.st_ino = i + 1;
    if (parent->n_children++ == 0)
        parent->first_child = i + 1;
    if (inode->kind == TREE_DIRECTORY)
        parent->stat.st_nlink++;
    else
        tree->total_size += (uint64_t)inode->stat.st_size;
    return 0;
}

int tree_build(const struct view *views, unsigned n_views, struct tree *tree, struct error *err)
{
    uint64_t most = 1;

    for (unsigned v = 0; v < n_views; v++)
        most += 1 + (uint64_t)views[v].plan.n_files + views[v].directory->n_entries;
    *tree = (struct tree){.inodes = xcalloc(most, sizeof *tree->inodes), .n_inodes = 1};
    tree->inodes[0] = (struct tree_inode){
        .path = "", .view = views, .kind = TREE_DIRECTORY, .stat = passed_stat(&views->directory->top, true)};
    for (unsigned v = 0; v < n_views; v++)
        fill_view(tree, &views[v]);
    qsort(tree->inodes, tree->n_inodes, sizeof *tree->inodes, compare_inodes);

    struct tree_inode *root = &tree->inodes[0];
    root->name = root->path;
    root->parent = TREE_ROOT;
    root->stat.st_ino = TREE_ROOT;
    for (uint32_t i = 1; i < tree->n_inodes; i++) {
        if (link_inode(tree, i, err) < 0) {
            tree_free(tree);
            return -1;
        }
    }
    return 0;
}

void tree_free(struct tree *tree)
{
    free(tree->inodes);
    arena_free(&tree->arena);
    *tree = (struct tree){0};
}

const struct tree_inode *tree_get(const struct tree *tree, uint64_t number)
{
    return number >= TREE_ROOT && number <= tree->n_inodes ? &tree->inodes[number - 1] : NULL;
}

const struct tree_inode *tree_lookup(const struct tree *tree, const struct tree_inode *directory,
                                     const char *name)
{
    if (strcmp(name, ".") == 0)
        return directory;
    if (strcmp(name, "..") == 0)
        return tree_get(tree, directory->parent);

    uint32_t low = directory->first_child, high = low + directory->n_children;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct tree_inode *inode = &tree->inodes[middle - 1];
        int order = strcmp(inode->name, name);
        if (order == 0)
            return inode;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

bool tree_source_file(const struct tree_inode *inode, uint32_t *file)
{
    *file = inode->file;
    if (inode->kind == TREE_PLANNED)
        *file = inode->view->plan.files[inode->file].verbatim_shard;
    return inode->kind == TREE_PASSED || (inode->kind == TREE_PLANNED && *file != PLAN_NO_SHARD);
}

int tree_read(const struct tree_inode *inode, uint64_t offset, size_t length, void *buffer,
              struct reader_loan *loan)
{
    if (inode->kind == TREE_PLANNED)
        return reader_lend(inode->view->reader, inode->file, offset, length, buffer, loan);
    *loan = (struct reader_loan){.bytes = buffer, .length = length};
    int error = source_pread(inode->view->directory->source, inode->file, offset, buffer, length);
    if (error)
        log_failed_read("%s: reading %zu bytes at %" PRIu64 ": %s", inode->path, length, offset,
                        strerror(error));
    return error;
}
