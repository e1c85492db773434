/* The data plane: answers requests about directories whose names need no merge.
 *
 * Python grants a directory for reading once it knows that one plain directory of a lower is all
 * that shows in it. Names below it are then found, listed and read here, also in its
 * subdirectories. What a mark, a hard link or anything unusual may change is left to Python.
 *
 * It resolves a merged directory: it hands over its names, each with the one lower that shows
 * there (a file, or a directory that inherits the grant), or as one of its own. Other names are
 * missing. Before Python changes a name in such a directory, it takes that name back.
 *
 * It grants a directory of the upper for changes, with the directories of lowers that show in it.
 * Names that one of those has are Python's, and so is what is in the upper without having been made
 * here. Other names are made, changed and removed here, also below directories that were made here.
 * No marker is written, and no file of a lower is opened for writing.
 *
 * A node is Python's or ours. One of ours crosses to Python, once, when a request is left to
 * Python that names it, or when Python looks its name up (fetch): Python looks it up in turn, gets
 * the same nodeid (claim), and takes over its lookups and its open files. A nodeid that Python does
 * not find again (the lower has changed) is dead: ESTALE.
 * A file that Python has copied up may come back (give), or stays here meanwhile, if it is small
 * and not open (to_change), and so does one that it moves or removes. Its nodeid stays that of the
 * lower's inode.
 *
 * Without OPEN (`no_open`) the requests about a file name its node only. All programs share one
 * handle of it then, opened for the first request that needs it and closed when it is forgotten.
 *
 * All of it runs in the thread that runs Python, while that waits for a request (run). So nothing
 * is locked, and nothing changes under Python's feet. A thread of its own that reads, and hands to
 * Python what is left to it, was measured: programs in parallel on granted files were as fast (0.97
 * to 1.08 of the time), requests that Python answers took 1.6 to 1.9 times as long.
 */
#include "plane.h"

#include "inode.h"
#include "nodes.h"
#include "requests.h"

#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#define GENERATION_SHIFT 32 /* of a handle's number, in which 28 bits are free for it */
#define GENERATIONS (1U << 28)
#define FIRST_GENERATION 2             /* 1 is NAME_ONLY */
#define CLOCK_LAG (20 * SECOND / 1000) /* overlay/openfile.py */
#define LATE_AT_MOST (10 * SECOND)
#define SETTLED (60 * SECOND) /* overlay/liveness.py */
#define MILLISECOND (SECOND / 1000)
#define PROMPT_NS 40000LL      /* a request that follows within this time needs no sleep */
#define LONG_CYCLE_NS 200000LL /* from one request to the next: longer ones count as this, */
#define IDLE_NS MILLISECOND    /* and what is longer than this was the program's */

enum {
    TURN_MS = 10,   /* after this time others of Python's tasks run */
    MOST_LATE = 16, /* READs at once */
    MOST_LATE_BYTES = 1 << 16,
    TRIAL = 32, /* requests (choose_wait) */
    TERM = 1 << 12,
    BRIEFLY_NS = 10 * MILLISECOND,
};

static struct state own;
struct state *native_plane = &own;
static bool spins; /* as it waits for requests */

/* Of each opcode: the nanoseconds that all of its requests took, and how many took less than
 * 1024 << n (fuse/statistics.py). */
static uint64_t counts[OPCODES][1 + LATENCIES];

/* ---- nodes ---------------------------------------------------------------------------------- */

static size_t id_bucket(uint64_t id)
{
    return (size_t)((id * 0x9E3779B97F4A7C15ULL) >> 20) & (plane.buckets - 1);
}

static size_t name_bucket(const struct node *above, const char *name)
{
    uint64_t hash = (uintptr_t)above * 0x9E3779B97F4A7C15ULL;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001B3ULL;
    return (size_t)(hash >> 20) & (plane.buckets - 1);
}

struct node *find(uint64_t id)
{
    struct node *node = plane.buckets ? plane.ids[id_bucket(id)] : NULL;
    while (node && node->id != id)
        node = node->next_id;
    return node;
}

struct node *child(const struct node *above, const char *name)
{
    struct node *node = plane.names[name_bucket(above, name)];
    while (node && (node->above != above || strcmp(node->name, name) != 0))
        node = node->next_name;
    return node;
}

void insert_name(struct node *node)
{
    size_t by_name = name_bucket(node->above, node->name);
    node->next_name = plane.names[by_name];
    plane.names[by_name] = node;
}

void insert_id(struct node *node)
{
    size_t by_id = id_bucket(node->id);
    node->next_id = plane.ids[by_id];
    plane.ids[by_id] = node;
}

static void insert(struct node *node)
{
    insert_id(node);
    if (*node->name)
        insert_name(node);
}

void grow_table(void)
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
static struct node *add(uint64_t id, struct node *above, const char *name, enum owner owner)
{
    size_t length = strlen(name) + 1;
    struct node *node = kept_alloc(sizeof *node + length, true);
    if (plane.count >= plane.buckets)
        grow_table();
    memset(node, 0, sizeof *node);
    node->name = memcpy(node->given_name, name, length);
    node->above = above;
    node->above_id = above ? above->id : 0;
    node->owner = owner;
    node->fd = node->upper = node->kept = -1;
    node->modified = UNSET;
    node->generation = FIRST_GENERATION + plane.generation++ % (UINT32_MAX - FIRST_GENERATION);
    if (above)
        above->children++;
    plane.count++;
    STORED();
    node->id = id;
    insert(node);
    return node;
}

/* Take a node's name away: nothing finds it by its name any more. */
void drop_name(struct node *node)
{
    struct node **link = *node->name ? &plane.names[name_bucket(node->above, node->name)] : NULL;
    while (link && *link != node)
        link = &(*link)->next_name;
    if (link)
        *link = node->next_name;
    *node->name = '\0';
}

void drop_names(struct node *node)
{
    plane.names_kept -= node->names ? node->names->count : 0;
    names_free(node->names);
    node->names = NULL;
}

void keep_name(struct node *directory, const char *text, struct name name)
{
    if (!directory->names)
        return;
    size_t before = directory->names->count;
    names_put(directory->names, text, name);
    plane.names_kept += directory->names->count - before;
    /* Names that came and went are never dropped one by one. */
    if (directory->changes && directory->names->count > MOST_WITH_CHANGES)
        drop_names(directory);
}

/* Close the descriptors, which ends a grant. */
static void close_node(struct node *node)
{
    if (node->fd >= 0) {
        kept_close(&node->fd);
        *(S_ISDIR(node->kind) ? &plane.directories : &plane.files) -= 1;
    }
    if (node->upper >= 0) {
        kept_close(&node->upper);
        plane.directories--;
    }
    for (size_t at = 0; node->lowers && at < node->lowers->count; at++) {
        kept_close(&node->lowers->at[at].fd);
        plane.directories--;
    }
    kept_free(node->lowers);
    drop_names(node);
    node->lowers = NULL;
    node->granted = false;
    node->changes = node->changes && node->owner == OURS; /* that opens again */
}

/* Tell Python: the change time of a file that the kernel has forgotten, or, if that is 0, to forget
 * the lookup of a directory that was held back. */
static void forget_later(const struct node *node, int64_t change_time)
{
    if (plane.forgotten_count == plane.forgotten_room) {
        plane.forgotten_room = 2 * plane.forgotten_room + 16;
        plane.forgotten = grown(plane.forgotten, plane.forgotten_room * sizeof *plane.forgotten);
    }
    plane.forgotten[plane.forgotten_count++] = (struct forgotten){node->id, change_time};
    plane.forgets = plane.forgets || !change_time || plane.forgotten_count == MANY_FORGOTTEN;
}

void settle(struct node *node)
{
    while (node && !node->children) {
        struct node *above = node->above;
        if (node->owner == PYTHON && node->withheld) {
            node->withheld = false;
            forget_later(node, 0);
        }
        if (node->owner == PYTHON || node->owner == CROSSING || node->lookups || node->handles)
            return;
        struct node **link = &plane.ids[id_bucket(node->id)];
        while (*link != node)
            link = &(*link)->next_id;
        *link = node->next_id;
        drop_name(node);
        if (node->change_time && !node->removed)
            forget_later(node, node->change_time);
        close_node(node);
        kept_close(&node->kept);
        kept_free_node(node);
        plane.count--;
        if (above)
            above->children--;
        node = above;
    }
}

/* Let the node, and those above it, cross to Python, which takes them from the list `crossing`. */
static void cross(struct node *node)
{
    size_t depth = 0;
    for (const struct node *up = node; up && up->owner == OURS; up = up->above)
        depth++;
    if (plane.crossing_count + depth > plane.crossing_room) {
        plane.crossing_room = 2 * plane.crossing_room + depth;
        plane.crossing = grown(plane.crossing, plane.crossing_room * sizeof *plane.crossing);
    }
    plane.crossing_count += depth;
    for (size_t at = plane.crossing_count; depth > 0; depth--, node = node->above) {
        node->owner = CROSSING;
        plane.crossing[--at] = node;
    }
}

/* ---- directories ---------------------------------------------------------------------------- */

struct place place_in(const struct node *above, bool made, unsigned place)
{
    /* Never the lower's file of that name, which would be opened for writing. */
    if (made && (above->upper >= 0 || !above->made))
        return (struct place){above->upper, plane.upper_device, plane.upper_base, false};
    if (above->fd < 0 && above->lowers && place < above->lowers->count)
        return above->lowers->at[place];
    return (struct place){above->fd, above->device, above->base, above->below_lists};
}

static int fd_in(const struct node *above, bool made) { return place_in(above, made, 0).fd; }

/* The place of a node of ours. */
static struct place place_above(const struct node *node)
{
    return place_in(node->above, node->made, node->found_at);
}

static bool is_inode_of(const struct node *node, const struct stat *st)
{
    struct place at = place_above(node);
    return node->made ? st->st_dev == plane.upper_device && st->st_ino == node->inode
                      : st->st_dev == at.device && (at.base | st->st_ino) == node->id;
}

/* Whether the node has descriptors of its own. */
static bool is_open(const struct node *node)
{
    return node->fd >= 0 || node->upper >= 0 || node->lowers;
}

