/* What outlives a daemon that is killed: nodes, lookups, open files, and requests under way.
 *
 * A keeper process forks the daemon, and another one when that is killed
 * (overlaykit/fuse/keeper.py). All of them have one table of descriptors (CLONE_FILES), so open
 * files stay open, under their numbers. They have one region of memory, mapped at the same address,
 * that holds the state of the plane with its nodes and handles. The rest of a daemon, Python's part
 * above all, ends with it.
 *
 * A daemon may end between any two instructions. So what is stored in the region is complete before
 * one store makes it count, a descriptor's number is taken away before it is closed, and a lookup
 * is counted before the reply. What is lost on the way is memory, a descriptor (closed by the
 * keeper), or a lookup that is counted and not sent: never too few. What can be derived, buckets
 * and counts of children and handles, is not relied on, but made again (kept_recover).
 *
 * The new daemon's Python knows no node but the root. All others are left to it: each crosses once
 * a request names it, as one of the plane's own does. Python notes where its nodes are found
 * (link).
 */
#include "inode.h"
#include "nodes.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define REGION_BYTES (1ULL << 36) /* of addresses: memory is taken as it is used */
#define GRAIN_BYTES 64

enum {
    SMALL_CLASSES = 17, /* up to 1 KiB; from then on powers of 2 */
    CLASSES = SMALL_CLASSES + 26,
    CRASHES = 50, /* as much blame as that many kills */
    MOST_BLAME = 2 * CRASHES,
    PAGE_BYTES = 1 << 12, /* at least */
};

struct chunk {
    uint32_t size_class;
    bool is_node;
    _Alignas(max_align_t) char content[];
};

static struct region {
    size_t used;
    struct chunk *unused[CLASSES];
    _Alignas(GRAIN_BYTES) struct state state;
} *region;

/* ---- memory --------------------------------------------------------------------------------- */

static size_t bytes_of(unsigned size_class)
{
    return size_class < SMALL_CLASSES ? size_class * (size_t)GRAIN_BYTES
                                      : (size_t)1 << (size_class - SMALL_CLASSES + 11);
}

static struct chunk *chunk_of(const void *content)
{
    return (void *)((char *)(uintptr_t)content - offsetof(struct chunk, content));
}

void *kept_alloc(size_t size, bool is_node)
{
    unsigned size_class = 1;
    size += sizeof(struct chunk);
    while (size_class < CLASSES && bytes_of(size_class) < size)
        size_class++;
    struct chunk *chunk = region && size_class < CLASSES ? region->unused[size_class] : NULL;
    if (chunk)
        memcpy(&region->unused[size_class], chunk->content, sizeof(struct chunk *));
    else if (!region)
        chunk = malloc(size);
    else if (size_class < CLASSES && bytes_of(size_class) <= REGION_BYTES - region->used) {
        chunk = (void *)((char *)region + region->used);
        chunk->size_class = size_class;
        STORED();
        region->used += bytes_of(size_class);
    }
    if (!chunk)
        abort(); /* no request could be answered any more */
    if (is_node)
        memset(chunk->content, 0, size - sizeof *chunk);
    STORED();
    chunk->is_node = is_node;
    return chunk->content;
}

void kept_free(void *memory)
{
    struct chunk *chunk = memory ? chunk_of(memory) : NULL;
    if (chunk && !region)
        free(chunk);
    if (!chunk || !region)
        return;
    chunk->is_node = false;
    STORED();
    memcpy(chunk->content, &region->unused[chunk->size_class], sizeof chunk);
    STORED();
    region->unused[chunk->size_class] = chunk;
}

char *kept_block(void)
{
    char *block = grown(NULL, BLOCK_BYTES);
    for (size_t at = 0; region && at < BLOCK_BYTES; at += PAGE_BYTES)
        *(volatile char *)(block + at) = 0;
    return block;
}

