/* The data plane: answers requests about directories that lie in one lower alone.
 *
 * Python grants a directory here once it knows that one plain directory of a lower is all that
 * shows in it. Names below it are then found, listed and read here, also in its subdirectories.
 * What a mark, a hard link or anything unusual may change is left to Python, as are all changes.
 * Nothing here writes to a layer, or opens a file of one for writing.
 *
 * A node is Python's or ours. One of ours crosses to Python, once, when a request is left to
 * Python that names it, or when Python looks its name up (fetch): Python looks it up in turn, gets
 * the same nodeid (claim), and takes over its lookups and its open files. A nodeid that Python does
 * not find again (the lower has changed) is dead: ESTALE.
 *
 * All of it runs in the thread that runs Python, while that waits for a request (run). So nothing
 * is locked, and nothing changes under Python's feet.
 */
#include "plane.h"

#include "native.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES ((1 << 20) + (1 << 13)) /* more than the longest request, a WRITE of 1 MiB */
#define INODE_LIMIT (1ULL << 48)            /* overlay/numbering.py */
#define OUR_HANDLE (1ULL << 61)             /* no handle of Python's has it */
#define FIRST_GENERATION 2                  /* 1 is NAME_ONLY */
#define UNKNOWN_INODE 0xffffffff            /* as libfuse's own FUSE_UNKNOWN_INO */
#define AUFS_PREFIX ".wh."
#define PROMPT_NS 40000LL  /* a request that follows within this time is awaited without sleep */
#define TURN_NS 10000000LL /* after this time others of Python's tasks run */

enum {
    MOST_NAMES = 255,
    LISTING_BYTES = 1 << 15,
    MOST_EMITTED = 1 << 13, /* entries of one READDIRPLUS */
    WIDE = 256,             /* entries; most programs use only the names of such directories */
    OPCODES = 64,
    MOST_SKIPPED = 100,
};

enum owner { PYTHON, OURS, CROSSING, DEAD };

struct node {
    struct node *next_id, *next_name; /* in their buckets */
    struct node *above;               /* the directory it was found in; NULL of Python's */
    uint64_t id, lookups, above_id;
    uint32_t generation, children, handles;
    enum owner owner;
    mode_t kind;
    /* Of a directory: */
    int fd; /* O_PATH; -1 */
    bool granted, withheld, used;
    bool lists_inodes, below_lists; /* d_ino is st_ino here; in all directories below */
    bool reading, wide;
    uint64_t position; /* where the last READDIRPLUS ended, */
    off_t place;       /* and for lseek(2) */
    dev_t device;
    uint64_t base;
    char name[];
};

struct handle {
    int fd;          /* -1: closed, or Python's */
    uint64_t python; /* of Python, unless 0 */
    struct node *node;
    bool used;
};

static struct {
    bool ended;
    int device;
    char *block; /* of the request that is read */
    size_t pending;
    char *reply;
    struct node **ids, **names; /* buckets; their number is a power of 2 */
    size_t buckets, count;
    struct handle *handles;
    size_t handle_count, files, directories, most_files, most_directories, hand;
    uint32_t generation;
    uint64_t seconds;
    uint32_t nanoseconds;
    uint32_t unmapped_uid, unmapped_gid;
    bool static_nlink, xattr, acl, may_spin, spins;
    unsigned vain, skipped; /* waits without sleep */
    struct node **crossing;
    size_t crossing_count, crossing_room;
    uint64_t *forgotten;
    size_t forgotten_count, forgotten_room;
    uint64_t answered[OPCODES];
} plane;

/* ---- nodes ------------------------------------------------------------------------------------
 */

static void *
grown(void *memory, size_t size)
{
    void *result = realloc(memory, size);
    if (result == NULL)
        abort(); /* no request could be answered any more */
    return result;
}

static size_t
id_bucket(uint64_t id)
{
    return (size_t)((id * 0x9E3779B97F4A7C15ULL) >> 20) & (plane.buckets - 1);
}

static size_t
name_bucket(const struct node *above, const char *name)
{
    uint64_t hash = (uintptr_t)above * 0x9E3779B97F4A7C15ULL;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001B3ULL;
    return (size_t)(hash >> 20) & (plane.buckets - 1);
}

static struct node *
find(uint64_t id)
{
    struct node *node = plane.buckets ? plane.ids[id_bucket(id)] : NULL;
    while (node && node->id != id)
        node = node->next_id;
    return node;
}

static struct node *
child(const struct node *above, const char *name)
{
    struct node *node = plane.names[name_bucket(above, name)];
    while (node && (node->above != above || strcmp(node->name, name) != 0))
        node = node->next_name;
    return node;
}

static void
insert(struct node *node)
{
    size_t by_id = id_bucket(node->id);
    node->next_id = plane.ids[by_id];
    plane.ids[by_id] = node;
    if (*node->name) {
        size_t by_name = name_bucket(node->above, node->name);
        node->next_name = plane.names[by_name];
        plane.names[by_name] = node;
    }
}

static void
grow_table(void)
{
    struct node **before = plane.ids;
    size_t buckets = plane.buckets;
    plane.buckets = buckets ? 2 * buckets : 1 << 10;
    free(plane.names);
    plane.ids = grown(NULL, plane.buckets * sizeof *plane.ids);
    plane.names = grown(NULL, plane.buckets * sizeof *plane.names);
    memset(plane.ids, 0, plane.buckets * sizeof *plane.ids);
    memset(plane.names, 0, plane.buckets * sizeof *plane.names);
    for (size_t at = 0; at < buckets; at++)
        for (struct node *node = before[at], *next; node; node = next) {
            next = node->next_id;
            insert(node);
        }
    free(before);
}