/* Whether names in the directory can be reached: it is open then. */
static bool reach(struct node *node)
{
    struct stat st;
    node->used = true;
    if (is_open(node))
        return true;
    unsigned closed = 0; /* the stack has an end */
    for (const struct node *up = node; up && !is_open(up); up = up->above)
        closed++;
    if (closed > MOST_CLOSED || node->owner != OURS || node->left || !S_ISDIR(node->kind) ||
        node->removed || !reach(node->above))
        return false;
    struct place at = place_above(node);
    int fd = openat(at.fd, node->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    if (fstat(fd, &st) < 0 || !is_inode_of(node, &st) || is_marked(fd)) {
        close(fd);
        return false;
    }
    node->fd = fd;
    node->device = st.st_dev;
    node->base = at.base;
    node->lists_inodes = node->below_lists = at.below_lists;
    plane.directories++;
    return true;
}

/* Whether requests about what is in the directory are answered here. */
static bool serves(struct node *node)
{
    return node && S_ISDIR(node->kind) && (node->owner == OURS || node->granted || node->changes) &&
           reach(node);
}

static bool are_too_many(void)
{
    return plane.directories > plane.most_directories || plane.names_kept > MOST_KEPT;
}

/* Close directories that were not used lately, first those that open again by themselves. */
static void evict(void)
{
    for (size_t passed = 0; are_too_many(); passed++) {
        bool all = passed >= 2 * plane.buckets;
        if (passed >= 4 * plane.buckets)
            return;
        plane.hand = (plane.hand + 1) & (plane.buckets - 1);
        for (struct node *node = plane.ids[plane.hand]; node; node = node->next_id)
            if (is_open(node) && S_ISDIR(node->kind) && !node->removed &&
                (all || node->owner == OURS)) {
                if (!node->used)
                    close_node(node);
                node->used = false;
            }
    }
}

/* ---- traces --------------------------------------------------------------------------------- */

/* What is answered, noted for Python (_native.pyi: plane_trace). */
static struct {
    char *notes; /* NULL: no trace runs */
    size_t size, room;
    uint64_t opcodes, lost;
    bool is_due;            /* Python takes the notes before the next request is read */
    uint32_t programs[256]; /* that Python has named in the last second */
    int64_t named;
} trace;

/* Note that the request in `plane.block` is answered. */
static void note(int error, const void *data, size_t size)
{
    const struct fuse_in_header *header = (const void *)plane.block;
    const size_t most = header->opcode == FUSE_WRITE ? sizeof(struct fuse_write_in) : MOST_NOTED;
    uint32_t head[] = {header->len, (uint32_t)error};
    uint64_t found = 0;
    if (!trace.notes || !(trace.opcodes >> (header->opcode % OPCODES) & 1))
        return;
    if (head[0] > sizeof *header + most)
        head[0] = (uint32_t)(sizeof *header + most);
    if (trace.size + sizeof head + sizeof found + head[0] > trace.room) {
        trace.lost++;
        return;
    }
    memcpy(&found, data, size < sizeof found ? size : sizeof found);
    char *at = trace.notes + trace.size;
    memcpy(at, head, sizeof head);
    memcpy(at + sizeof head, &found, sizeof found);
    memcpy(at + sizeof head + sizeof found, header, head[0]);
    trace.size += sizeof head + sizeof found + head[0];
    uint32_t *known = &trace.programs[header->pid % 256];
    if (now_on(CLOCK_MONOTONIC) - trace.named > SECOND) {
        memset(trace.programs, 0, sizeof trace.programs);
        trace.named = now_on(CLOCK_MONOTONIC);
    }
    trace.is_due |= *known != header->pid || trace.size > trace.room / 2;
    *known = header->pid;
}

PyObject *py_plane_trace(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t room;
    if (!PyArg_ParseTuple(args, "KK", &room, &trace.opcodes))
        return NULL;
    PyObject *taken = Py_BuildValue(
        "NK", PyBytes_FromStringAndSize(trace.notes, (Py_ssize_t)trace.size), trace.lost);
    if (room != trace.room) {
        free(trace.notes);
        trace.notes = room ? grown(NULL, (size_t)room) : NULL;
        trace.room = (size_t)room;
    }
    trace.size = 0;
    trace.lost = 0;
    trace.is_due = false;
    return taken;
}

/* For how long the kernel may keep a name. While a trace runs it asks for each file again, but once
 * for what a program does with one path at once. Lookups only pass through directories. */
static void set_valid(struct fuse_entry_out *to, mode_t mode, bool is_live)
{
    bool is_traced = trace.notes && !S_ISDIR(mode);
    const struct timeout valid = plane.timeouts[is_live];
    to->entry_valid = is_traced ? 0 : valid.seconds;
    to->entry_valid_nsec = is_traced ? BRIEFLY_NS : valid.nanoseconds;
    to->attr_valid = valid.seconds;
    to->attr_valid_nsec = valid.nanoseconds;
}

static bool is_live(const struct node *node) { return node->liveness && !node->made; }

/* ---- replies -------------------------------------------------------------------------------- */

bool reply(uint64_t unique, int error, const void *data, size_t size)
{
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof header + size), .error = -error, .unique = unique};
    struct iovec parts[] = {{&header, sizeof header}, {(void *)(uintptr_t)data, size}};
    if (trace.notes && ((const struct fuse_in_header *)(const void *)plane.block)->unique == unique)
        note(error, data, size);
    return writev(plane.device, parts, size ? 2 : 1) >= 0;
}

static void fill_attributes(struct fuse_attr *to, const struct node *node, const struct stat *st)
{
    const uint32_t *unmapped = plane.unmapped[node->made || node->upper >= 0];

    fill_stat(to, node->id, st);
    if (plane.static_nlink && S_ISDIR(st->st_mode))
        to->nlink = 1;
    if (to->uid == unmapped[0])
        to->uid = 0;
    if (to->gid == unmapped[1]) /* of an own file: a supplementary group (overlay/owners.py) */
        to->gid = to->uid == plane.uid ? plane.gid : 0;
    if (node->change_time) {
        to->ctime = (uint64_t)(node->change_time / SECOND);
        to->ctimensec = (uint32_t)(node->change_time % SECOND);
    }
    if (node->removed || node->lowers) /* which is a merged directory, as overlay/tree.py */
        to->nlink = node->removed ? 0 : 1;
}

void plane_fill_entry(struct fuse_entry_out *to, uint64_t id, uint64_t generation,
                      const struct stat *st)
{
    *to = (struct fuse_entry_out){
        .nodeid = id,
        .generation = generation,
    };
    set_valid(to, st->st_mode, false);
    fill_stat(&to->attr, id, st);
}

void fill_entry(struct fuse_entry_out *to, const struct node *node, const struct stat *st)
{
    plane_fill_entry(to, node->id, node->generation, st);
    set_valid(to, st->st_mode, is_live(node));
    fill_attributes(&to->attr, node, st);
}

/* ---- live lowers ---------------------------------------------------------------------------- */

/* Whether the kernel knows what a lower's file is now. A reply that names a new node tells it. */
static bool is_known(struct node *node, const struct stat *st)
{
    int64_t modified = nanoseconds_of(&st->st_mtim), changed = nanoseconds_of(&st->st_ctim);
    if (!is_live(node) || S_ISDIR(node->kind))
        return true;
    if (node->fresh)
        return node->told_size == st->st_size && node->told_modified == modified &&
               node->told_changed == changed;
    node->told_size = st->st_size;
    node->told_modified = modified;
    node->told_changed = changed;
    node->fresh = now_on(CLOCK_REALTIME);
    return true;
}

/* Whether the kernel may keep the pages that it has of a file which is opened. */
static bool keeps_pages(struct node *node)
{
    int64_t changed =
        node->told_modified > node->told_changed ? node->told_modified : node->told_changed;
    if (!is_live(node) || (node->liveness == LIVE && node->fresh - changed > SETTLED))
        return true;
    node->fresh = now_on(CLOCK_REALTIME);
    return false;
}

/* A lower has something else under the node's name. Programs that have it open keep it. */
static void retire(struct node *node)
{
    drop_name(node);
    node->owner = DEAD;
    settle(node);
}

/* ---- names ---------------------------------------------------------------------------------- */

struct node *node_of(struct node *above, const char *name, unsigned place, const struct stat *st)
{
    struct place at = place_in(above, false, place);
    uint64_t id = at.base | st->st_ino;
    if (st->st_dev != at.device || st->st_ino >= INODE_LIMIT || id <= FUSE_ROOT_ID ||
        !(S_ISDIR(st->st_mode) ||
          ((S_ISREG(st->st_mode) || S_ISLNK(st->st_mode)) && st->st_nlink == 1)))
        return NULL;
    /* It may be a metacopy (overlay/lookup.py). */
    if (S_ISREG(st->st_mode) && st->st_blocks * 512 < st->st_size)
        return NULL;
    struct node *node = find(id);
    if (node) {
        if (node->owner != OURS || node->left || node->above != above || node->found_at != place ||
            strcmp(node->name, name) != 0 || node->kind != (st->st_mode & S_IFMT))
            return NULL;
        if (is_known(node, st))
            return node;
        if (!node->handles)
            retire(node); /* Python finds it a new nodeid */
        return NULL;
    }
    node = child(above, name);
    if (node) {
        /* The lower has changed: another inode is under this name. */
        if (node->owner == PYTHON || node->owner == CROSSING || node->left)
            return NULL;
        retire(node);
    }
    node = add(id, above, name, OURS);
    node->kind = st->st_mode & S_IFMT;
    node->found_at = (uint8_t)place;
    node->liveness = above->liveness;
    (void)is_known(node, st);
    return node;
}

static bool is_plain(const char *name)
{
    return strncmp(name, AUFS_PREFIX, sizeof AUFS_PREFIX - 1) != 0 && strlen(name) <= MOST_NAMES;
}

/* Whether requests about this name in a directory that is served may be answered here, if its names
 * are not known, or a new one is to be made. */