void kept_close(int *fd)
{
    int closed = *fd;
    *fd = -1;
    if (closed >= 0)
        close(closed);
}

/* The node after `node` in the region; the first one if that is NULL, and NULL after the last. */
static struct node *next_node(const struct node *node)
{
    const struct chunk *last = node ? chunk_of(node) : NULL;
    char *at = last ? (char *)last + bytes_of(last->size_class) : (char *)(region + 1);
    for (struct chunk *chunk; at < (char *)region + region->used;
         at += bytes_of(chunk->size_class)) {
        chunk = (void *)at;
        if (chunk->is_node && ((struct node *)(void *)chunk->content)->id)
            return (void *)chunk->content;
    }
    return NULL;
}

/* ---- nodes ---------------------------------------------------------------------------------- */

void kept_link(struct node *node, uint64_t above, const char *name)
{
    struct link *before = node->link;
    struct link *link = kept_alloc(sizeof *link + strlen(name) + 1, false);
    link->above = above;
    memcpy(link->name, name, strlen(name) + 1);
    STORED();
    node->link = link;
    STORED();
    kept_free(before);
}

void kept_name(struct node *node, const char *name)
{
    char *before = node->name == node->given_name ? NULL : node->name;
    char *copy = kept_alloc(strlen(name) + 1, false);
    memcpy(copy, name, strlen(name) + 1);
    STORED();
    node->name = copy;
    STORED();
    kept_free(before);
}

void kept_free_node(struct node *node)
{
    char *name = node->name == node->given_name ? NULL : node->name;
    struct link *link = node->link;
    kept_free(node); /* first: a node that is found has its own */
    kept_free(name);
    kept_free(link);
}

/* Let a node be one that an earlier daemon has left. Its descriptors, but for `kept`, are closed.
 */
static void leave(struct node *node)
{
    bool is_python = node->owner == PYTHON && node->id != FUSE_ROOT_ID;
    bool is_ours = node->owner == OURS || node->owner == CROSSING;
    if (is_python || (is_ours && node->link && !(node->removed && node->made))) {
        node->above_id = node->link ? node->link->above : 0;
        kept_name(node, node->link ? node->link->name : "");
    }
    if (is_python) {
        node->removed = node->above_id == 0;
        node->made = false;
        node->modified = UNSET;
        node->asked = node->opened = node->change_time = 0;
    } else if (node->owner != PYTHON && node->made && node->fd >= 0) {
        node->kept = node->fd;
    }
    bool withheld = is_python && node->withheld && node->lookups;
    node->withheld = false;
    STORED();
    node->lookups -= withheld;
    STORED();
    node->granted = node->changes = node->reading = false;
    node->fd = node->upper = -1;
    node->lowers = NULL;
    node->names = NULL;
    node->above = node->next_id = node->next_name = NULL;
    node->children = node->handles = 0;
    node->left = node->owner != DEAD && node->id != FUSE_ROOT_ID;
    STORED();
    node->owner = node->id == FUSE_ROOT_ID ? PYTHON : node->owner == DEAD ? DEAD : OURS;
}

void kept_recover(void)
{
    if (!region)
        return;
    memset(&plane, 0, offsetof(struct state, device));
    for (struct node *node = next_node(NULL); node; node = next_node(node)) {
        leave(node);
        plane.count++;
    }
    do
        grow_table();
    while (plane.buckets < plane.count);
    for (struct node *node = next_node(NULL); node; node = next_node(node))
        insert_id(node);
    for (struct node *node = next_node(NULL); node; node = next_node(node)) {
        node->above = *node->name && node->above_id ? find(node->above_id) : NULL;
        if (node->above)
            node->above->children++;
        if (*node->name)
            insert_name(node);
    }
    for (size_t at = 0; at < plane.handle_count; at++) {
        struct handle *handle = &plane.handles[at];
        handle->used = handle->used && handle->node;
        handle->python = 0;
        if (handle->used) {
            handle->node->handles++;
            plane.files += handle->fd >= 0;
        }
    }
    for (struct node *node = next_node(NULL), *next; node; node = next) {
        next = next_node(node); /* which may go with this one */
        if (chunk_of(node)->is_node)
            settle(node);
    }
}

