/* The data plane's listings, and the names that it keeps of directories. See plane.c. */
#include "nodes.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>

enum {
    SHORT_NAME = 8,   /* its bytes in a reply, at least */
    ENTRY_BYTES = 24, /* with such a name; the longest has 280 */
    LEAST_BYTES = 512,
};

struct entry { /* struct linux_dirent64 of getdents64(2) */
    uint64_t inode;
    int64_t next;
    unsigned short size;
    unsigned char type;
    char name[];
};

bool folds(const struct names *names, unsigned place, int fd)
{
    char other[MOST_NAMES + 1];
    struct stat st;
    for (size_t index = 0; index < names->count; index++) {
        const char *text = names_text(names, index);
        size_t length = strlen(text), at = 0;
        while (at < length && !(isascii(text[at]) && isalpha(text[at])))
            at++;
        if (names->all[index].place != place || at == length)
            continue;
        memcpy(other, text, length + 1);
        other[at] ^= 0x20;
        if (names_place(names, other) == ABSENT)
            return fstatat(fd, other, &st, AT_SYMLINK_NOFOLLOW) == 0;
    }
    return false;
}

static int open_listing(int directory)
{
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOATIME);
    return fd < 0 && errno == EPERM ? openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                                    : fd;
}

bool read_names(struct node *directory, const struct lone *lone)
{
    _Alignas(struct entry) static char buffer[LISTING_BYTES];
    struct place at = place_in(directory, false, lone->place);
    bool is_plain = true;
    long size = -1;
    int fd = open_listing(at.fd);
    while (fd >= 0 && is_plain && directory->names->count <= lone->most &&
           (size = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0)
        for (long offset = 0; offset < size;) {
            const struct entry *entry = (void *)(buffer + offset);
            unsigned char type = entry->type;
            bool has_number = lone->is_trusted && type == DT_REG && entry->inode < INODE_LIMIT;
            offset += entry->size;
            if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0)
                continue;
            is_plain = is_plain && (type == DT_REG || type == DT_DIR || type == DT_LNK) &&
                       strncmp(entry->name, AUFS_PREFIX, sizeof AUFS_PREFIX - 1) != 0;
            keep_name(directory, entry->name,
                      (struct name){.inode = has_number ? at.base | entry->inode : 0,
                                    .place = (uint8_t)lone->place,
                                    .type = type});
        }
    if (fd >= 0)
        close(fd);
    return size == 0 && is_plain && !folds(directory->names, lone->place, at.fd);
}

struct listing {
    struct node *directory;
    size_t used, room;
    size_t before; /* bytes before each name: fewer of a READDIR, which makes no nodes */
    bool names_only;
    size_t count;
    struct node *emitted[MOST_EMITTED]; /* whose lookups count once the kernel has the reply */
};

static bool is_plain(const struct listing *listing) { return listing->before == FUSE_NAME_OFFSET; }

/* Add an entry to the reply. Returns false if there is no room. `inode`: of the name. */
static bool emit(struct listing *listing, const char *name, uint64_t inode, unsigned type,
                 uint64_t position, struct node *node, const struct stat *st)
{
    size_t length = strlen(name);
    size_t size = FUSE_DIRENT_ALIGN(listing->before + length);
    if (size > listing->room - listing->used || listing->count == MOST_EMITTED)
        return false;
    char *entry = plane.reply + listing->used;
    struct fuse_dirent *out = (void *)(entry + listing->before - FUSE_NAME_OFFSET);
    memset(entry, 0, size);
    if (node) {
        fill_entry((void *)entry, node, st);
        listing->emitted[listing->count++] = node;
    }
    out->ino = inode ? inode : UNKNOWN_INODE;
    out->off = position;
    out->namelen = (uint32_t)length;
    out->type = type;
    memcpy(out->name, name, length);
    listing->used += size;
    return true;
}

/* Add an entry that a lower has, or Python. Returns false if there is no room. `known`: its
 * attributes, if they are; `is_trusted`: `inode` is its number as shown. */