/* A new node. Requires: there is none with this nodeid. */
static struct node *
add(uint64_t id, struct node *above, const char *name, enum owner owner)
{
    size_t length = strlen(name) + 1;
    struct node *node = grown(NULL, sizeof *node + length);
    if (plane.count >= plane.buckets)
        grow_table();
    memset(node, 0, sizeof *node);
    memcpy(node->name, name, length);
    node->id = id;
    node->above = above;
    node->above_id = above ? above->id : 0;
    node->owner = owner;
    node->fd = -1;
    node->generation = FIRST_GENERATION + plane.generation++ % (UINT32_MAX - FIRST_GENERATION);
    if (above)
        above->children++;
    plane.count++;
    insert(node);
    return node;
}

/* Take a node's name away: nothing finds it by its name any more. */
static void
drop_name(struct node *node)
{
    struct node **link = *node->name ? &plane.names[name_bucket(node->above, node->name)] : NULL;
    while (link && *link != node)
        link = &(*link)->next_name;
    if (link)
        *link = node->next_name;
    *node->name = '\0';
}

static void
close_directory(struct node *node)
{
    if (node->fd >= 0) {
        close(node->fd);
        plane.directories--;
    }
    node->fd = -1;
    node->granted = false;
}

static void
forget_later(uint64_t id)
{
    if (plane.forgotten_count == plane.forgotten_room) {
        plane.forgotten_room = 2 * plane.forgotten_room + 16;
        plane.forgotten = grown(plane.forgotten, plane.forgotten_room * sizeof *plane.forgotten);
    }
    plane.forgotten[plane.forgotten_count++] = id;
}

/* Drop the node if nothing uses it any more, and the directories above that only it kept. */
static void
settle(struct node *node)
{
    while (node && !node->children) {
        struct node *above = node->above;
        if (node->owner == PYTHON && node->withheld) {
            node->withheld = false;
            forget_later(node->id);
        }
        if (node->owner == PYTHON || node->owner == CROSSING || node->lookups || node->handles)
            return;
        struct node **link = &plane.ids[id_bucket(node->id)];
        while (*link != node)
            link = &(*link)->next_id;
        *link = node->next_id;
        drop_name(node);
        close_directory(node);
        free(node);
        plane.count--;
        if (above)
            above->children--;
        node = above;
    }
}

/* Let the node, and those above it, cross to Python, which takes them from the list `crossing`. */
static void
cross(struct node *node)
{
    if (node->owner != OURS)
        return;
    cross(node->above);
    node->owner = CROSSING;
    if (plane.crossing_count == plane.crossing_room) {
        plane.crossing_room = 2 * plane.crossing_room + 16;
        plane.crossing = grown(plane.crossing, plane.crossing_room * sizeof *plane.crossing);
    }
    plane.crossing[plane.crossing_count++] = node;
}

/* ---- directories ------------------------------------------------------------------------------
 */

static bool
is_marker(const char *name)
{
    return strncmp(name, "trusted.overlay.", 16) == 0 || strncmp(name, "user.overlay.", 13) == 0 ||
           strncmp(name, "user.fuseoverlayfs.", 19) == 0;
}

/* Whether the directory may have a mark of an overlay. */
static bool
is_marked(int fd)
{
    char path[64], names[4096];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t size = listxattr(path, names, sizeof names);
    if (size < 0)
        return errno != EOPNOTSUPP;
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1)
        if (is_marker(names + at))
            return true;
    return false;
}

/* Whether names in the directory can be reached: `fd` is open then. */
static bool
reach(struct node *node)
{
    struct stat st;
    node->used = true;
    if (node->fd >= 0)
        return true;
    if (node->owner != OURS || !S_ISDIR(node->kind) || !reach(node->above))
        return false;
    struct node *above = node->above;
    int fd = openat(above->fd, node->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    if (fstat(fd, &st) < 0 || st.st_dev != above->device || (above->base | st.st_ino) != node->id ||
        is_marked(fd)) {
        close(fd);
        return false;
    }
    node->fd = fd;
    node->device = above->device;
    node->base = above->base;
    node->lists_inodes = node->below_lists = above->below_lists;
    plane.directories++;
    return true;
}

/* Whether requests about what is in the directory are answered here. */
static bool
serves(struct node *node)
{
    return node && S_ISDIR(node->kind) && (node->owner == OURS || node->granted) && reach(node);
}

/* Close directories that were not used lately, first those that open again by themselves. */
static void
evict(void)
{
    for (size_t passed = 0; plane.directories > plane.most_directories; passed++) {
        bool all = passed >= 2 * plane.buckets;
        if (passed >= 4 * plane.buckets)
            return;
        plane.hand = (plane.hand + 1) & (plane.buckets - 1);
        for (struct node *node = plane.ids[plane.hand]; node; node = node->next_id)
            if (node->fd >= 0 && (all || node->owner == OURS)) {
                if (!node->used)
                    close_directory(node);
                node->used = false;
            }
    }
}

/* ---- replies ----------------------------------------------------------------------------------
 */

/* Returns false if the kernel did not take it: the request was interrupted, or the mount is gone.
 */
static bool
reply(uint64_t unique, int error, const void *data, size_t size)
{
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof header + size), .error = -error, .unique = unique};
    struct iovec parts[] = {{&header, sizeof header}, {(void *)(uintptr_t)data, size}};
    return writev(plane.device, parts, size ? 2 : 1) >= 0;
}

static void
fill_attributes(struct fuse_attr *to, uint64_t id, const struct stat *st)
{
    bool one = plane.static_nlink && S_ISDIR(st->st_mode);
    *to = (struct fuse_attr){
        .ino = id,
        .size = (uint64_t)st->st_size,
        .blocks = (uint64_t)st->st_blocks,
        .atime = (uint64_t)st->st_atim.tv_sec,
        .mtime = (uint64_t)st->st_mtim.tv_sec,
        .ctime = (uint64_t)st->st_ctim.tv_sec,
        .atimensec = (uint32_t)st->st_atim.tv_nsec,
        .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
        .ctimensec = (uint32_t)st->st_ctim.tv_nsec,
        .mode = st->st_mode,
        .nlink = one ? 1 : (uint32_t)st->st_nlink,
        .uid = st->st_uid == plane.unmapped_uid ? 0 : st->st_uid,
        .gid = st->st_gid == plane.unmapped_gid ? 0 : st->st_gid,
        .blksize = (uint32_t)st->st_blksize,
    };
}