static bool is_plain_name(const struct node *above, const char *name)
{
    struct stat st;
    if (!is_plain(name))
        return false;
    for (size_t at = 0; above->lowers && at < above->lowers->count; at++)
        if (fstatat(above->lowers->at[at].fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ||
            errno != ENOENT)
            return false;
    return true;
}

/* The node of a name in a directory of the upper, if it was made here; else NULL. */
static struct node *made(struct node *above, const char *name)
{
    struct node *node = child(above, name);
    return node && node->owner == OURS && !node->left && node->made ? node : NULL;
}

/* Read the names of a directory below a grant once a few were missing: further ones then take no
 * system call. One of Python's may be copied up. */
static void note_missing(struct node *directory)
{
    if (!plane.keeps_names || directory->owner != OURS || directory->changes || directory->made ||
        ++directory->missed != MANY_MISSED)
        return;
    directory->names = names_new();
    if (!read_names(directory, &(struct lone){.most = MOST_MISSED}))
        drop_names(directory);
}

/* Answer with a node, which counts as a lookup of it if the kernel takes it. */
static void reply_entry(const struct fuse_in_header *header, struct node *node,
                        const struct stat *st)
{
    struct fuse_entry_out entry;
    fill_entry(&entry, node, st);
    node->lookups++;
    if (!reply(header->unique, 0, &entry, sizeof entry)) {
        node->lookups--;
        settle(node);
    }
}

static bool answer_missing(const struct fuse_in_header *header, const struct node *above)
{
    struct fuse_entry_out none = {0};
    set_valid(&none, 0, above->liveness);
    reply(header->unique, 0, &none, sizeof none);
    return true;
}

static bool answer_lookup(const struct fuse_in_header *header, struct node *above, const char *name)
{
    struct stat st;
    const struct names *names = above->names;
    unsigned place = names ? names_place(names, name) : above->changes ? PLACE_OF_PYTHON : 0;
    bool in_upper = place == PLACE_OF_PYTHON, is_known = names || (in_upper && made(above, name));
    if (!(is_known ? is_plain(name) : is_plain_name(above, name)))
        return false;
    if (place == ABSENT)
        return !child(above, name) && answer_missing(header, above);
    if (names && in_upper && !made(above, name))
        return false;
    if (fstatat(place_in(above, in_upper, place).fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno != ENOENT || names || child(above, name))
            return false;
        note_missing(above);
        return answer_missing(header, above);
    }
    struct node *node = in_upper ? made(above, name) : node_of(above, name, place, &st);
    if (!node || !is_inode_of(node, &st))
        return false;
    reply_entry(header, node, &st);
    return true;
}

/* Where a system call finds a node of ours, or a granted directory: `name` in `fd`, or `fd` itself
 * with the empty name and AT_EMPTY_PATH. Returns false if it is out of reach. */
static bool place_of(struct node *node, int *fd, const char **name)
{
    bool itself = S_ISDIR(node->kind) || node->removed;
    if (itself ? !(node->removed || serves(node)) : node->owner == DEAD || !reach(node->above))
        return false;
    if (!itself)
        *fd = place_above(node).fd;
    else if (node->removed || node->upper < 0)
        *fd = place_in(node, false, 0).fd;
    else
        *fd = node->upper;
    *name = itself ? "" : node->name;
    return true;
}

/* Returns false if Python has to say. */
static bool attributes(struct node *node, struct stat *st)
{
    const char *name;
    int fd;
    if (place_of(node, &fd, &name) &&
        fstatat(fd, name, st, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) == 0 &&
        (!*name || is_inode_of(node, st)))
        return true;
    /* The lower has changed. */
    for (size_t at = 0; at < plane.handle_count && node->handles; at++)
        if (plane.handles[at].node == node)
            return fstat(plane.handles[at].fd, st) == 0;
    return false;
}

static bool reply_attributes(const struct fuse_in_header *header, struct node *node)
{
    const struct timeout valid = plane.timeouts[is_live(node)];
    struct fuse_attr_out out = {.attr_valid = valid.seconds, .attr_valid_nsec = valid.nanoseconds};
    struct stat st;
    /* Of a directory with live lowers Python compares all. It shows programs how a file that they
     * have open has grown. */
    if ((node->liveness && node->lowers) || !attributes(node, &st) ||
        (node->owner == OURS && node->handles && !is_known(node, &st)))
        return false;
    fill_attributes(&out.attr, node, &st);
    reply(header->unique, 0, &out, sizeof out);
    return true;
}

static bool answer_readlink(const struct fuse_in_header *header, struct node *node)
{
    const char *name;
    int fd;
    if (!S_ISLNK(node->kind) || !place_of(node, &fd, &name))
        return false;
    ssize_t size = readlinkat(fd, name, plane.reply, 4096);
    if (size < 0)
        return false;
    reply(header->unique, 0, plane.reply, (size_t)size);
    return true;
}

/* ---- extended attributes -------------------------------------------------------------------- */

/* The path of a node for a system call that follows no last symbolic link, unless `follows`.
 * Returns false if it cannot be reached. */
static bool path_of(struct node *node, char *path, size_t size, bool *follows)
{
    const char *name;
    int fd;
    if (!place_of(node, &fd, &name))
        return false;
    *follows = !*name;
    (void)snprintf(path, size, "/proc/self/fd/%d%s%s", fd, *name ? "/" : "", name);
    return true;
}

/* Answer with the value of an attribute, or with the names of all if `name` is NULL. */
static bool answer_xattr(const struct fuse_in_header *header, struct node *node, uint32_t room,
                         const char *name)
{
    char path[64 + MOST_NAMES];
    bool follows;
    if (!plane.xattr || (name && (is_marker(name) || (is_acl(name) && !plane.acl))))
        return false;
    /* Asked for before a file's first write. */
    if (name && S_ISREG(node->kind) && node->made && strcmp(name, "security.capability") == 0)
        return reply(header->unique, ENODATA, NULL, 0), true;
    if (!path_of(node, path, sizeof path, &follows))
        return false;
    /* The kernel allocates as much as is asked for, and clears it. */
    size_t most = 256;
    ssize_t size;
    do {
        size = name ? (follows ? getxattr : lgetxattr)(path, name, plane.reply, most)
                    : (follows ? listxattr : llistxattr)(path, plane.reply, most);
    } while (size < 0 && errno == ERANGE && most < XATTR_SIZE_MAX && (most = XATTR_SIZE_MAX));
    if (size < 0 && errno == (name ? ENODATA : EOPNOTSUPP))
        size = name ? -ENODATA : 0;
    else if (size < 0 && name && is_acl(name) && errno == EOPNOTSUPP)
        size = -ENODATA;
    else if (size < 0 || (name && is_acl(name)))
        return false;
    for (ssize_t at = 0; !name && at < size; at += (ssize_t)strlen(plane.reply + at) + 1)
        if (is_acl(plane.reply + at) || is_marker(plane.reply + at) ||
            strncmp(plane.reply + at, "trusted.", 8) == 0)
            return false;
    struct fuse_getxattr_out out = {.size = size < 0 ? 0 : (uint32_t)size};
    int error = size < 0 ? ENODATA : room && (size_t)size > room ? ERANGE : 0;
    if (error || room)
        reply(header->unique, error, plane.reply, error ? 0 : (size_t)size);
    else
        reply(header->unique, 0, &out, sizeof out);
    return true;
}

/* ---- files ---------------------------------------------------------------------------------- */

static uint64_t number_of(const struct handle *handle)
{
    return OUR_HANDLE | (uint64_t)handle->generation << GENERATION_SHIFT |
           (uint64_t)(handle - plane.handles);
}

static struct handle *handle_of(uint64_t number)
{
    size_t at = (size_t)(uint32_t)number;
    struct handle *handle = at < plane.handle_count ? &plane.handles[at] : NULL;
    return handle && handle->used && number == number_of(handle) ? handle : NULL;
}

static size_t free_handle(void)
{
    static size_t after;
    for (size_t tried = 0; tried < plane.handle_count; tried++) {
        after = (after + 1) % plane.handle_count;
        if (!plane.handles[after].used)
            return after;
    }
    size_t at = plane.handle_count;
    struct handle *before = plane.handles;
    struct handle *more = kept_alloc((2 * at + 64) * sizeof *more, false);
    memset(more, 0, (2 * at + 64) * sizeof *more);
    if (before)
        memcpy(more, before, at * sizeof *more);
    STORED();
    plane.handles = more;
    STORED();
    plane.handle_count = 2 * at + 64;
    kept_free(before);
    return after = at;
}

/* Put the modification time back that the file had before it was written to, unless the kernel has
 * set one since: it keeps that time itself, and sends it (overlay/files.py). */
static void restore_times(const struct handle *handle)
{
    struct node *node = handle->node;
    if (!node || !node->made || handle->fd < 0)
        return;
    int64_t modified = node->modified;
    node->modified = UNSET;
    if (modified == UNSET || (!node->asked && modified < node->opened - CLOCK_LAG))
        return;
    set_modified(handle->fd, modified);
}

static void close_handle(struct handle *handle)
{
    struct node *node = handle->node;
    restore_times(handle);
    if (handle->fd >= 0) {
        kept_close(&handle->fd);
        plane.files--;
    }
    handle->node = NULL;
    if (node) {
        node->handles--;
        node->shared = 0;
        settle(node);
    }
}

/* A handle of a node. */
static struct handle *use_handle(struct handle given)
{
    size_t at = free_handle(); /* which may move them */
    struct handle *handle = &plane.handles[at];
    given.generation = (handle->generation + 1) % GENERATIONS;
    given.used = false;
    *handle = given;
    STORED();
    handle->used = true;
    return handle;
}

/* A new handle, which takes the descriptor over. */
static struct handle *new_handle(int fd, struct node *node, uint32_t flags)
{
    struct handle *handle = use_handle(
        (struct handle){.fd = fd, .node = node, .writable = (flags & O_ACCMODE) != O_RDONLY});
    plane.files++;
    if (node->handles++ == 0) {
        node->opened = now_on(CLOCK_REALTIME);
        node->modified = UNSET;
        node->asked = 0;
        node->direct = false;
    }
    node->direct |= (flags & O_DIRECT) != 0;
    handle->recent = true;
    node->shared = plane.no_open ? (size_t)(handle - plane.handles) + 1 : 0;
    return handle;
}

static void drop_handle(struct handle *handle)
{
    close_handle(handle);
    handle->used = false;
}

/* Whether one more file may be open. Without OPEN one that was not used lately is closed for it,
 * first such as were not written to: an error of the disk reaches those that are open. */
static bool has_room(void)
{
    static size_t hand;
    const size_t most = plane.no_open ? 4 * plane.handle_count : 0;
    for (size_t passed = 0; plane.files >= plane.most_files && passed < most; passed++) {
        hand = (hand + 1) % plane.handle_count;
        struct handle *handle = &plane.handles[hand];
        if (handle->used && !handle->recent && (!handle->written || passed >= most / 2))
            drop_handle(handle);
        handle->recent = false;
    }
    return plane.files < plane.most_files;
}

/* Whether a file of a lower may have its data elsewhere, with a block of attributes in place of one
 * of data. Larger ones have too few blocks then (node_of). */
static bool may_be_metacopy(int fd, const struct stat *st)
{
    return st->st_size && st->st_blocks * 512 <= st->st_blksize && is_marked(fd);
}

/* Open a file. Returns NULL if Python has to say. */
static struct handle *open_file(struct node *node, uint32_t flags)
{
    char path[64];
    const char *name;
    struct stat st;
    int at, fd;
    bool writes = (flags & O_ACCMODE) != O_RDONLY;
    /* The kernel also reads through what a program opened for writing (overlay/files.py). */
    int access = (writes ? O_RDWR : O_RDONLY) | O_NONBLOCK;
    if ((writes && !node->made) || flags & O_TRUNC || !S_ISREG(node->kind) || !has_room() ||
        !place_of(node, &at, &name))
        return NULL;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", at);
    fd = *name ? open_quietly(at, name, access) : open(path, access | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &st) == 0 && is_inode_of(node, &st) && is_known(node, &st) &&
        (node->made || !may_be_metacopy(fd, &st)))
        return new_handle(fd, node, flags);
    if (fd >= 0)
        close(fd);
    return NULL;
}

static bool reply_open(const struct fuse_in_header *header, struct handle *handle)
{
    if (!handle)
        return false;
    struct fuse_open_out out = {.fh = number_of(handle)};
    out.open_flags = keeps_pages(handle->node) ? FOPEN_KEEP_CACHE : 0;
    if (!reply(header->unique, 0, &out, sizeof out))
        drop_handle(handle);
    return true;
}

/* The handle that all programs share without OPEN. Returns NULL if Python has to say. */
static struct handle *shared_handle(struct node *node, bool writes)
{
    struct handle *handle = node->shared ? &plane.handles[node->shared - 1] : NULL;
    if (handle && writes && !handle->writable) {
        if (!node->made || node->owner != OURS)
            return NULL;
        drop_handle(handle);
        handle = NULL;
    }
    if (!handle && node->owner == OURS)
        handle = open_file(node, writes ? O_RDWR : O_RDONLY);
    if (handle)
        handle->recent = true;
    return handle;
}

/* READs of what the disk is being asked for, answered once no other request is there, and before
 * Python runs: their handles do not change. */
static struct late {
    uint64_t unique, handle, offset;
    int64_t started;
    uint32_t size;
} late[MOST_LATE];
static unsigned late_count;

/* Answer a READ whose first `count` bytes are there. */
static void reply_read(uint64_t unique, int fd, uint64_t offset, uint32_t size, size_t count)
{
    ssize_t more = 0;
    if (count < size)
        more = pread(fd, plane.reply + count, size - count, (off_t)(offset + count));
    if (more < 0)
        reply(unique, errno, NULL, 0);
    else
        reply(unique, 0, plane.reply, count + (size_t)more);
}

static void answer_read(const struct fuse_in_header *header, const struct handle *handle,
                        const struct fuse_read_in *in)
{
    static bool waits[2]; /* the file system of a lower, that of the upper, for all it reads */
    bool *must_wait = &waits[handle->node && handle->node->made];
    struct iovec to = {plane.reply, in->size};
    ssize_t count = 0;
    /* A stream has enough with the disk's readahead. Without OPEN a handle may be closed for
     * another one. */
    if (in->size <= MOST_LATE_BYTES && !*must_wait && !plane.no_open) {
        count = preadv2(handle->fd, &to, 1, (off_t)in->offset, RWF_NOWAIT);
        if (count < 0 && errno == EAGAIN && late_count < MOST_LATE) {
            late[late_count++] =
                (struct late){header->unique, number_of(handle), in->offset, 0, in->size};
            return;
        }
        *must_wait = count < 0 && errno == EOPNOTSUPP;
    }
    reply_read(header->unique, handle->fd, in->offset, in->size, count < 0 ? 0 : (size_t)count);
}

