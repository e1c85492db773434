/* Detached mounts: clone one, attach one. */
#include "supervisor.h"

enum { MOST_LINKS = 40 }; /* as the kernel, path_resolution(7) */

static int set_attributes(int mount, unsigned flags, struct mount_attr attributes)
{
    return (int)syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH | flags, &attributes,
                        sizeof attributes);
}

static int move_mount_to(int mount, const char *path)
{
    return (int)syscall(SYS_move_mount, mount, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
}

/* An unprivileged process may make no other clone: it would reveal what the mounts below cover
 * (has_locked_children() in fs/namespace.c). */
int mount_clone(const char *path, const struct mount_attr *attributes)
{
    int mount = (int)syscall(SYS_open_tree, AT_FDCWD, path,
                             OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (mount < 0 || !attributes)
        return mount;
    if (set_attributes(mount, AT_RECURSIVE, *attributes) < 0) {
        close_keeping_errno(mount);
        return -1;
    }
    return mount;
}

/* ---- paths ---------------------------------------------------------------------------------- */

/* Put `first`, a slash unless `first` ends with one, and `second` into `path`, of PATH_MAX bytes.
 * Returns -1 with errno set. */
static int join_paths(char *path, const char *first, const char *second)
{
    size_t length = strlen(first);
    bool slash = length == 0 || first[length - 1] != '/';
    int count = snprintf(path, PATH_MAX, "%s%s%s", first, slash ? "/" : "", second);
    if (count < PATH_MAX)
        return 0;
    errno = ENAMETOOLONG;
    return -1;
}

/* As os.path.realpath: realpath(3) fails where a name is missing. */
int real_path(const char *path, char *real)
{
    char rest[PATH_MAX], link[PATH_MAX], longer[PATH_MAX];
    int links = 0;
    if (join_paths(rest, "/", path) < 0)
        return -1;
    real[0] = '\0';
    for (char *at = rest; *at;) {
        size_t skipped = strspn(at, "/"), length = strcspn(at + skipped, "/");
        char *name = at + skipped, *after = name + length;
        if (length == 0 || (length == 1 && name[0] == '.')) {
            at = after;
            continue;
        }
        if (length == 2 && name[0] == '.' && name[1] == '.') {
            char *last = strrchr(real, '/');
            if (last)
                *last = '\0';
            at = after;
            continue;
        }
        char separator = *after;
        *after = '\0';
        if (join_paths(longer, real, name) < 0)
            return -1;
        *after = separator;
        ssize_t size = readlink(longer, link, sizeof link - 1);
        if (size < 0 || links++ == MOST_LINKS) { /* no link, missing, or a loop */
            strcpy(real, longer);
            at = after;
            continue;
        }
        link[size] = '\0';
        if (link[0] == '/')
            real[0] = '\0';
        if (join_paths(longer, link, after) < 0)
            return -1;
        strcpy(rest, longer);
        at = rest;
    }
    if (!real[0])
        strcpy(real, "/");
    return 0;
}

bool is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int make_node(const char *path, bool directory)
{
    if (directory)
        return mkdir(path, 0777);
    int file = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0644);
    return file < 0 ? -1 : close(file);
}

/* Make a directory or an empty file, and before it the directories above that are missing. Only
 * then: each mkdir(2) looks its name up in the file system, which is a request to a daemon. */
static int make_missing(char *path, bool directory)
{
    if (make_node(path, directory) == 0 || errno == EEXIST)
        return 0;
    char *last = strrchr(path, '/');
    if (errno != ENOENT || last == path)
        return -1;
    *last = '\0';
    int made = make_missing(path, true);
    *last = '/';
    return made < 0 ? -1 : make_node(path, directory);
}

int make_directory(const char *path, mode_t mode)
{
    char place[PATH_MAX];
    bool known = real_path(path, place) == 0;
    if (known && is_directory(place))
        return 0;
    bool made = known && make_missing(place, true) == 0 && is_directory(place);
    return made && chmod(place, mode) == 0 ? 0 : fail("CONTENTS", path);
}

int make_symlink(const char *target, const char *path)
{
    char found[PATH_MAX];
    if (symlink(target, path) == 0)
        return 0;
    int error = errno;
    ssize_t size = error == EEXIST ? readlink(path, found, sizeof found) : -1;
    bool same = size == (ssize_t)strlen(target) && !memcmp(found, target, (size_t)size);
    return same ? 0 : fail_with("SYMLINK", error, path);
}

/* Put the real path of `target` into `place`, and make it if it is missing: move_mount(2) follows
 * no symbolic link in the last name. */
static int make_mountpoint(const char *target, bool directory, char *place)
{
    struct stat st;
    if (real_path(target, place) < 0)
        return -1;
    return lstat(place, &st) == 0 ? 0 : make_missing(place, directory);
}

int mount_attach(int mount, const char *target)
{
    char place[PATH_MAX];
    struct stat st;
    if (fstat(mount, &st) < 0)
        return fail("ATTACH", target);
    bool directory = S_ISDIR(st.st_mode);
    if (make_mountpoint(target, directory, place) < 0)
        return fail("MOUNTPOINT", target);
    if (is_directory(place) != directory)
        return fail_with("MISMATCH", directory ? ENOTDIR : EISDIR, target);
    if (move_mount_to(mount, place) < 0)
        return fail("ATTACH", target);
    close(mount);
    return 0;
}

/* ---- the paths shared with the host --------------------------------------------------------- */

struct bind {
    const char *target;
    char *place;  /* the target without symbolic links, at the time when it is attached */
    size_t depth; /* of its place before anything is attached */
    int mount;
};

static int in_order(const void *one, const void *other)
{
    const struct bind *first = one, *second = other;
    if (first->depth != second->depth)
        return first->depth < second->depth ? -1 : 1;
    return first->target < second->target ? -1 : 1; /* as in the plan, which holds both */
}

int attach_binds(struct plan *plan)
{
    static struct bind binds[PLAN_MOST_SLOTS];
    struct bind *end = binds;
    struct record record;
    char real[PATH_MAX], both[2 * PATH_MAX];
    for (struct cursor cursor = plan->sections[SECTION_INIT]; plan_next(&cursor, &record);) {
        const struct argument *slot = &record.arguments[0], *target = &record.arguments[1];
        if (record.step != STEP_BIND || slot_descriptor(plan, slot) < 0)
            continue;
        if (real_path(target->bytes, real) < 0)
            return fail("MOUNTPOINT", target->bytes);
        *end = (struct bind){.target = target->bytes, .mount = slot_descriptor(plan, slot)};
        for (const char *at = real; *at; at++)
            end->depth += *at == '/';
        end++;
        slot_fill(plan, slot, -1);
    }
    qsort(binds, (size_t)(end - binds), sizeof *binds, in_order);
    for (struct bind *one = binds; one < end; one++) {
        if (real_path(one->target, real) < 0)
            return fail("MOUNTPOINT", one->target);
        /* Two targets may be one path, by symbolic links. */
        for (const struct bind *before = binds; before < one; before++)
            if (!strcmp(before->place, real)) {
                (void)snprintf(both, sizeof both, "%s\n%s", before->target, one->target);
                return fail_with("TWICE", EBUSY, both);
            }
        if (!(one->place = strdup(real)))
            return fail("PROCESS", "");
        if (mount_attach(one->mount, one->target) < 0)
            return -1;
    }
    return 0;
}