static void
fill_entry(struct fuse_entry_out *to, const struct node *node, const struct stat *st)
{
    *to = (struct fuse_entry_out){
        .nodeid = node->id,
        .generation = node->generation,
        .entry_valid = plane.seconds,
        .entry_valid_nsec = plane.nanoseconds,
        .attr_valid = plane.seconds,
        .attr_valid_nsec = plane.nanoseconds,
    };
    fill_attributes(&to->attr, node->id, st);
}

/* ---- names ------------------------------------------------------------------------------------
 */

/* The node of an entry whose attributes are `st`, one of ours; NULL if Python has to say. */
static struct node *
node_of(struct node *above, const char *name, const struct stat *st)
{
    uint64_t id = above->base | st->st_ino;
    if (st->st_dev != above->device || st->st_ino >= INODE_LIMIT || id <= FUSE_ROOT_ID ||
        !(S_ISDIR(st->st_mode) ||
          ((S_ISREG(st->st_mode) || S_ISLNK(st->st_mode)) && st->st_nlink == 1)))
        return NULL;
    /* It may be a metacopy (overlay/lookup.py). */
    if (S_ISREG(st->st_mode) && st->st_blocks * 512 < st->st_size)
        return NULL;
    struct node *node = find(id);
    if (node)
        return node->owner == OURS && node->above == above && strcmp(node->name, name) == 0 &&
                       node->kind == (st->st_mode & S_IFMT)
                   ? node
                   : NULL;
    node = child(above, name);
    if (node) {
        /* The lower has changed: another inode is under this name. */
        if (node->owner == PYTHON || node->owner == CROSSING)
            return NULL;
        drop_name(node);
        node->owner = DEAD;
        settle(node);
    }
    node = add(id, above, name, OURS);
    node->kind = st->st_mode & S_IFMT;
    return node;
}