/* ---- requests ------------------------------------------------------------------------------- */

static struct begun *begun_of(uint64_t unique) { return &plane.begun[unique >> 1 & (BEGUN - 1)]; }

bool kept_begin(const struct fuse_in_header *header)
{
    uint64_t unique = header->unique;
    struct begun *begun = begun_of(unique);
    plane.resent = (unique & FUSE_UNIQUE_RESEND) != 0;
    plane.requests++;
    /* Those without a reply; an INTERRUPT has the number of the request that it is about. */
    if (header->opcode == FUSE_INTERRUPT || header->opcode == FUSE_FORGET ||
        header->opcode == FUSE_BATCH_FORGET)
        return true;
    if (!plane.resent)
        plane.renaming.above *= plane.renaming.under_way;
    if (!plane.resent || begun->unique != (unique & ~FUSE_UNIQUE_RESEND)) {
        begun->blame = 0;
        STORED();
        begun->unique = unique & ~FUSE_UNIQUE_RESEND;
    }
    begun->blame += plane.resent ? plane.blame : 0;
    return begun->blame < MOST_BLAME;
}

/* Blame requests for the end of a daemon. A crash may come from any that is under way. A killed one
 * may have used too much memory, for the request that it has read last: others, such as a copy of a
 * large file, are under way for as long as a daemon lives. */
static void blame(bool crashed)
{
    uint64_t last = plane.reading.unique & ~FUSE_UNIQUE_RESEND;
    plane.blame = crashed ? CRASHES : 0;
    if (!crashed && begun_of(last)->unique == last)
        begun_of(last)->blame++;
}

void kept_begin_rename(uint64_t above, const char *name, uint64_t onto, const char *new_name)
{
    struct renaming *renaming = &plane.renaming;
    renaming->flags = 0;
    renaming->above = above;
    renaming->onto = onto;
    (void)snprintf(renaming->name, sizeof renaming->name, "%s", name);
    (void)snprintf(renaming->new_name, sizeof renaming->new_name, "%s", new_name);
    STORED();
    renaming->under_way = true;
}

/* ---- for Python ------------------------------------------------------------------------------ */

PyObject *py_plane_share(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    void *mapped = region ? region
                          : mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError);
    if (!region) {
        region = mapped;
        region->used = sizeof *region;
        native_plane = &region->state;
    }
    Py_RETURN_NONE;
}

PyObject *py_fork_with_descriptors(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    const unsigned long flags = CLONE_FILES | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD;
    int *thread = NULL;
    /* Where the C library has the number of this thread, which fork(2) of its own updates. */
    bool knows = prctl(PR_GET_TID_ADDRESS, &thread) == 0 && thread;
    PyOS_BeforeFork();
#ifdef __s390__
    long pid = syscall(SYS_clone, 0, knows ? flags : CLONE_FILES | SIGCHLD, 0, thread, 0);
#else
    /* On some machines it is the fifth argument; the other one has no meaning with these flags. */
    long pid = syscall(SYS_clone, knows ? flags : CLONE_FILES | SIGCHLD, 0, 0, thread, thread);
#endif
    int error = errno;
    if (pid >= 0) /* by which others know which of the two serves the mount */
        (void)prctl(PR_SET_NAME, pid == 0 ? "daemon" : "keeper", 0, 0, 0);
    if (pid == 0)
        PyOS_AfterFork_Child();
    else
        PyOS_AfterFork_Parent();
    errno = error;
    return pid < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(pid);
}