/* ---- changes in the upper ------------------------------------------------------------------- */

/* What a write of this thread may take away from a file, but one of the kernel's cache keeps.
 * Python keeps them: no file that is made here, or given, has these bits or a capability. */
#define SET_IDS (S_ISUID | S_ISGID)

/* Whether the directory is one of the upper in which names may be changed. */
static bool takes_changes(struct node *directory)
{
    return serves(directory) && directory->changes && !directory->removed;
}

/* Files with bytes that the kernel's cache had and the disk did not take. The error goes to the
 * next call that waits for them, which may be one whose result nobody looks at (chown(2) of
 * `sed -i`), and then close(2) returns 0. So their next rename or link fails as well. */
static struct {
    uint64_t id;
    int error;
} incomplete[MOST_INCOMPLETE];
static unsigned incomplete_count;

/* Take the error of a file off the table. Returns 0 if it has none. */
static int take_incomplete(uint64_t id)
{
    for (unsigned at = 0; at < incomplete_count; at++)
        if (incomplete[at].id == id) {
            int error = incomplete[at].error;
            incomplete[at] = incomplete[--incomplete_count];
            return error;
        }
    return 0;
}

static void note_incomplete(uint64_t id, int error)
{
    (void)take_incomplete(id);
    if (incomplete_count == MOST_INCOMPLETE) /* the first one */
        memmove(incomplete, incomplete + 1, --incomplete_count * sizeof *incomplete);
    incomplete[incomplete_count].id = id;
    incomplete[incomplete_count++].error = error;
}

/* Whether the file that is made has the owner that the caller's files have (overlay/creation.py).
 */
static bool is_own(const struct fuse_in_header *header)
{
    return header->uid == plane.uid && header->gid == plane.gid;
}

/* The node of what was just made, without a lookup yet. Returns NULL, with it removed again, if it
 * cannot have the nodeid of its inode. */
static struct node *node_of_new(struct node *above, const char *name, struct stat *st)
{
    int fd = fd_in(above, true);
    bool is_there = fstatat(fd, name, st, AT_SYMLINK_NOFOLLOW) == 0;
    uint64_t id = is_there ? plane.upper_base | st->st_ino : 0;
    above->changed = true;
    if (!is_there || st->st_dev != plane.upper_device || st->st_ino >= INODE_LIMIT ||
        id <= FUSE_ROOT_ID || find(id)) {
        (void)unlinkat(fd, name, is_there && S_ISDIR(st->st_mode) ? AT_REMOVEDIR : 0);
        return NULL;
    }
    struct node *node = add(id, above, name, OURS);
    (void)take_incomplete(id); /* of an earlier file with its inode number */
    node->kind = st->st_mode & S_IFMT;
    node->made = true;
    node->inode = st->st_ino;
    node->changes = S_ISDIR(st->st_mode);
    keep_name(above, name, (struct name){.place = PLACE_OF_PYTHON});
    return node;
}

/* Whether a new name may be made here. */
static bool may_make(const struct fuse_in_header *header, struct node *above, const char *name)
{
    return takes_changes(above) && is_own(header) && is_plain_name(above, name) &&
           !child(above, name);
}

/* Whether the first write to a file that is made takes a SETATTR: its times are before those of its
 * directory, which changes last, and the kernel sets none before those. (Since Linux 6.13 a change
 * after a stat has a time of its own.) Once set again, they are not, nor are those of later files.
 */
static bool new_are_early;

static bool answer_create(const struct fuse_in_header *header, struct node *above,
                          const struct fuse_create_in *in, const char *name)
{
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out;
    struct stat st;
    if (in->mode & SET_IDS || !may_make(header, above, name) || !has_room())
        return false;
    mode_t before = umask(in->umask & 0777);
    int fd =
        openat(fd_in(above, true), name,
               O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOATIME, in->mode & 07777);
    umask(before);
    if (fd < 0)
        return false;
    if (new_are_early)
        (void)futimens(fd, NULL);
    new_are_early = false;
    struct node *node = node_of_new(above, name, &st);
    if (!node) {
        close(fd);
        return false;
    }
    struct handle *handle = new_handle(fd, node, in->flags | O_RDWR);
    fill_entry(&out.entry, node, &st);
    out.open = (struct fuse_open_out){.fh = plane.no_open ? 0 : number_of(handle),
                                      .open_flags = FOPEN_KEEP_CACHE};
    node->lookups++;
    if (!reply(header->unique, 0, &out, sizeof out)) {
        node->lookups--;
        drop_handle(handle);
    }
    return true;
}

/* Make a directory, or a symbolic link to `target`. */
static bool answer_make(const struct fuse_in_header *header, struct node *above, const char *name,
                        mode_t mode, mode_t mask, const char *target)
{
    struct stat st;
    if (!may_make(header, above, name))
        return false;
    int fd = fd_in(above, true);
    mode_t before = umask(mask & 0777);
    int result = target ? symlinkat(target, fd, name) : mkdirat(fd, name, mode & 07777);
    umask(before);
    struct node *node = result < 0 ? NULL : node_of_new(above, name, &st);
    if (!node)
        return false;
    reply_entry(header, node, &st);
    return true;
}