static bool
answer_lookup(const struct fuse_in_header *header, struct node *above, const char *name)
{
    struct fuse_entry_out entry = {.entry_valid = plane.seconds,
                                   .entry_valid_nsec = plane.nanoseconds};
    struct stat st;
    if (strncmp(name, AUFS_PREFIX, sizeof AUFS_PREFIX - 1) == 0 || strchr(name, '/') ||
        strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return false;
    if (fstatat(above->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT && !child(above, name) &&
               (reply(header->unique, 0, &entry, sizeof entry), true);
    struct node *node = node_of(above, name, &st);
    if (!node)
        return false;
    fill_entry(&entry, node, &st);
    if (reply(header->unique, 0, &entry, sizeof entry))
        node->lookups++;
    else
        settle(node);
    return true;
}

/* The attributes of a node of ours, or of a granted directory. Returns false if Python has to say.
 */
static bool
attributes(struct node *node, struct stat *st)
{
    if (S_ISDIR(node->kind))
        return serves(node) && fstat(node->fd, st) == 0;
    if (node->owner != DEAD && reach(node->above) &&
        fstatat(node->above->fd, node->name, st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st->st_dev == node->above->device && (node->above->base | st->st_ino) == node->id)
        return true;
    /* The lower has changed. */
    for (size_t at = 0; at < plane.handle_count && node->handles; at++)
        if (plane.handles[at].node == node)
            return fstat(plane.handles[at].fd, st) == 0;
    return false;
}

static bool
answer_getattr(const struct fuse_in_header *header, struct node *node)
{
    struct fuse_attr_out out = {.attr_valid = plane.seconds, .attr_valid_nsec = plane.nanoseconds};
    struct stat st;
    if (!attributes(node, &st))
        return false;
    fill_attributes(&out.attr, node->id, &st);
    reply(header->unique, 0, &out, sizeof out);
    return true;
}

static bool
answer_readlink(const struct fuse_in_header *header, struct node *node)
{
    if (!S_ISLNK(node->kind) || !reach(node->above))
        return false;
    ssize_t size = readlinkat(node->above->fd, node->name, plane.reply, 4096);
    if (size < 0)
        return false;
    reply(header->unique, 0, plane.reply, (size_t)size);
    return true;
}

/* ---- extended attributes ----------------------------------------------------------------------
 */

/* The path of a node for a system call that follows no last symbolic link, unless it is a
 * directory's. Returns false if it cannot be reached. */
static bool
path_of(struct node *node, char *path, size_t size)
{
    bool is_directory = S_ISDIR(node->kind);
    if (is_directory ? !serves(node) : !reach(node->above))
        return false;
    if (is_directory)
        (void)snprintf(path, size, "/proc/self/fd/%d", node->fd);
    else
        (void)snprintf(path, size, "/proc/self/fd/%d/%s", node->above->fd, node->name);
    return true;
}

static bool
is_acl(const char *name)
{
    return strncmp(name, "system.posix_acl_", 17) == 0;
}

static bool
answer_xattr(const struct fuse_in_header *header, uint32_t room, ssize_t size)
{
    if (room == 0) {
        struct fuse_getxattr_out out = {.size = (uint32_t)size};
        reply(header->unique, 0, &out, sizeof out);
    } else if ((size_t)size > room)
        reply(header->unique, ERANGE, NULL, 0);
    else
        reply(header->unique, 0, plane.reply, (size_t)size);
    return true;
}

static bool
answer_getxattr(const struct fuse_in_header *header, struct node *node, uint32_t room,
                const char *name)
{
    char path[64 + MOST_NAMES];
    if (!plane.xattr || is_marker(name) || (is_acl(name) && !plane.acl) ||
        !path_of(node, path, sizeof path))
        return false;
    ssize_t size = S_ISDIR(node->kind) ? getxattr(path, name, plane.reply, XATTR_SIZE_MAX)
                                       : lgetxattr(path, name, plane.reply, XATTR_SIZE_MAX);
    if (size < 0 && (errno == ENODATA || (errno == EOPNOTSUPP && is_acl(name)))) {
        reply(header->unique, ENODATA, NULL, 0);
        return true;
    }
    return size >= 0 && !is_acl(name) && answer_xattr(header, room, size);
}

static bool
answer_listxattr(const struct fuse_in_header *header, struct node *node, uint32_t room)
{
    char path[64 + MOST_NAMES];
    if (!plane.xattr || !path_of(node, path, sizeof path))
        return false;
    ssize_t size = S_ISDIR(node->kind) ? listxattr(path, plane.reply, XATTR_LIST_MAX)
                                       : llistxattr(path, plane.reply, XATTR_LIST_MAX);
    if (size < 0 && errno == EOPNOTSUPP)
        size = 0;
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(plane.reply + at) + 1)
        if (is_acl(plane.reply + at) || is_marker(plane.reply + at) ||
            strncmp(plane.reply + at, "trusted.", 8) == 0)
            return false;
    return size >= 0 && answer_xattr(header, room, size);
}

/* ---- files ------------------------------------------------------------------------------------
 */

static struct handle *
handle_of(uint64_t number)
{
    size_t at = (size_t)(number & ~OUR_HANDLE);
    return number & OUR_HANDLE && at < plane.handle_count && plane.handles[at].used
               ? &plane.handles[at]
               : NULL;
}

static size_t
free_handle(void)
{
    static size_t after;
    for (size_t tried = 0; tried < plane.handle_count; tried++) {
        after = (after + 1) % plane.handle_count;
        if (!plane.handles[after].used)
            return after;
    }
    size_t at = plane.handle_count;
    plane.handle_count = 2 * at + 64;
    plane.handles = grown(plane.handles, plane.handle_count * sizeof *plane.handles);
    memset(plane.handles + at, 0, (plane.handle_count - at) * sizeof *plane.handles);
    return after = at;
}

static void
close_handle(struct handle *handle)
{
    if (handle->fd >= 0) {
        close(handle->fd);
        plane.files--;
    }
    handle->fd = -1;
    if (handle->node) {
        handle->node->handles--;
        settle(handle->node);
    }
    handle->node = NULL;
}

static bool
answer_open(const struct fuse_in_header *header, struct node *node, uint32_t flags)
{
    struct stat st;
    int reading = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    if ((flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC || !S_ISREG(node->kind) ||
        plane.files >= plane.most_files || !reach(node->above))
        return false;
    int fd = openat(node->above->fd, node->name, reading | O_NOATIME);
    if (fd < 0 && errno == EPERM)
        fd = openat(node->above->fd, node->name, reading);
    if (fd < 0)
        return false;
    if (fstat(fd, &st) < 0 || st.st_dev != node->above->device ||
        (node->above->base | st.st_ino) != node->id) {
        close(fd);
        return false;
    }
    size_t at = free_handle();
    plane.handles[at] = (struct handle){.fd = fd, .node = node, .used = true};
    plane.files++;
    node->handles++;
    struct fuse_open_out out = {.fh = OUR_HANDLE | at, .open_flags = FOPEN_KEEP_CACHE};
    if (!reply(header->unique, 0, &out, sizeof out)) {
        close_handle(&plane.handles[at]);
        plane.handles[at].used = false;
    }
    return true;
}

static void
answer_read(const struct fuse_in_header *header, const struct handle *handle, uint64_t offset,
            uint32_t size)
{
    ssize_t count = -1;
    errno = EIO;
    if (handle->fd >= 0)
        count =
            pread(handle->fd, plane.reply, size < BLOCK_BYTES ? size : BLOCK_BYTES, (off_t)offset);
    if (count < 0)
        reply(header->unique, errno, NULL, 0);
    else
        reply(header->unique, 0, plane.reply, (size_t)count);
}

/* ---- listings ---------------------------------------------------------------------------------
 */

struct entry { /* struct linux_dirent64 of getdents64(2) */
    uint64_t inode;
    int64_t next;
    unsigned short size;
    unsigned char type;
    char name[];
};

struct listing {
    struct node *directory;
    size_t used, room;
    bool names_only;
    size_t count;
    struct node *emitted[MOST_EMITTED]; /* whose lookups count once the kernel has the reply */
};

/* Add an entry to the reply. Returns false if there is no room. `inode`: of the name. */
static bool
emit(struct listing *listing, const char *name, uint64_t inode, unsigned type, uint64_t position,
     struct node *node, const struct stat *st)
{
    size_t length = strlen(name);
    size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + length);
    if (size > listing->room - listing->used || listing->count == MOST_EMITTED)
        return false;
    struct fuse_direntplus *out = (void *)(plane.reply + listing->used);
    memset(out, 0, size);
    if (node) {
        fill_entry(&out->entry_out, node, st);
        listing->emitted[listing->count++] = node;
    }
    out->dirent.ino = inode ? inode : UNKNOWN_INODE;
    out->dirent.off = position;
    out->dirent.namelen = (uint32_t)length;
    out->dirent.type = type;
    memcpy(out->dirent.name, name, length);
    listing->used += size;
    return true;
}

/* Add an entry of the layer's directory. Returns false if there is no room. */
static bool
emit_entry(struct listing *listing, const struct entry *entry, const struct stat *known,
           uint64_t position)
{
    struct node *above = listing->directory, *node = NULL;
    uint64_t inode = entry->inode < INODE_LIMIT ? above->base | entry->inode : 0;
    unsigned type = entry->type;
    struct stat st;
    if (listing->names_only && type == DT_REG && above->lists_inodes)
        return emit(listing, entry->name, inode, type, position, NULL, NULL);
    if (known)
        st = *known;
    if (known || fstatat(above->fd, entry->name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        bool fits = st.st_dev == above->device && st.st_ino < INODE_LIMIT;
        inode = fits ? above->base | st.st_ino : 0;
        type = (st.st_mode & S_IFMT) >> 12;
        node = node_of(above, entry->name, &st);
    }
    if (emit(listing, entry->name, inode, type, position, node, &st))
        return true;
    if (node)
        settle(node);
    return false;
}

/* Whether an entry shows, and its attributes if that took them: as overlay/merge.py. */
static bool
shows(const struct node *directory, const struct entry *entry, struct stat *st, bool *known)
{
    *known = false;
    if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0 ||
        strncmp(entry->name, AUFS_PREFIX, sizeof AUFS_PREFIX - 1) == 0)
        return false;
    if (entry->type != DT_CHR && entry->type != DT_UNKNOWN)
        return true;
    *known = fstatat(directory->fd, entry->name, st, AT_SYMLINK_NOFOLLOW) == 0;
    return *known && !(S_ISCHR(st->st_mode) && st->st_rdev == 0);
}

/* Add the entries after the first `skipped` ones. Returns an errno. */
static int
list(struct listing *listing, int fd, uint64_t skipped)
{
    _Alignas(struct entry) static char buffer[LISTING_BYTES];
    struct node *directory = listing->directory;
    uint64_t index = 0;
    off_t place = 0;
    if (skipped && skipped == directory->position) {
        index = skipped;
        place = directory->place;
        if (lseek(fd, place, SEEK_SET) < 0)
            return errno;
    }
    for (;;) {
        long size = syscall(SYS_getdents64, fd, buffer, sizeof buffer);
        if (size < 0)
            return errno;
        if (index == 0 && skipped == 0) {
            size_t entries = 0;
            for (long at = 0; at < size; at += ((struct entry *)(void *)(buffer + at))->size)
                entries++;
            directory->wide = entries > WIDE;
        }
        listing->names_only =
            directory->wide && 2 * directory->children <= (skipped > WIDE ? skipped : WIDE);
        for (long at = 0; at < size;) {
            const struct entry *entry = (void *)(buffer + at);
            struct stat st;
            bool known;
            at += entry->size;
            if (shows(directory, entry, &st, &known) && ++index > skipped &&
                !emit_entry(listing, entry, known ? &st : NULL, index + 2)) {
                directory->position = index - 1;
                directory->place = place;
                return 0;
            }
            place = (off_t)entry->next;
        }
        if (size == 0) {
            directory->position = index;
            directory->place = place;
            return 0;
        }
    }
}

/* Positions are those of overlay/listing.py: Python may continue a listing begun here. */
static bool
answer_readdirplus(const struct fuse_in_header *header, struct node *directory, uint64_t offset,
                   uint32_t size)
{
    static struct listing listing;
    listing.directory = directory;
    listing.used = listing.count = 0;
    listing.room = size < BLOCK_BYTES ? size : BLOCK_BYTES;
    int fd = openat(directory->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOATIME);
    if (fd < 0 && errno == EPERM)
        fd = openat(directory->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool room = (offset > 0 || emit(&listing, ".", directory->id, DT_DIR, 1, NULL, NULL)) &&
                (offset > 1 || emit(&listing, "..", directory->above_id, DT_DIR, 2, NULL, NULL));
    int error = room ? list(&listing, fd, offset > 2 ? offset - 2 : 0) : 0;
    close(fd);
    if (offset == 0)
        directory->reading = true;
    else if (listing.used == 0)
        directory->reading = false;
    bool taken = reply(header->unique, error, error ? NULL : plane.reply, error ? 0 : listing.used);
    for (size_t at = 0; at < listing.count; at++)
        if (taken && !error)
            listing.emitted[at]->lookups++;
        else
            settle(listing.emitted[at]);
    return true;
}

/* ---- requests ---------------------------------------------------------------------------------
 */

/* Take off what of `count` lookups is ours. Returns the rest, for Python. */
static uint64_t
forget(uint64_t id, uint64_t count)
{
    struct node *node = find(id);
    if (!node || !count)
        return count;
    if (node->owner == PYTHON || node->owner == CROSSING) {
        /* Python keeps a directory for as long as nodes of ours are in it. */
        if (!node->children || node->withheld)
            return count;
        node->withheld = true;
        return count - 1;
    }
    node->lookups -= count < node->lookups ? count : node->lookups;
    settle(node);
    return 0;
}

/* Take forgotten lookups of ours off. Returns whether the request has others, and is changed so. */
static bool
is_forget_left(struct fuse_in_header *header, size_t size)
{
    if (header->opcode == FUSE_FORGET) {
        struct fuse_forget_in *in = (void *)(header + 1);
        if (size < sizeof *header + sizeof *in)
            return true;
        in->nlookup = forget(header->nodeid, in->nlookup);
        return in->nlookup > 0;
    }
    struct fuse_batch_forget_in *in = (void *)(header + 1);
    struct fuse_forget_one *one = (void *)(in + 1);
    if (size < sizeof *header + sizeof *in ||
        in->count > (size - sizeof *header - sizeof *in) / sizeof *one)
        return true;
    uint32_t left = 0;
    for (uint32_t at = 0; at < in->count; at++) {
        uint64_t count = forget(one[at].nodeid, one[at].nlookup);
        if (count)
            one[left++] = (struct fuse_forget_one){one[at].nodeid, count};
    }
    in->count = left;
    return left > 0;
}

/* Whether it is a request that is answered with ENOSYS, as session.c and libfuse do. */
static bool
is_unknown(uint32_t opcode)
{
    switch (opcode) {
    case FUSE_IOCTL:   /* each open() of Python makes one */
    case FUSE_OPENDIR: /* as session.c: the kernel asks once */
    case FUSE_LSEEK:
    case FUSE_POLL:
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE:
    case FUSE_BMAP:
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
        return true;
    default:
        return false;
    }
}

/* Whether a request begins with a file handle. */
static bool
begins_with_handle(uint32_t opcode)
{
    return opcode == FUSE_READ || opcode == FUSE_WRITE || opcode == FUSE_RELEASE ||
           opcode == FUSE_FLUSH || opcode == FUSE_FSYNC;
}

/* Answer a request about an open file of ours. Returns false if it is Python's by now: then the
 * handle in the request is Python's. */
static bool
answer_with_handle(struct fuse_in_header *header, size_t size, uint64_t *number)
{
    struct handle *handle = handle_of(*number);
    if (!handle) {
        reply(header->unique, EBADF, NULL, 0);
        return true;
    }
    if (handle->python) {
        *number = handle->python;
        if (header->opcode == FUSE_RELEASE)
            handle->used = false;
        return false;
    }
    if (header->opcode == FUSE_READ) {
        const struct fuse_read_in *in = (void *)(header + 1);
        if (size < sizeof *header + sizeof *in)
            return false;
        answer_read(header, handle, in->offset, in->size);
        return true;
    }
    if (header->opcode == FUSE_RELEASE) {
        close_handle(handle);
        handle->used = false;
    }
    int error = header->opcode == FUSE_WRITE ? EBADF : header->opcode == FUSE_FLUSH ? ENOSYS : 0;
    reply(header->unique, error, NULL, 0);
    return true;
}

/* Let what the request names cross to Python. */
static void
cross_named(struct fuse_in_header *header, size_t size)
{
    const uint64_t *first = (void *)(header + 1);
    uint64_t ids[] = {header->nodeid, 0};
    if (size >= sizeof *header + sizeof *first &&
        (header->opcode == FUSE_RENAME || header->opcode == FUSE_RENAME2 ||
         header->opcode == FUSE_LINK))
        ids[1] = *first;
    for (size_t at = 0; at < 2; at++) {
        struct node *node = find(ids[at]);
        if (node)
            cross(node);
    }
}

/* Answer a request of `size` bytes. Returns false if it is Python's. */
static bool
answer(struct fuse_in_header *header, size_t size)
{
    char *in = (char *)(header + 1);
    size_t left = size - sizeof *header;
    uint64_t number;
    if (header->opcode == FUSE_FORGET || header->opcode == FUSE_BATCH_FORGET)
        return !is_forget_left(header, size);
    if (begins_with_handle(header->opcode) && left >= sizeof number) {
        memcpy(&number, in, sizeof number);
        if (number & OUR_HANDLE) {
            bool answered = answer_with_handle(header, size, &number);
            memcpy(in, &number, sizeof number);
            return answered;
        }
        return false;
    }
    if (is_unknown(header->opcode)) {
        reply(header->unique, ENOSYS, NULL, 0);
        return true;
    }
    struct node *node = find(header->nodeid);
    if (!node)
        return false;
    if (node->owner == DEAD && !(header->opcode == FUSE_GETATTR && node->handles)) {
        reply(header->unique, ESTALE, NULL, 0);
        return true;
    }
    if (node->owner == CROSSING || (node->owner == PYTHON && !node->granted))
        return false;
    /* A name has to end where the request ends. */
    bool ends = left > 0 && in[left - 1] == '\0';
    switch (header->opcode) {
    case FUSE_LOOKUP:
        return ends && serves(node) && answer_lookup(header, node, in);
    case FUSE_GETATTR:
        return answer_getattr(header, node);
    case FUSE_READLINK:
        return node->owner == OURS && answer_readlink(header, node);
    case FUSE_OPEN:
        return node->owner == OURS && left >= sizeof(struct fuse_open_in) &&
               answer_open(header, node, ((struct fuse_open_in *)(void *)in)->flags);
    case FUSE_READDIRPLUS:
        return left >= sizeof(struct fuse_read_in) && serves(node) &&
               answer_readdirplus(header, node, ((struct fuse_read_in *)(void *)in)->offset,
                                  ((struct fuse_read_in *)(void *)in)->size);
    case FUSE_GETXATTR:
        return ends && left > sizeof(struct fuse_getxattr_in) &&
               answer_getxattr(header, node, ((struct fuse_getxattr_in *)(void *)in)->size,
                               in + sizeof(struct fuse_getxattr_in));
    case FUSE_LISTXATTR:
        return left >= sizeof(struct fuse_getxattr_in) &&
               answer_listxattr(header, node, ((struct fuse_getxattr_in *)(void *)in)->size);
    default:
        return false;
    }
}

static long long
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Answer requests until one is Python's (`pending`), the mount is gone (`ended`), Python's other
 * tasks are due, or no request has come for `wait` milliseconds. Returns whether none has come. */
static bool
run(int wait, bool polls)
{
    long long began = now_ns(), waiting = began;
    struct pollfd watched = {.fd = plane.device, .events = POLLIN};
    for (;;) {
        ssize_t size = read(plane.device, plane.block, BLOCK_BYTES);
        if (size >= (ssize_t)sizeof(struct fuse_in_header)) {
            struct fuse_in_header *header = (void *)plane.block;
            unsigned kind = header->opcode < OPCODES ? header->opcode : 0;
            bool answered = answer(header, (size_t)size);
            if (plane.spins)
                plane.vain = 0;
            plane.answered[kind] += answered;
            if (!answered) {
                cross_named(header, (size_t)size);
                plane.pending = (size_t)size;
                return false;
            }
            waiting = now_ns();
            if (plane.directories > plane.most_directories)
                evict();
            if (waiting - began > TURN_NS || plane.forgotten_count)
                return false;
            continue;
        }
        if (size < 0 && (errno == EINTR || errno == ENOENT))
            continue;
        if (size >= 0 || errno != EAGAIN) {
            plane.ended = true;
            return false;
        }
        if (polls && plane.spins) {
            if (now_ns() - waiting < PROMPT_NS)
                continue;
            /* Another program needs the processor: more and more requests are awaited asleep. */
            plane.vain = plane.vain < MOST_SKIPPED ? 2 * plane.vain + 1 : plane.vain;
            plane.skipped = plane.vain;
            plane.spins = false;
        }
        if (!polls || poll(&watched, 1, wait) <= 0)
            return true;
        if (plane.skipped)
            plane.skipped--;
        else
            plane.spins = plane.may_spin && now_ns() - waiting < PROMPT_NS;
    }
}

bool
plane_receive(struct fuse_buf *buffer, int *result)
{
    if (!plane.block || plane.ended)
        return false;
    *result = plane.pending ? (int)plane.pending : -EINTR;
    if (plane.pending) {
        char *given = buffer->mem;
        buffer->mem = plane.block;
        buffer->size = plane.pending;
        buffer->flags = 0;
        plane.block = given ? given : grown(NULL, BLOCK_BYTES);
        plane.pending = 0;
    }
    return true;
}

/* ---- for Python -------------------------------------------------------------------------------
 */

/* The nodeid that is the only argument, unless `id` is NULL, and its node, NULL if there is none.
 */
static bool
nodeid_from(PyObject *args, uint64_t *id, struct node **node)
{
    unsigned long long given;
    if (!PyArg_ParseTuple(args, "K", &given))
        return false;
    if (id)
        *id = given;
    *node = find(given);
    return true;
}

static PyObject *
list_of(const uint64_t *numbers, size_t count)
{
    PyObject *list = PyList_New(0);
    for (size_t at = 0; list && at < count; at++) {
        PyObject *number = PyLong_FromUnsignedLongLong(numbers[at]);
        if (!number || PyList_Append(list, number) < 0)
            Py_CLEAR(list);
        Py_XDECREF(number);
    }
    return list;
}

static PyObject *
py_plane_start(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long seconds, directories, files;
    unsigned nanoseconds, uid, gid;
    int static_nlink, xattr, acl, may_spin;
    if (!PyArg_ParseTuple(args, "KIIIppppKK", &seconds, &nanoseconds, &uid, &gid, &static_nlink,
                          &xattr, &acl, &may_spin, &directories, &files))
        return NULL;
    plane.seconds = seconds;
    plane.nanoseconds = nanoseconds;
    plane.unmapped_uid = uid;
    plane.unmapped_gid = gid;
    plane.static_nlink = static_nlink != 0;
    plane.xattr = xattr != 0;
    plane.acl = acl != 0;
    plane.may_spin = may_spin != 0;
    plane.most_directories = (size_t)directories;
    plane.most_files = (size_t)files;
    if (!plane.block) {
        plane.block = grown(NULL, BLOCK_BYTES);
        plane.reply = grown(NULL, BLOCK_BYTES);
        grow_table();
    }
    Py_RETURN_NONE;
}

static PyObject *
py_plane_wait(PyObject *Py_UNUSED(module), PyObject *args)
{
    int device, milliseconds, polls;
    bool idle;
    if (!PyArg_ParseTuple(args, "iip", &device, &milliseconds, &polls))
        return NULL;
    plane.device = device;
    if (plane.pending || plane.ended)
        Py_RETURN_FALSE;
    Py_BEGIN_ALLOW_THREADS;
    idle = run(milliseconds, polls != 0);
    Py_END_ALLOW_THREADS;
    return PyBool_FromLong(idle);
}

/* What Python has to know of a node that crosses: the directory above, its name and nodeid, its
 * lookups, and the handles of its open files. */
static PyObject *
crossing(const struct node *node)
{
    PyObject *handles = PyList_New(0);
    for (size_t at = 0; handles && at < plane.handle_count && node->handles; at++) {
        if (!plane.handles[at].used || plane.handles[at].node != node)
            continue;
        PyObject *number = PyLong_FromUnsignedLongLong(OUR_HANDLE | at);
        if (!number || PyList_Append(handles, number) < 0)
            Py_CLEAR(handles);
        Py_XDECREF(number);
    }
    return handles ? Py_BuildValue("KyKKN", (unsigned long long)node->above_id, node->name,
                                   (unsigned long long)node->id, (unsigned long long)node->lookups,
                                   handles)
                   : NULL;
}

static PyObject *
py_plane_crossings(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    PyObject *list = PyList_New(0);
    for (size_t at = 0; list && at < plane.crossing_count; at++) {
        PyObject *one = crossing(plane.crossing[at]);
        if (!one || PyList_Append(list, one) < 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    plane.crossing_count = 0;
    return list;
}

static PyObject *
py_plane_fetch(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long above;
    const char *name;
    if (!PyArg_ParseTuple(args, "Ky", &above, &name))
        return NULL;
    struct node *directory = find(above);
    struct node *node = directory && directory->children ? child(directory, name) : NULL;
    if (!node || node->owner != OURS)
        Py_RETURN_NONE;
    node->owner = CROSSING;
    return crossing(node);
}

static PyObject *
py_plane_fetch_node(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct node *node;
    if (!nodeid_from(args, NULL, &node))
        return NULL;
    if (node && node->owner == OURS)
        cross(node);
    return py_plane_crossings(NULL, NULL);
}

static PyObject *
py_plane_claim(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t id;
    struct node *node;
    if (!nodeid_from(args, &id, &node))
        return NULL;
    if (node && node->owner != CROSSING)
        return PyLong_FromLong(0);
    if (!node)
        node = add(id, NULL, "", PYTHON);
    struct node *above = node->above;
    node->owner = PYTHON;
    drop_name(node);
    node->above = NULL;
    if (above) {
        above->children--;
        settle(above);
    }
    return PyLong_FromUnsignedLong(node->generation);
}

static PyObject *
py_plane_crossed(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct node *node;
    if (!nodeid_from(args, NULL, &node))
        return NULL;
    if (node && node->owner == CROSSING) {
        drop_name(node);
        node->owner = DEAD;
        settle(node);
        Py_RETURN_FALSE;
    }
    if (!node || node->owner != PYTHON)
        Py_RETURN_FALSE;
    node->lookups = 0;
    Py_RETURN_TRUE;
}

static PyObject *
py_plane_bind(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long number, python;
    if (!PyArg_ParseTuple(args, "KK", &number, &python))
        return NULL;
    struct handle *handle = handle_of(number);
    if (handle) {
        close_handle(handle);
        handle->python = python;
    }
    Py_RETURN_NONE;
}

static PyObject *
py_plane_drop(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct node *node;
    if (!nodeid_from(args, NULL, &node))
        return NULL;
    if (node && node->owner == PYTHON) {
        node->owner = DEAD;
        node->granted = node->withheld = false;
        settle(node);
    }
    Py_RETURN_NONE;
}

static PyObject *
py_plane_grant(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long id, above, base;
    int fd, lists, below;
    struct stat st;
    if (!PyArg_ParseTuple(args, "KKiKpp", &id, &above, &fd, &base, &lists, &below))
        return NULL;
    struct node *node = find(id);
    if (!node && id == FUSE_ROOT_ID)
        node = add(id, NULL, "", PYTHON);
    if (!node || node->owner != PYTHON)
        Py_RETURN_FALSE;
    if (node->fd < 0) {
        if (fstat(fd, &st) < 0 || is_marked(fd))
            Py_RETURN_FALSE;
        node->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (node->fd < 0)
            Py_RETURN_FALSE;
        plane.directories++;
        node->device = st.st_dev;
    }
    node->kind = S_IFDIR;
    node->base = base;
    node->above_id = above;
    node->lists_inodes = lists != 0;
    node->below_lists = below != 0;
    node->granted = node->used = true;
    Py_RETURN_TRUE;
}

static PyObject *
py_plane_is_granted(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct node *node;
    if (!nodeid_from(args, NULL, &node))
        return NULL;
    return PyBool_FromLong(node && node->granted);
}

static PyObject *
py_plane_revoke(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct node *node;
    if (!nodeid_from(args, NULL, &node))
        return NULL;
    bool reading = node && node->reading;
    if (node)
        node->granted = node->reading = false;
    return PyBool_FromLong(reading);
}

static PyObject *
py_plane_forgotten(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    size_t count = plane.forgotten_count;
    plane.forgotten_count = 0;
    return list_of(plane.forgotten, count);
}

static PyObject *
py_plane_counts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    return list_of(plane.answered, OPCODES);
}

static PyObject *
py_plane_held(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    unsigned long long nodes = 0, lookups = 0, files = 0;
    for (size_t at = 0; at < plane.buckets; at++)
        for (struct node *node = plane.ids[at]; node; node = node->next_id)
            if (node->owner == OURS) {
                nodes++;
                lookups += node->lookups;
            }
    for (size_t at = 0; at < plane.handle_count; at++)
        files += plane.handles[at].used && !plane.handles[at].python;
    return Py_BuildValue("KKKK", nodes, lookups, files, (unsigned long long)plane.directories);
}

static PyObject *
py_plane_close(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    for (size_t at = 0; at < plane.handle_count; at++)
        if (plane.handles[at].used && plane.handles[at].fd >= 0) {
            close(plane.handles[at].fd);
            plane.handles[at].fd = -1;
        }
    for (size_t at = 0; at < plane.buckets; at++)
        for (struct node *node = plane.ids[at]; node; node = node->next_id)
            close_directory(node);
    Py_RETURN_NONE;
}

#define METHOD(name, flags, signature, text)                                                       \
    {"plane_" #name, py_plane_##name, flags,                                                       \
     "plane_" #name "($module" signature ", /)\n--\n\n" text}

PyMethodDef native_plane_methods[] = {
    METHOD(
        start, METH_VARARGS,
        ", seconds, nanoseconds, uid, gid, static_nlink, xattr, acl, may_spin, directories, files",
        "Set what replies hold, and how many descriptors may be open."),
    METHOD(wait, METH_VARARGS, ", device, milliseconds, polls",
           "Answer requests until one is Python's. Returns whether none has come."),
    METHOD(crossings, METH_NOARGS, "", "The nodes that cross to Python."),
    METHOD(fetch, METH_VARARGS, ", directory, name", "The node of a name, which crosses, or None."),
    METHOD(fetch_node, METH_VARARGS, ", nodeid", "The node, which crosses, and those above it."),
    METHOD(claim, METH_VARARGS, ", nodeid",
           "Take a nodeid. Returns its generation, 0: it is taken."),
    METHOD(crossed, METH_VARARGS, ", nodeid", "End a crossing. Returns whether it was claimed."),
    METHOD(bind, METH_VARARGS, ", handle, python", "Let a handle stand for one of Python's."),
    METHOD(drop, METH_VARARGS, ", nodeid", "Give a claimed nodeid back."),
    METHOD(grant, METH_VARARGS, ", nodeid, above, fd, base, lists_inodes, below_lists",
           "Grant a directory. Returns false if it has marks."),
    METHOD(is_granted, METH_VARARGS, ", nodeid", "Whether the directory is granted."),
    METHOD(revoke, METH_VARARGS, ", nodeid", "Revoke a grant. Returns whether it was being read."),
    METHOD(forgotten, METH_NOARGS, "", "The nodeids of which Python has to forget a lookup."),
    METHOD(counts, METH_NOARGS, "", "The requests answered here, by opcode."),
    METHOD(held, METH_NOARGS, "", "How many nodes, lookups, open files and directories there are."),
    METHOD(close, METH_NOARGS, "", "Close every descriptor."),
    {NULL, NULL, 0, NULL},
};