PyObject *py_plane_kept(PyObject *Py_UNUSED(module), PyObject *crashed)
{
    blame(crashed == Py_True);
    PyObject *list = PyList_New(0);
    for (struct node *node = region ? next_node(NULL) : NULL; list && node;
         node = next_node(node)) {
        int made = node->owner != PYTHON && node->made ? node->fd : -1;
        native_append(&list, Py_BuildValue("ii", made, node->kept));
    }
    for (size_t at = 0; list && at < plane.handle_count; at++)
        native_append(&list,
                      Py_BuildValue("ii", plane.handles[at].used ? plane.handles[at].fd : -1, -1));
    return list ? Py_BuildValue("KN", plane.requests, list) : NULL;
}

PyObject *py_plane_link(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t id, above;
    const char *name;
    if (!PyArg_ParseTuple(args, "KKy", &id, &above, &name))
        return NULL;
    struct node *node = region ? find(id) : NULL;
    if (node && node->owner == PYTHON)
        kept_link(node, above, name);
    Py_RETURN_NONE;
}

PyObject *py_plane_keep(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t id;
    int fd;
    if (!PyArg_ParseTuple(args, "Ki", &id, &fd))
        return NULL;
    struct node *node = region ? find(id) : NULL;
    if (node && fd < 0)
        kept_close(&node->kept);
    else if (node && node->kept < 0)
        node->kept = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    Py_RETURN_NONE;
}

PyObject *py_plane_count(PyObject *Py_UNUSED(module), PyObject *number)
{
    struct node *node = find(PyLong_AsUnsignedLongLong(number));
    if (node && node->owner == PYTHON)
        node->lookups++;
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

PyObject *py_plane_resent(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    return PyBool_FromLong(plane.resent);
}

PyObject *py_plane_refuse(PyObject *Py_UNUSED(module), PyObject *number)
{
    struct fuse_out_header out = {.len = sizeof out, .error = -EIO};
    int device = (int)PyLong_AsLong(number);
    if (PyErr_Occurred())
        return NULL;
    /* Those that are answered are unknown to the kernel. */
    for (size_t at = 0; at <= BEGUN; at++) {
        out.unique = at < BEGUN ? plane.begun[at].unique : plane.reading.unique;
        if (out.unique && write(device, &out, sizeof out) < 0 && errno != ENOENT)
            return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

PyObject *py_plane_begin_rename(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t above, onto, inode;
    unsigned flags;
    const char *name, *new_name;
    if (!PyArg_ParseTuple(args, "KyKyIK", &above, &name, &onto, &new_name, &flags, &inode))
        return NULL;
    plane.renaming.under_way = false;
    kept_begin_rename(above, name, onto, new_name);
    plane.renaming.flags = flags;
    plane.renaming.inode = inode;
    Py_RETURN_NONE;
}

PyObject *py_plane_renaming(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    const struct renaming *one = &plane.renaming;
    if (!one->above)
        Py_RETURN_NONE;
    return Py_BuildValue("KyKyKN", one->above, one->name, one->onto, one->new_name, one->inode,
                         PyBool_FromLong(one->under_way));
}

/* Give a node that is left another place. The node that is there, if any, has no name any more, or
 * gets that of the first one if they are exchanged. */
PyObject *py_plane_renamed(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    struct renaming *one = &plane.renaming;
    struct node *above = find(one->above), *onto = find(one->onto);
    struct node *node = above ? child(above, one->name) : NULL;
    struct node *target = onto ? child(onto, one->new_name) : NULL;
    if (!node && !one->flags)
        Py_RETURN_NONE; /* it was noted, but not its end */
    if (target && target != node && !one->flags) {
        target->removed = true;
        drop_name(target);
    } else if (target && target != node && above)
        move(target, above, one->name);
    if (node && onto)
        move(node, onto, one->new_name);
    Py_RETURN_NONE;
}

PyObject *py_plane_end_rename(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    plane.renaming.under_way = false;
    Py_RETURN_NONE;
}