static bool emit_entry(struct listing *listing, const char *name, struct name of, bool is_trusted,
                       const struct stat *known, uint64_t position)
{
    struct node *above = listing->directory, *node = NULL;
    struct place at = place_in(above, false, of.place);
    struct stat st;
    if (of.place == PLACE_OF_PYTHON || (listing->names_only && of.type == DT_REG && is_trusted))
        return emit(listing, name, of.inode, of.type, position, NULL, NULL);
    if (known)
        st = *known;
    if (known || fstatat(at.fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        bool fits = st.st_dev == at.device && st.st_ino < INODE_LIMIT;
        of.inode = fits ? at.base | st.st_ino : 0;
        of.type = (st.st_mode & S_IFMT) >> 12;
        if (!is_plain(listing))
            node = node_of(above, name, of.place, &st);
    }
    if (emit(listing, name, of.inode, of.type, position, node, &st))
        return true;
    if (node)
        settle(node);
    return false;
}

/* Whether an entry shows, and its attributes if that took them: as overlay/merge.py. */
static bool shows(const struct node *directory, const struct entry *entry, struct stat *st,
                  bool *known)
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

static bool are_names_enough(const struct listing *listing, uint64_t skipped)
{
    const struct node *directory = listing->directory;
    return is_plain(listing) ||
           (directory->wide && 2 * directory->children <= (skipped > WIDE ? skipped : WIDE));
}

/* How many bytes of entries to read for the room that is left: about as many as fit. Those beyond
 * are read again at the next request, and a disk sorts or parses them each time. */
static size_t bytes_for(const struct listing *listing)
{
    size_t fits = (listing->room - listing->used) / (listing->before + SHORT_NAME);
    size_t bytes = fits * ENTRY_BYTES;
    return bytes < LEAST_BYTES ? LEAST_BYTES : bytes < LISTING_BYTES ? bytes : LISTING_BYTES;
}

/* Add the names after the first `skipped` positions of a directory whose names Python has given. */
static void list_names(struct listing *listing, uint64_t skipped)
{
    struct node *directory = listing->directory;
    const struct names *names = directory->names;
    directory->wide = names->count > WIDE;
    listing->names_only = are_names_enough(listing, skipped);
    for (uint64_t index = skipped; index < names->count; index++) {
        struct name name = names->all[index];
        if (!emit_entry(listing, names_text(names, index), name, name.inode != 0, NULL, index + 3))
            return;
    }
}

/* Add the entries after the first `skipped` ones. Returns an errno. */
static int list(struct listing *listing, int fd, uint64_t skipped)
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
        bool is_first = index == 0 && skipped == 0; /* which tells whether it is wide */
        size_t wanted = is_first ? sizeof buffer : bytes_for(listing);
        long size = syscall(SYS_getdents64, fd, buffer, wanted);
        if (size < 0)
            return errno;
        if (is_first) {
            size_t entries = 0;
            for (long at = 0; at < size; at += ((struct entry *)(void *)(buffer + at))->size)
                entries++;
            directory->wide = entries > WIDE;
        }
        listing->names_only = are_names_enough(listing, skipped);
        for (long at = 0; at < size;) {
            const struct entry *entry = (void *)(buffer + at);
            struct stat st;
            bool known;
            at += entry->size;
            struct name name = {.type = entry->type,
                                .inode = entry->inode < INODE_LIMIT ? directory->base | entry->inode
                                                                    : 0};
            if (shows(directory, entry, &st, &known) && ++index > skipped &&
                !emit_entry(listing, entry->name, name, directory->lists_inodes, known ? &st : NULL,
                            index + 2)) {
                index--; /* where the next request continues */
                size = 0;
                break;
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
bool answer_listing(const struct fuse_in_header *header, struct node *directory)
{
    static struct listing listing;
    const struct fuse_read_in *in = (const void *)(header + 1);
    uint64_t offset = in->offset;
    listing.directory = directory;
    listing.used = listing.count = 0;
    listing.room = in->size;
    listing.before =
        header->opcode == FUSE_READDIR ? FUSE_NAME_OFFSET : FUSE_NAME_OFFSET_DIRENTPLUS;
    int fd = directory->lists ? -1 : open_listing(directory->fd);
    if (fd < 0 && !directory->lists)
        return false;
    bool room = (offset > 0 || emit(&listing, ".", directory->id, DT_DIR, 1, NULL, NULL)) &&
                (offset > 1 || emit(&listing, "..", directory->above_id, DT_DIR, 2, NULL, NULL));
    uint64_t skipped = offset > 2 ? offset - 2 : 0;
    int error = 0;
    if (room && directory->lists)
        list_names(&listing, skipped);
    else if (room)
        error = list(&listing, fd, skipped);
    if (fd >= 0)
        close(fd);
    if (offset == 0)
        directory->reading = true;
    else if (listing.used == 0)
        directory->reading = false;
    for (size_t at = 0; at < listing.count; at++)
        listing.emitted[at]->lookups++;
    bool taken = reply(header->unique, error, error ? NULL : plane.reply, error ? 0 : listing.used);
    for (size_t at = 0; at < listing.count && (error || !taken); at++) {
        listing.emitted[at]->lookups--;
        settle(listing.emitted[at]);
    }
    return true;
}