/* Keep a descriptor of the inode of a node whose name is about to go. */
static bool keep_inode(struct node *node)
{
    if (S_ISDIR(node->kind))
        return reach(node);
    if (!has_room())
        return false;
    node->fd = openat(place_above(node).fd, node->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    plane.files += node->fd >= 0;
    return node->fd >= 0;
}

/* End `keep_inode`: whether the name has gone. */
static void end_removal(struct node *node, bool removed)
{
    if (removed) {
        node->removed = true;
        drop_name(node);
    } else if (!S_ISDIR(node->kind))
        close_node(node);
}

static bool answer_remove(const struct fuse_in_header *header, struct node *above, const char *name)
{
    bool is_directory = header->opcode == FUSE_RMDIR;
    struct node *node = takes_changes(above) ? made(above, name) : NULL;
    if (!node || S_ISDIR(node->kind) != is_directory || !is_plain_name(above, name) ||
        !keep_inode(node))
        return false;
    bool removed = unlinkat(fd_in(above, true), name, is_directory ? AT_REMOVEDIR : 0) == 0;
    end_removal(node, removed);
    if (!removed)
        return false;
    keep_name(above, name, (struct name){.place = ABSENT});
    above->changed = true;
    reply(header->unique, 0, NULL, 0);
    return true;
}

/* Give a node another place. */
void move(struct node *node, struct node *above, const char *name)
{
    struct node *before = node->above;
    kept_link(node, above->id, name);
    drop_name(node);
    kept_name(node, name);
    node->above = above;
    node->above_id = above->id;
    above->children++;
    insert_name(node);
    before->children--;
    settle(before);
}

static bool answer_rename(const struct fuse_in_header *header, struct node *above, const char *name,
                          struct node *onto, const char *new_name, uint32_t flags)
{
    if (flags & ~(uint32_t)RENAME_NOREPLACE || !takes_changes(above) || !takes_changes(onto))
        return false;
    struct node *node = made(above, name), *target = child(onto, new_name);
    if (!node || target == node || !is_plain_name(above, name) || !is_plain_name(onto, new_name) ||
        (node->found_at == PLACE_OF_PYTHON && above != onto))
        return false; /* its origin is marked in the directory that it comes to */
    if (target && (flags || made(onto, new_name) != target || S_ISDIR(node->kind) ||
                   S_ISDIR(target->kind) || !keep_inode(target)))
        return false;
    kept_begin_rename(above->id, name, onto->id, new_name);
    bool moved = renameat2(fd_in(above, true), name, fd_in(onto, true), new_name,
                           target ? 0 : RENAME_NOREPLACE) == 0;
    if (target)
        end_removal(target, moved);
    if (moved)
        move(node, onto, new_name);
    STORED();
    plane.renaming.under_way = false;
    if (!moved)
        return false;
    keep_name(above, name, (struct name){.place = ABSENT});
    keep_name(onto, new_name, (struct name){.place = PLACE_OF_PYTHON});
    above->changed = onto->changed = true;
    reply(header->unique, 0, NULL, 0);
    return true;
}

/* Before a write without OPEN: as OpenFile.begin_write of overlay/openfile.py. */
static void begin_write(struct handle *handle, const struct fuse_write_in *in)
{
    struct node *node = handle->node;
    int64_t now = now_on(CLOCK_REALTIME);
    handle->written = true;
    node->direct = !(in->write_flags & FUSE_WRITE_CACHE);
    if (node->direct)
        node->modified = UNSET;
    if (node->asked && now - node->asked > LATE_AT_MOST) {
        node->asked = 0;
        node->opened = now;
    }
}

/* Refuse a request that gives an incomplete file another name. */
static bool refuse_incomplete(const struct fuse_in_header *header)
{
    const char *name = (const char *)(header + 1);
    const struct node *node = NULL;
    if (!incomplete_count)
        return false;
    if (header->opcode == FUSE_LINK)
        node = find(((const struct fuse_link_in *)(const void *)name)->oldnodeid);
    else if (header->opcode == FUSE_RENAME || header->opcode == FUSE_RENAME2) {
        const struct node *above = find(header->nodeid);
        name += header->opcode == FUSE_RENAME ? sizeof(struct fuse_rename_in)
                                              : sizeof(struct fuse_rename2_in);
        node = above ? child(above, name) : NULL;
    }
    int error = node ? take_incomplete(node->id) : 0;
    if (error)
        reply(header->unique, error, NULL, 0);
    return error;
}

static bool answer_write(const struct fuse_in_header *header, struct handle *handle,
                         const struct fuse_write_in *in, const char *data)
{
    struct fuse_write_out out = {.size = in->size};
    struct node *node = handle->node;
    struct stat st;
    if (!handle->writable) {
        reply(header->unique, EBADF, NULL, 0);
        return true;
    }
    if (plane.no_open)
        begin_write(handle, in);
    if (node->modified == UNSET && !node->direct) {
        if (fstat(handle->fd, &st) < 0)
            return false;
        node->modified = nanoseconds_of(&st.st_mtim);
    }
    for (size_t written = 0; written < in->size;) {
        ssize_t count =
            pwrite(handle->fd, data + written, in->size - written, (off_t)(in->offset + written));
        if (count <= 0 && (count == 0 || errno != EINTR)) {
            int error = count == 0 ? EIO : errno;
            if (in->write_flags & FUSE_WRITE_CACHE)
                note_incomplete(node->id, error);
            reply(header->unique, error, NULL, 0);
            return true;
        }
        written += count > 0 ? (size_t)count : 0;
    }
    reply(header->unique, 0, &out, sizeof out);
    if (plane.no_open && node->asked)
        restore_times(handle); /* no request comes at the end of the writes */
    return true;
}

/* As Changing._change_inode of overlay/changing.py, from the owner to the times. */
static int change(struct node *node, int fd, const char *name, const struct fuse_setattr_in *in,
                  const struct stat *st)
{
    char path[64 + MOST_NAMES];
    const uint32_t of_times = FATTR_ATIME | FATTR_MTIME;
    const uint32_t of_inode = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE;
    bool sets_mtime = in->valid & FATTR_MTIME;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d%s%s", fd, *name ? "/" : "", name);
    int flags = *name ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH;
    int64_t asked = in->valid & FATTR_CTIME ? (int64_t)in->ctime * SECOND + in->ctimensec : 0;
    bool is_empty = !(in->valid & (of_inode | of_times));
    if (is_empty && (asked || !S_ISREG(node->kind)) && fchownat(fd, name, -1, -1, flags) < 0)
        return -1;
    if (in->valid & (FATTR_UID | FATTR_GID) &&
        fchownat(fd, name, in->valid & FATTR_UID ? in->uid : (uid_t)-1,
                 in->valid & FATTR_GID ? in->gid : (gid_t)-1, flags) < 0)
        return -1;
    if (in->valid & FATTR_MODE && chmod(path, in->mode & 07777) < 0)
        return -1;
    if (in->valid & FATTR_SIZE && resize(path, !*name, in->size) < 0)
        return -1;
    if (!(in->valid & of_times))
        return 0;
    if (sets_mtime && node->handles) {
        bool written_back = in->valid & FATTR_FH && !(in->valid & (FATTR_SIZE | FATTR_ATIME));
        int64_t late = node->asked - asked;
        if (written_back && late > 0 && late < LATE_AT_MOST)
            sets_mtime = false;
        else {
            node->asked = asked;
            node->modified = UNSET;
        }
    }
    struct timespec times[] = {
        {.tv_sec = (time_t)in->atime, .tv_nsec = in->atimensec},
        {.tv_sec = (time_t)in->mtime, .tv_nsec = in->mtimensec},
    };
    if (in->valid & FATTR_ATIME_NOW)
        times[0].tv_nsec = UTIME_NOW;
    if (in->valid & FATTR_MTIME_NOW)
        times[1].tv_nsec = UTIME_NOW;
    if (!(in->valid & FATTR_ATIME))
        times[0].tv_nsec = UTIME_OMIT;
    if (!sets_mtime)
        times[1].tv_nsec = UTIME_OMIT;
    /* Setting again what is set would move the disk's change time. */
    if (asked && sets_mtime && !(in->valid & (of_inode | FATTR_ATIME | FATTR_MTIME_NOW)) &&
        nanoseconds_of(&times[1]) == nanoseconds_of(&st->st_mtim) &&
        asked <= nanoseconds_of(&st->st_ctim)) {
        new_are_early = true;
        return 0;
    }
    return utimensat(fd, name, times, flags);
}

static bool answer_setattr(const struct fuse_in_header *header, struct node *node,
                           const struct fuse_setattr_in *in)
{
    const uint32_t of_modification = FATTR_MTIME | FATTR_MTIME_NOW | FATTR_CTIME | FATTR_FH |
                                     FATTR_LOCKOWNER | FATTR_KILL_SUIDGID;
    const uint32_t known = of_modification | FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE |
                           FATTR_ATIME | FATTR_ATIME_NOW;
    struct stat st;
    const char *name;
    int fd;
    /* The kernel keeps the times of a regular file: without a name they end with it. */
    bool is_lost = node->removed && S_ISREG(node->kind) && !(in->valid & ~of_modification);
    if (node->owner != OURS || (!node->made && !is_lost) || in->valid & ~known ||
        (S_ISLNK(node->kind) && in->valid & FATTR_MODE) ||
        (!S_ISREG(node->kind) && in->valid & FATTR_SIZE) ||
        (S_ISREG(node->kind) && in->valid & FATTR_MODE && in->mode & SET_IDS) ||
        !place_of(node, &fd, &name) || (!is_lost && !attributes(node, &st)))
        return false;
    if (!is_lost && change(node, fd, name, in, &st) < 0) {
        if (errno == EACCES)
            return false; /* Python widens the mode that denies it */
        reply(header->unique, errno, NULL, 0);
        return true;
    }
    if (in->valid & FATTR_SIZE && !in->size)
        (void)take_incomplete(node->id);
    if (in->valid & FATTR_CTIME)
        node->change_time = (int64_t)in->ctime * SECOND + in->ctimensec;
    return reply_attributes(header, node);
}

/* ---- requests ------------------------------------------------------------------------------- */

/* Take off what of `count` lookups is ours. Returns the rest, for Python. */
static uint64_t forget(uint64_t id, uint64_t count)
{
    struct node *node = find(id);
    if (!node || !count)
        return count;
    if (node->owner == PYTHON || node->owner == CROSSING) {
        /* Python keeps a directory for as long as nodes of ours are in it. */
        bool withholds = node->children && !node->withheld;
        count -= withholds;
        node->withheld |= withholds;
        node->lookups -= count < node->lookups ? count : node->lookups;
        return count;
    }
    node->lookups -= count < node->lookups ? count : node->lookups;
    if (!node->lookups && node->shared)
        drop_handle(&plane.handles[node->shared - 1]);
    else
        settle(node);
    return 0;
}

/* Take forgotten lookups of ours off. Returns whether the request has others, and is changed so. */
static bool is_forget_left(struct fuse_in_header *header)
{
    if (header->opcode == FUSE_FORGET) {
        struct fuse_forget_in *in = (void *)(header + 1);
        in->nlookup = forget(header->nodeid, in->nlookup);
        return in->nlookup > 0;
    }
    struct fuse_batch_forget_in *in = (void *)(header + 1);
    struct fuse_forget_one *one = (void *)(in + 1);
    uint32_t left = 0;
    for (uint32_t at = 0; at < in->count; at++) {
        uint64_t count = forget(one[at].nodeid, one[at].nlookup);
        if (count)
            one[left++] = (struct fuse_forget_one){one[at].nodeid, count};
    }
    in->count = left;
    return left > 0;
}

#define BIT(opcode) (1ULL << (opcode))

/* Answered with ENOSYS, as libfuse does. Each open() of Python makes an IOCTL; OPENDIR comes once,
 * and then the kernel opens directories without a request. */
static const uint64_t unknown_requests = BIT(FUSE_IOCTL) | BIT(FUSE_OPENDIR) | BIT(FUSE_LSEEK) |
                                         BIT(FUSE_POLL) | BIT(FUSE_FALLOCATE) |
                                         BIT(FUSE_COPY_FILE_RANGE) | BIT(FUSE_BMAP) |
                                         BIT(FUSE_GETLK) | BIT(FUSE_SETLK) | BIT(FUSE_SETLKW);

/* Those that begin with a file handle. */
static const uint64_t handle_requests =
    BIT(FUSE_READ) | BIT(FUSE_WRITE) | BIT(FUSE_RELEASE) | BIT(FUSE_FLUSH) | BIT(FUSE_FSYNC);

static const uint64_t nameless_requests =
    BIT(FUSE_READ) | BIT(FUSE_WRITE) | BIT(FUSE_READDIR) | BIT(FUSE_READDIRPLUS);

static bool is_one_of(uint32_t opcode, uint64_t requests)
{
    return opcode < OPCODES && requests >> opcode & 1;
}

/* Answer a request about an open file of ours. Returns false if it is Python's by now. */
static bool answer_with_handle(const struct fuse_in_header *header, struct handle *handle)
{
    const void *in = header + 1;
    if (handle && (handle->python || (handle->node && handle->fd < 0)))
        return false;
    int error = handle ? 0 : EBADF;
    switch (header->opcode) {
    case FUSE_READ:
        if (handle && handle->fd >= 0)
            return answer_read(header, handle, in), true;
        error = handle ? EIO : EBADF;
        break;
    case FUSE_WRITE:
        error = EBADF;
        if (handle && handle->node && handle->node->made) {
            const struct fuse_write_in *given = in;
            return answer_write(header, handle, given, (const void *)(given + 1));
        }
        break;
    case FUSE_FLUSH:
        error = ENOSYS;
        break;
    case FUSE_FSYNC:
        if (handle && handle->node && handle->node->made) {
            (void)take_incomplete(handle->node->id); /* what fsync(2) awaits is written */
            restore_times(handle);
            return false; /* it may take long: Python does it in a thread */
        }
        break;
    default:
        if (handle)
            drop_handle(handle);
        error = 0;
    }
    reply(header->unique, error, NULL, 0);
    return true;
}

/* As answer_with_handle, without OPEN. The number of the handle goes to Python in the request. */
static bool answer_without_handle(struct fuse_in_header *header)
{
    struct node *node = find(header->nodeid);
    if (header->opcode == FUSE_FLUSH || header->opcode == FUSE_RELEASE)
        return reply(header->unique, header->opcode == FUSE_FLUSH ? ENOSYS : 0, NULL, 0), true;
    if (!node || node->owner == PYTHON || node->owner == CROSSING || node->left)
        return false;
    struct handle *handle = shared_handle(node, header->opcode != FUSE_READ);
    if (!handle)
        return node->owner == DEAD && (reply(header->unique, ESTALE, NULL, 0), true);
    uint64_t number = number_of(handle);
    memcpy(header + 1, &number, sizeof number);
    return answer_with_handle(header, handle);
}

/* Put the number of Python's handle in place of one of ours that crossed; without OPEN the nodeid.
 */
static void use_handle_of_python(struct fuse_in_header *header)
{
    uint64_t number;
    char *in = (char *)(header + 1);
    if (!is_one_of(header->opcode, handle_requests))
        return;
    memcpy(&number, in, sizeof number);
    if (plane.no_open && !(number & OUR_HANDLE && header->opcode == FUSE_FSYNC)) {
        memcpy(in, &header->nodeid, sizeof header->nodeid);
        return;
    }
    struct handle *handle = handle_of(number);
    if (handle && handle->python) {
        memcpy(in, &handle->python, sizeof number);
        if (header->opcode == FUSE_RELEASE)
            drop_handle(handle);
    }
}

/* Let what the request names cross to Python. */
static void cross_named(const struct fuse_in_header *header)
{
    const uint64_t *first = (const void *)(header + 1);
    uint64_t ids[] = {header->nodeid, 0};
    const struct handle *synced = header->opcode == FUSE_FSYNC ? handle_of(*first) : NULL;
    bool of_ours = synced && synced->fd >= 0;
    if (header->opcode == FUSE_STATFS)
        return;
    if (header->opcode == FUSE_RENAME || header->opcode == FUSE_RENAME2 ||
        header->opcode == FUSE_LINK)
        ids[1] = *first;
    for (size_t at = 0; at < 2; at++) {
        struct node *node = find(ids[at]);
        if (node && (node->left || !of_ours))
            cross(node);
    }
}

/* Answer a request that is well formed. Returns false if it is Python's. */
static bool answer(struct fuse_in_header *header)
{
    void *in = header + 1;
    const char *name = in;
    uint64_t number;
    if (header->opcode == FUSE_FORGET || header->opcode == FUSE_BATCH_FORGET)
        return !is_forget_left(header);
    if (refuse_incomplete(header))
        return true;
    if (is_one_of(header->opcode, handle_requests)) {
        memcpy(&number, in, sizeof number);
        if (plane.no_open)
            return answer_without_handle(header);
        return number & OUR_HANDLE && answer_with_handle(header, handle_of(number));
    }
    if (is_one_of(header->opcode, unknown_requests) ||
        (plane.no_open && header->opcode == FUSE_OPEN)) {
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
    if (node->owner == CROSSING || node->left ||
        (node->owner == PYTHON && !node->granted && !node->changes))
        return false;
    switch (header->opcode) {
    case FUSE_LOOKUP:
        return serves(node) && answer_lookup(header, node, name);
    case FUSE_GETATTR:
        return reply_attributes(header, node);
    case FUSE_READLINK:
        return node->owner == OURS && answer_readlink(header, node);
    case FUSE_OPEN:
        return node->owner == OURS &&
               reply_open(header, open_file(node, ((const struct fuse_open_in *)in)->flags));
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        return serves(node) && !node->changes && (node->fd >= 0 || (node->names && node->lists)) &&
               answer_listing(header, node);
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR: {
        const struct fuse_getxattr_in *wanted = in;
        name = header->opcode == FUSE_LISTXATTR ? NULL : (const void *)(wanted + 1);
        return answer_xattr(header, node, wanted->size, name);
    }
    case FUSE_SETATTR:
        return answer_setattr(header, node, in);
    case FUSE_CREATE:
        return answer_create(header, node, in, name + sizeof(struct fuse_create_in));
    case FUSE_MKDIR: {
        const struct fuse_mkdir_in *wanted = in;
        name += sizeof *wanted;
        return answer_make(header, node, name, wanted->mode, wanted->umask, NULL);
    }
    case FUSE_SYMLINK:
        return answer_make(header, node, name, 0, 0, name + strlen(name) + 1);
    case FUSE_UNLINK:
    case FUSE_RMDIR:
        return answer_remove(header, node, name);
    case FUSE_RENAME:
    case FUSE_RENAME2: {
        const struct fuse_rename2_in *wanted = in;
        bool has_flags = header->opcode == FUSE_RENAME2;
        name += has_flags ? sizeof *wanted : sizeof(struct fuse_rename_in);
        return answer_rename(header, node, name, find(wanted->newdir), name + strlen(name) + 1,
                             has_flags ? wanted->flags : 0);
    }
    default:
        return false;
    }
}

static void count_request(uint32_t opcode, int64_t nanoseconds)
{
    unsigned latency = 0;
    while (latency < LATENCIES - 1 && nanoseconds >> (10 + latency))
        latency++;
    counts[opcode % OPCODES][0] += (uint64_t)nanoseconds;
    counts[opcode % OPCODES][1 + latency]++;
}

/* Answer the first of the READs that are late. */
static void answer_late(void)
{
    struct late first = late[0];
    const struct handle *handle = handle_of(first.handle);
    memmove(late, late + 1, --late_count * sizeof *late);
    if (handle && handle->fd >= 0)
        reply_read(first.unique, handle->fd, first.offset, first.size, 0);
    else
        reply(first.unique, EIO, NULL, 0);
    count_request(FUSE_READ, now_on(CLOCK_MONOTONIC) - first.started);
}

/* Choose how requests are awaited, by the times from one to the next: asleep, or spinning, which
 * saves a wake-up if a processor is free, and takes the program's if none is. A term of requests
 * begins with some of each. */
static void choose_wait(int64_t cycle)
{
    static int64_t cycles[2]; /* the sums, asleep and spinning */
    static unsigned count;
    if (cycle > IDLE_NS)
        return;
    cycles[spins] += cycle < LONG_CYCLE_NS ? cycle : LONG_CYCLE_NS;
    if (++count == TRIAL)
        spins = plane.may_spin;
    else if (count == 2 * TRIAL)
        spins = plane.may_spin && cycles[true] < cycles[false] * 7 / 8;
    else if (count == TERM) {
        spins = false;
        count = 0;
        cycles[true] = cycles[false] = 0;
    }
}

/* Answer requests until one is Python's (`pending`), the mount is gone (`ended`), Python's other
 * tasks are due (`tasks` is readable), or no request has come for a while: at first `wait`
 * milliseconds. Returns whether Python may wait for requests, too. */
static bool run(int tasks, int wait, bool polls)
{
    int64_t began = now_on(CLOCK_MONOTONIC), waiting = began, last = 0;
    struct pollfd watched[] = {{.fd = plane.device, .events = POLLIN},
                               {.fd = tasks, .events = POLLIN}};
    for (;;) {
        struct fuse_in_header *header = (void *)plane.block;
        struct iovec parts[] = {{&plane.reading, sizeof plane.reading},
                                {header + 1, BLOCK_BYTES - sizeof plane.reading}};
        ssize_t size = readv(plane.device, parts, 2);
        if (size >= (ssize_t)sizeof(struct fuse_in_header)) {
            *header = plane.reading;
            int64_t started = now_on(CLOCK_MONOTONIC);
            if (last)
                choose_wait(started - last);
            last = started;
            bool refused =
                !is_well_formed(header, (size_t)size, BLOCK_BYTES) || !kept_begin(header);
            if (refused && wants_reply(header))
                reply(header->unique, EIO, NULL, 0);
            unsigned are_late = late_count;
            bool answered = refused || answer(header);
            if (are_too_many())
                evict();
            if (!answered) {
                plane.pending = (size_t)size;
                return false;
            }
            waiting = now_on(CLOCK_MONOTONIC);
            if (late_count > are_late) {
                late[are_late].started = started;
                note(0, NULL, 0);
            } else
                count_request(header->opcode, waiting - started);
            if (waiting - began > TURN_MS * MILLISECOND || plane.forgets || trace.is_due)
                return false;
            continue;
        }
        if (size < 0 && (errno == EINTR || errno == ENOENT))
            continue;
        if (size >= 0 || errno != EAGAIN) {
            plane.ended = true;
            return false;
        }
        if (late_count) {
            answer_late();
            continue;
        }
        if (!polls)
            return true;
        if (spins && now_on(CLOCK_MONOTONIC) - waiting < PROMPT_NS)
            continue;
        if (poll(watched, 2, wait) <= 0 || !watched[0].revents)
            return true;
        /* Later than the next tick of the processor, whose timer is left alone then. */
        wait = TURN_MS;
    }
}

static bool is_received; /* a request, by libfuse */

bool plane_receive(struct fuse_buf *buffer, int *result)
{
    is_received = true;
    if (!plane.block || plane.ended)
        return false;
    *result = plane.pending ? (int)plane.pending : -EINTR;
    if (plane.pending) {
        char *given = buffer->mem;
        if (is_one_of(((struct fuse_in_header *)(void *)plane.block)->opcode, nameless_requests))
            note(0, NULL, 0);             /* pyfuse3 does not say whose they are */
        cross_named((void *)plane.block); /* unless all have */
        use_handle_of_python((void *)plane.block);
        buffer->mem = plane.block;
        buffer->size = plane.pending;
        buffer->flags = 0;
        plane.block = given ? given : kept_block();
        plane.pending = 0;
    }
    return true;
}

/* ---- for Python -------------------------------------------------------------------------------
 */

/* A method whose argument is a nodeid: `node` is its node, or NULL. */
#define ABOUT_NODE(name)                                                                           \
    static PyObject *about_##name(uint64_t id, struct node *node);                                 \
    PyObject *py_plane_##name(PyObject *Py_UNUSED(module), PyObject *number)                       \
    {                                                                                              \
        uint64_t id = PyLong_AsUnsignedLongLong(number);                                           \
        return PyErr_Occurred() ? NULL : about_##name(id, find(id));                               \
    }                                                                                              \
    static PyObject *about_##name(uint64_t id __attribute__((unused)), struct node *node)

PyObject *py_plane_start(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint32_t (*unmapped)[2] = plane.unmapped;
    struct timeout *own_lowers = plane.timeouts, *live = plane.timeouts + 1;
    if (!PyArg_ParseTuple(args, "KI(II)(II)ppppKKpp|KI", &own_lowers->seconds,
                          &own_lowers->nanoseconds, &unmapped[0][0], &unmapped[0][1],
                          &unmapped[1][0], &unmapped[1][1], &plane.static_nlink, &plane.xattr,
                          &plane.acl, &plane.may_spin, &plane.most_directories, &plane.most_files,
                          &plane.no_open, &plane.keeps_names, &live->seconds, &live->nanoseconds))
        return NULL;
    plane.uid = geteuid();
    plane.gid = getegid();
    static bool started;
    if (!started)
        kept_recover();
    started = true;
    if (!plane.block) {
        plane.block = kept_block();
        plane.pending = session_init(plane.block);
        plane.reply = grown(NULL, BLOCK_BYTES);
        if (!plane.ids)
            grow_table();
    }
    Py_RETURN_NONE;
}

PyObject *py_plane_wait(PyObject *Py_UNUSED(module), PyObject *args)
{
    int device, tasks, milliseconds, polls;
    bool idle;
    if (!PyArg_ParseTuple(args, "iiip", &device, &tasks, &milliseconds, &polls))
        return NULL;
    plane.device = device;
    static bool is_offered;
    if (plane.pending && is_offered && !is_received) {
        PyErr_SetString(PyExc_OSError, "pyfuse3 is linked so that libfuse cannot be interposed");
        return NULL;
    }
    is_offered = plane.pending;
    if (plane.pending || plane.ended)
        Py_RETURN_FALSE;
    Py_BEGIN_ALLOW_THREADS;
    idle = run(tasks, milliseconds, polls != 0);
    while (late_count)
        answer_late();
    Py_END_ALLOW_THREADS;
    return PyBool_FromLong(idle);
}

/* What Python has to know of a node that crosses (_native.pyi: plane_crossings). */
static PyObject *crossing(struct node *node)
{
    PyObject *handles = PyList_New(0);
    bool is_below = node->removed && !node->made && node->link; /* it is found there */
    if (node->removed && !is_below && node->fd >= 0) {
        node->kept = node->fd;
        node->fd = -1;
        *(S_ISDIR(node->kind) ? &plane.directories : &plane.files) -= 1;
    }
    int fd = node->kept < 0 ? -1 : fcntl(node->kept, F_DUPFD_CLOEXEC, 3);
    for (size_t at = 0; handles && at < plane.handle_count && node->handles; at++) {
        if (!plane.handles[at].used || plane.handles[at].node != node)
            continue;
        native_append(&handles, Py_BuildValue("KN", number_of(&plane.handles[at]),
                                              PyBool_FromLong(plane.handles[at].writable)));
    }
    PyObject *modified =
        node->modified == UNSET ? Py_NewRef(Py_None) : PyLong_FromLongLong(node->modified);
    return Py_BuildValue("KyKKNL(NLLN)iNbN", (*node->name ? node->above_id : 0),
                         is_below ? node->link->name : node->name, node->id, node->lookups, handles,
                         node->change_time, modified, node->asked, node->opened,
                         PyBool_FromLong(node->direct), fd, PyBool_FromLong(node->made),
                         node->found_at, PyBool_FromLong(node->left));
}

static PyObject *take_crossings(void)
{
    PyObject *list = PyList_New(0);
    for (size_t at = 0; list && at < plane.crossing_count; at++)
        native_append(&list, crossing(plane.crossing[at]));
    plane.crossing_count = 0;
    return list;
}

PyObject *py_plane_crossings(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    if (plane.pending)
        cross_named((void *)plane.block);
    return take_crossings();
}

PyObject *py_plane_fetch(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t id;
    const char *name;
    if (!PyArg_ParseTuple(args, "Ky", &id, &name))
        return NULL;
    struct node *node = find(id);
    if (node && *name)
        node = node->children ? child(node, name) : NULL;
    if (node)
        cross(node);
    return take_crossings();
}

ABOUT_NODE(claim)
{
    if (node && node->owner != CROSSING)
        return PyLong_FromLong(0);
    if (!node)
        node = add(id, NULL, "", PYTHON);
    struct node *above = node->above;
    if (above && (node->made || !node->removed))
        kept_link(node, *node->name ? above->id : 0, node->name);
    STORED();
    node->owner = PYTHON;
    node->left = false;
    node->made = node->made && S_ISDIR(node->kind);
    node->changes = node->changes && node->fd >= 0;
    node->change_time = 0; /* Python has it */
    drop_names(node);
    drop_name(node);
    node->above = NULL;
    if (above) {
        above->children--;
        settle(above);
    }
    return PyLong_FromUnsignedLong(node->generation);
}

static bool has_capability(int fd, const char *name)
{
    char path[64 + MOST_NAMES];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d/%s", fd, name);
    return lgetxattr(path, "security.capability", NULL, 0) >= 0;
}

PyObject *py_plane_give(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t id, above_id, lookups;
    int64_t change_time, asked, opened;
    const char *name;
    unsigned handles;
    int fd, direct;
    PyObject *modified;
    struct stat st, of_fd;
    if (!PyArg_ParseTuple(args, "KKyKiIL(OLLp)", &id, &above_id, &name, &lookups, &fd, &handles,
                          &change_time, &modified, &asked, &opened, &direct))
        return NULL;
    struct node *node = find(id), *above = find(above_id);
    if (!node || node->owner != PYTHON || node->handles != handles || node->kept >= 0 || !above ||
        !takes_changes(above) || above->upper < 0 || !is_plain(name) || child(above, name) ||
        plane.files + handles > plane.most_files ||
        fstatat(above->upper, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) ||
        st.st_nlink != 1 || st.st_dev != plane.upper_device || st.st_ino >= INODE_LIMIT ||
        st.st_mode & SET_IDS || has_capability(above->upper, name) ||
        (handles && (fstat(fd, &of_fd) < 0 || of_fd.st_dev != st.st_dev ||
                     of_fd.st_ino != st.st_ino))) /* never a lower's, to write to */
        Py_RETURN_FALSE;
    kept_link(node, above->id, name);
    kept_name(node, name);
    node->above = above;
    node->above_id = above->id;
    above->children++;
    node->kind = S_IFREG;
    node->inode = st.st_ino;
    node->found_at = PLACE_OF_PYTHON;
    node->removed = false;
    node->made = true;
    node->lookups = lookups;
    node->change_time = change_time;
    node->modified = modified == Py_None ? UNSET : PyLong_AsLongLong(modified);
    node->asked = asked;
    node->opened = opened;
    node->direct = direct != 0;
    STORED();
    node->owner = OURS;
    STORED();
    insert_name(node);
    for (size_t at = 0; at < plane.handle_count && handles; at++) {
        struct handle *handle = &plane.handles[at];
        if (!handle->used || handle->node != node)
            continue;
        handle->fd = --handles ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : fd;
        plane.files += handle->fd >= 0;
        STORED();
        handle->python = 0;
    }
    Py_RETURN_TRUE;
}

/* What the pending request does to a lower's file that the plane may keep meanwhile: a file that is
 * not open, in a directory of the upper that Python has, and also moves to such a one. */
struct change {
    struct node *node, *onto;
    const char *new_name;
    uint32_t flags; /* of OPEN; of a rename whether the new name is known to be missing */
};

/* Whether Python has the directory, and names in it may be changed. */
static bool is_changed_by_python(struct node *directory)
{
    return directory && directory->owner == PYTHON && directory->upper >= 0 &&
           takes_changes(directory);
}

/* Returns false if the pending request is none. */
static bool to_change(const struct fuse_in_header *header, struct change *change)
{
    const struct fuse_open_in *open = (const void *)(header + 1);
    const struct fuse_rename2_in *moves = (const void *)(header + 1);
    const char *name = (const void *)(header + 1);
    struct node *node = plane.pending ? find(header->nodeid) : NULL;
    *change = (struct change){.node = node, .new_name = ""};
    if (!node || plane.no_open)
        return false;
    if (header->opcode == FUSE_OPEN) {
        change->flags = open->flags;
        if ((open->flags & O_ACCMODE) == O_RDONLY && !(open->flags & O_TRUNC))
            return false;
    } else if (header->opcode == FUSE_UNLINK)
        change->node = child(node, name);
    else if (header->opcode == FUSE_RENAME ||
             (header->opcode == FUSE_RENAME2 && moves->flags == RENAME_NOREPLACE)) {
        name += header->opcode == FUSE_RENAME ? sizeof(struct fuse_rename_in) : sizeof *moves;
        change->node = child(node, name);
        change->new_name = name + strlen(name) + 1;
        change->onto = find(moves->newdir);
        if (!is_changed_by_python(change->onto) || !is_plain(change->new_name) ||
            child(change->onto, change->new_name))
            return false;
        change->flags =
            change->onto->names && names_place(change->onto->names, change->new_name) == ABSENT;
    } else
        return false;
    node = change->node;
    return node && node->owner == OURS && !node->made && !node->left && !node->removed &&
           !node->handles && !S_ISDIR(node->kind) && is_changed_by_python(node->above);
}

/* Whether a lower's file is the one that the kernel knows. */
static bool is_unchanged(struct node *node)
{
    struct stat st;
    return !is_live(node) ||
           (reach(node->above) &&
            fstatat(place_above(node).fd, node->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            is_inode_of(node, &st) && is_known(node, &st));
}

PyObject *py_plane_to_change(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    const struct fuse_in_header *header = (void *)plane.block;
    struct change change;
    struct stat st;
    bool removes = header->opcode == FUSE_UNLINK;
    if (!to_change(header, &change) || (!removes && !is_unchanged(change.node)) ||
        !(removes ? keep_inode(change.node) : has_room()))
        Py_RETURN_NONE;
    if (removes && (fstat(change.node->fd, &st) < 0 || !is_inode_of(change.node, &st))) {
        close_node(change.node);
        Py_RETURN_NONE;
    }
    return Py_BuildValue("IKKybIIKy", header->opcode, change.node->id, change.node->above->id,
                         change.node->name, change.node->found_at, change.flags, header->pid,
                         change.onto ? change.onto->id : 0, change.new_name);
}

PyObject *py_plane_take_removal(PyObject *Py_UNUSED(module), PyObject *given)
{
    const struct fuse_in_header *header = (void *)plane.block;
    const char *place = PyBytes_AsString(given);
    if (!place)
        return NULL;
    struct change change;
    if (!to_change(header, &change) || change.node->fd < 0)
        Py_RETURN_FALSE;
    struct node *node = change.node;
    if (*place) {
        keep_name(node->above, node->name, (struct name){.place = ABSENT});
        kept_link(node, 0, place);
    }
    STORED();
    end_removal(node, *place);
    if (!*place)
        Py_RETURN_FALSE;
    reply(header->unique, 0, NULL, 0);
    plane.pending = 0;
    Py_RETURN_TRUE;
}

PyObject *py_plane_take_copy(PyObject *Py_UNUSED(module), PyObject *args)
{
    const struct fuse_in_header *header = (void *)plane.block;
    int64_t change_time;
    int fd;
    struct stat st;
    struct change change;
    if (!PyArg_ParseTuple(args, "iL", &fd, &change_time))
        return NULL;
    if (!to_change(header, &change) || header->opcode == FUSE_UNLINK ||
        change.node->found_at != PLACE_OF_PYTHON || fstat(fd, &st) < 0 ||
        st.st_dev != plane.upper_device || st.st_ino >= INODE_LIMIT)
        Py_RETURN_FALSE;
    /* A live lower's file has just changed: the kernel goes on with its own size. */
    if (is_live(change.node) && st.st_size && st.st_size != change.node->told_size &&
        ftruncate(fd, change.node->told_size) < 0)
        Py_RETURN_FALSE;
    change.node->inode = st.st_ino;
    change.node->change_time = change_time;
    STORED();
    change.node->made = true;
    if (change.onto) {
        keep_name(change.node->above, change.node->name, (struct name){.place = ABSENT});
        move(change.node, change.onto, change.new_name);
        STORED();
        plane.renaming.under_way = false;
        reply(header->unique, 0, NULL, 0);
    } else
        reply_open(header, new_handle(fd, change.node, change.flags));
    plane.pending = 0;
    Py_RETURN_TRUE;
}

ABOUT_NODE(crossed)
{
    if (node && node->owner == CROSSING) {
        drop_name(node);
        node->owner = DEAD;
        node->left = false;
        settle(node);
        Py_RETURN_FALSE;
    }
    return PyBool_FromLong(node && node->owner == PYTHON);
}

PyObject *py_plane_bind(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t number, python;
    if (!PyArg_ParseTuple(args, "KK", &number, &python))
        return NULL;
    struct handle *handle = handle_of(number);
    if (handle && python && !plane.no_open) { /* no RELEASE would come */
        plane.files -= handle->fd >= 0;
        kept_close(&handle->fd);
        handle->python = python;
    } else if (handle) {
        close_handle(handle);
        handle->used = !plane.no_open;
    }
    Py_RETURN_NONE;
}

PyObject *py_plane_open(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t id, python;
    int writable;
    if (!PyArg_ParseTuple(args, "KKp", &id, &python, &writable))
        return NULL;
    struct node *node = find(id);
    if (!node)
        return PyLong_FromUnsignedLongLong(python);
    node->handles++;
    return PyLong_FromUnsignedLongLong(number_of(use_handle(
        (struct handle){.fd = -1, .python = python, .node = node, .writable = writable != 0})));
}

ABOUT_NODE(drop)
{
    if (node && node->owner == PYTHON) {
        node->owner = DEAD;
        node->granted = node->changes = node->withheld = false;
        node->lookups = 0;
        settle(node);
    }
    Py_RETURN_NONE;
}

/* Python's node, also of the root, which no lookup finds. NULL if there is none. */
static struct node *node_of_python(uint64_t id)
{
    struct node *node = find(id);
    if (!node && id == FUSE_ROOT_ID)
        node = add(id, NULL, "", PYTHON);
    return node && node->owner == PYTHON ? node : NULL;
}

/* Keep a copy of a directory's descriptor, unless there is one. Returns whether there is one now.
 */
static bool keep_directory(int *kept, int fd)
{
    if (*kept < 0 && fd >= 0) {
        *kept = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        plane.directories += *kept >= 0;
    }
    return *kept >= 0;
}

PyObject *py_plane_grant(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t id, above, base;
    int fd, lists, below, liveness = UNCHANGING;
    struct stat st;
    if (!PyArg_ParseTuple(args, "KKiKpp|i", &id, &above, &fd, &base, &lists, &below, &liveness))
        return NULL;
    struct node *node = node_of_python(id);
    if (!node)
        Py_RETURN_FALSE;
    if (node->fd < 0) {
        if (fstat(fd, &st) < 0 || is_marked(fd) || !keep_directory(&node->fd, fd))
            Py_RETURN_FALSE;
        node->device = st.st_dev;
    }
    node->kind = S_IFDIR;
    node->liveness = (enum liveness)liveness;
    node->base = base;
    node->above_id = above;
    node->lists_inodes = lists != 0;
    node->below_lists = below != 0;
    node->granted = node->used = true;
    Py_RETURN_TRUE;
}

/* Keep copies of the descriptors in a list, of lowers. Returns false with an exception. */
static bool keep_lowers(struct node *node, PyObject *list)
{
    Py_ssize_t count = PyList_Size(list);
    if (node->lowers || count <= 0)
        return count >= 0;
    struct lowers *lowers =
        kept_alloc(sizeof *lowers + (size_t)count * sizeof lowers->at[0], false);
    memset(lowers->at, 0, (size_t)count * sizeof lowers->at[0]);
    for (lowers->count = 0; lowers->count < (size_t)count; lowers->count++) {
        long fd = PyLong_AsLong(PyList_GetItem(list, (Py_ssize_t)lowers->count));
        lowers->at[lowers->count].fd = fd < 0 ? -1 : fcntl((int)fd, F_DUPFD_CLOEXEC, 3);
    }
    node->lowers = lowers;
    plane.directories += lowers->count;
    return !PyErr_Occurred();
}

PyObject *py_plane_grant_changes(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t id, base;
    int fd, liveness = UNCHANGING;
    PyObject *lowers;
    struct stat st;
    if (!PyArg_ParseTuple(args, "KiKO|i", &id, &fd, &base, &lowers, &liveness))
        return NULL;
    struct node *node = node_of_python(id);
    if (!node || node->changes || fstat(fd, &st) < 0 || !keep_directory(&node->upper, fd))
        Py_RETURN_FALSE;
    plane.upper_device = st.st_dev;
    plane.upper_base = base;
    node->kind = S_IFDIR;
    node->liveness = (enum liveness)liveness;
    if (!keep_lowers(node, lowers))
        return NULL;
    node->granted = false;
    node->changes = node->used = true;
    Py_RETURN_TRUE;
}

/* Take over what Python says of the lowers and the names of a directory. */
static bool take_names(struct node *node, PyObject *lowers, PyObject *names)
{
    for (size_t at = 0; at < node->lowers->count; at++) {
        struct place *place = &node->lowers->at[at];
        struct stat st;
        uint64_t base;
        int below;
        if (!PyArg_ParseTuple(PyList_GetItem(lowers, (Py_ssize_t)at), "Kp", &base, &below))
            return false;
        place->base = base;
        place->below_lists = below != 0;
        place->device = fstat(place->fd, &st) == 0 ? st.st_dev : 0;
    }
    if (PyTuple_Check(names)) {
        struct lone lone;
        int is_trusted;
        uint64_t most;
        if (!PyArg_ParseTuple(names, "IpK", &lone.place, &is_trusted, &most))
            return false;
        lone.is_trusted = is_trusted != 0;
        lone.most = (size_t)most;
        return lone.place < node->lowers->count && read_names(node, &lone);
    }
    for (Py_ssize_t at = 0; at < PyList_Size(names); at++) {
        const char *text;
        uint64_t inode;
        unsigned char place, type;
        if (!PyArg_ParseTuple(PyList_GetItem(names, at), "ybbK", &text, &place, &type, &inode))
            return false;
        keep_name(node, text, (struct name){.inode = inode, .place = place, .type = type});
    }
    for (unsigned at = 0; at < node->lowers->count; at++)
        if (node->names && folds(node->names, at, node->lowers->at[at].fd))
            drop_names(node);
    return true;
}

PyObject *py_plane_resolve(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t id, above;
    int upper, lists;
    PyObject *descriptors, *lowers, *names;
    if (!PyArg_ParseTuple(args, "KKiOOpO", &id, &above, &upper, &descriptors, &lowers, &lists,
                          &names))
        return NULL;
    struct node *node = node_of_python(id);
    if (!node || node->names || (upper >= 0 && !keep_directory(&node->upper, upper)))
        Py_RETURN_FALSE;
    if (!keep_lowers(node, descriptors))
        return NULL;
    if (!node->lowers || PyList_Size(lowers) != (Py_ssize_t)node->lowers->count)
        Py_RETURN_FALSE;
    if (node->fd >= 0) { /* it was granted before it was copied up */
        kept_close(&node->fd);
        plane.directories--;
    }
    node->kind = S_IFDIR;
    node->above_id = above;
    node->names = names_new();
    if (!take_names(node, lowers, names))
        drop_names(node);
    node->lists = lists != 0;
    node->granted = node->names && !node->changes;
    node->used = true;
    return PyErr_Occurred() ? NULL : PyBool_FromLong(node->names != NULL);
}

/* Python could grant the directory that the pending request is about. */
PyObject *py_plane_wanted(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    const struct fuse_in_header *header = (void *)plane.block;
    const struct fuse_read_in *listing = (void *)(header + 1);
    const uint32_t opcode = header->opcode;
    bool lists = is_one_of(opcode, BIT(FUSE_READDIR) | BIT(FUSE_READDIRPLUS));
    bool makes = is_one_of(opcode, BIT(FUSE_CREATE) | BIT(FUSE_MKDIR) | BIT(FUSE_SYMLINK));
    if (!plane.pending || (lists ? listing->offset != 0 : !makes && opcode != FUSE_LOOKUP))
        Py_RETURN_NONE;
    struct node *node = node_of_python(header->nodeid);
    if (!node || (makes ? !is_own(header) : node->names != NULL) ||
        ((lists || makes) && node->changes))
        Py_RETURN_NONE;
    size_t before = opcode == FUSE_CREATE  ? sizeof(struct fuse_create_in)
                    : opcode == FUSE_MKDIR ? sizeof(struct fuse_mkdir_in)
                                           : 0;
    return Py_BuildValue("KIiiIy", node->id, ++node->asked_of_python, lists, makes, header->pid,
                         lists ? "" : (const char *)listing + before);
}

PyObject *py_plane_retry(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    struct fuse_in_header *header = (void *)plane.block;
    int64_t started = now_on(CLOCK_MONOTONIC);
    if (!plane.pending || !answer(header))
        Py_RETURN_FALSE;
    plane.pending = 0;
    count_request(header->opcode, now_on(CLOCK_MONOTONIC) - started);
    Py_RETURN_TRUE;
}

ABOUT_NODE(told)
{
    if (!node || !node->fresh)
        Py_RETURN_NONE;
    return Py_BuildValue("LLLL", node->told_size, node->told_modified, node->told_changed,
                         node->fresh);
}

ABOUT_NODE(place)
{
    if (!node || !*node->name)
        Py_RETURN_NONE;
    return Py_BuildValue("Ky", node->above_id, node->name);
}

ABOUT_NODE(is_granted) { return PyLong_FromLong(!node ? 0 : node->changes ? 2 : node->granted); }

ABOUT_NODE(changed)
{
    bool changed = node && node->changed;
    if (node)
        node->changed = false;
    return Py_BuildValue("NN", PyBool_FromLong(node && node->changes), PyBool_FromLong(changed));
}

PyObject *py_plane_revoke(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t id;
    int only_names;
    const char *name;
    if (!PyArg_ParseTuple(args, "Kpy", &id, &only_names, &name))
        return NULL;
    struct node *node = find(id), *below = node && *name ? child(node, name) : NULL;
    if (below && !below->made)
        below->found_at = PLACE_OF_PYTHON;
    if (!node || (only_names && !node->names))
        Py_RETURN_FALSE;
    bool reading = node->reading;
    if (*name)
        keep_name(node, name, (struct name){.place = PLACE_OF_PYTHON});
    else
        drop_names(node);
    node->granted = node->granted && node->names;
    node->lists = node->reading = false;
    node->changes = node->changes && only_names;
    return PyBool_FromLong(reading);
}

/* The directories that programs are reading. */
PyObject *py_plane_readers(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    PyObject *list = PyList_New(0);
    for (size_t at = 0; at < plane.buckets; at++)
        for (struct node *node = plane.ids[at]; list && node; node = node->next_id)
            if (node->reading)
                native_append(&list, PyLong_FromUnsignedLongLong(node->id));
    return list;
}

/* The names under which nodes of ours were found, each with the nodeid of its directory. */
PyObject *py_plane_names(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    PyObject *list = PyList_New(0);
    for (size_t at = 0; at < plane.buckets; at++)
        for (struct node *node = plane.ids[at]; list && node; node = node->next_id)
            if (node->owner == OURS && *node->name)
                native_append(&list, Py_BuildValue("Ky", node->above_id, node->name));
    return list;
}

ABOUT_NODE(let_go)
{
    if (node && node->owner == PYTHON) {
        close_node(node);
        node->lists = false;
    }
    Py_RETURN_NONE;
}

/* Leave all nodes to Python, as a daemon that ends leaves them to a later one: the layers are
 * others from now on. Open files of lowers, and those without a name, stay open. */
PyObject *py_plane_leave(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    for (size_t at = 0; at < plane.handle_count; at++) {
        struct handle *handle = &plane.handles[at];
        if (!handle->used || !handle->node || !handle->node->made || handle->node->removed)
            continue;
        restore_times(handle);
        plane.files -= handle->fd >= 0;
        kept_close(&handle->fd);
        if (plane.no_open)
            drop_handle(handle);
    }
    for (size_t at = 0; at < plane.buckets; at++)
        for (struct node *node = plane.ids[at]; node; node = node->next_id) {
            if (node->owner != PYTHON && (node->owner != OURS || node->removed))
                continue;
            node->left = node->owner == OURS;
            node->made = false;
            close_node(node);
            node->lists = node->reading = node->changes = false;
        }
    Py_RETURN_NONE;
}

PyObject *py_plane_descriptor(PyObject *Py_UNUSED(module), PyObject *number)
{
    const struct handle *handle = handle_of(PyLong_AsUnsignedLongLong(number));
    int fd = handle && handle->fd >= 0 ? fcntl(handle->fd, F_DUPFD_CLOEXEC, 3) : (errno = EIO, -1);
    if (PyErr_Occurred())
        return NULL;
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

PyObject *py_plane_incomplete(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint64_t id;
    int error;
    if (!PyArg_ParseTuple(args, "Ki", &id, &error))
        return NULL;
    if (!error)
        return PyLong_FromLong(take_incomplete(id));
    note_incomplete(id, error);
    return PyLong_FromLong(error);
}

PyObject *py_plane_forgotten(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    size_t size = plane.forgotten_count * sizeof *plane.forgotten;
    plane.forgotten_count = 0;
    plane.forgets = false;
    return PyBytes_FromStringAndSize((char *)plane.forgotten, (Py_ssize_t)size);
}

PyObject *py_plane_counts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    return PyBytes_FromStringAndSize((const char *)counts, sizeof counts);
}

PyObject *py_plane_held(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    uint64_t nodes = 0, lookups = 0, files = 0;
    for (size_t at = 0; at < plane.buckets; at++)
        for (struct node *node = plane.ids[at]; node; node = node->next_id)
            if (node->owner == OURS) {
                nodes++;
                lookups += node->lookups;
            }
    for (size_t at = 0; at < plane.handle_count; at++)
        files += plane.handles[at].used && !plane.handles[at].python && !plane.no_open;
    return Py_BuildValue("KKKK", nodes, lookups, files, plane.directories);
}

/* Note a descriptor of those that Python closes. */
static void take(int *all, size_t *count, int *fd)
{
    if (*fd >= 0 && *count < BLOCK_BYTES / sizeof *all)
        all[(*count)++] = *fd;
    *fd = -1;
}

PyObject *py_plane_close(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    int *all = (void *)plane.reply;
    size_t count = 0;
    for (size_t at = 0; at < plane.handle_count; at++)
        if (plane.handles[at].used)
            close_handle(&plane.handles[at]);
    for (size_t at = 0; at < plane.buckets; at++)
        for (struct node *node = plane.ids[at]; node; node = node->next_id) {
            take(all, &count, &node->fd);
            take(all, &count, &node->upper);
            for (size_t lower = 0; node->lowers && lower < node->lowers->count; lower++)
                take(all, &count, &node->lowers->at[lower].fd);
        }
    return PyBytes_FromStringAndSize(plane.reply, (Py_ssize_t)(count * sizeof *all));
}
