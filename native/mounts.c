/* Detached mounts: clone one, attach one. */
#include "supervisor.h"

#include <linux/openat2.h>

enum { MOST_LINKS = 40 }; /* as the kernel, path_resolution(7) */

static int set_attributes(int mount, unsigned flags, struct mount_attr attributes)
{
    return (int)syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH | flags, &attributes,
                        sizeof attributes);
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

bool is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* A link of procfs would lead out of the view, to a descriptor that init has: it is an error. */
int open_path(const char *path, int flags)
{
    struct open_how how = {.flags = (uint64_t)(O_PATH | O_CLOEXEC | flags),
                           .resolve = RESOLVE_NO_MAGICLINKS};
    return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

static int make_missing(char *path, bool directory, int links);

/* Make what a symbolic link leads to. Anything else is there already. */
static int make_linked(int above, const char *path, const char *name, bool directory, int links)
{
    char link[PATH_MAX], leads_to[PATH_MAX];
    ssize_t size = readlinkat(above, name, link, sizeof link - 1);
    if (size < 0)
        return errno == EINVAL ? 0 : -1;
    link[size] = '\0';
    int kept = link[0] == '/' ? 0 : (int)(name - path);
    if (links == MOST_LINKS ||
        snprintf(leads_to, PATH_MAX, "%.*s/%s", kept, path, link) >= PATH_MAX) {
        errno = links == MOST_LINKS ? ELOOP : ENAMETOOLONG;
        return -1;
    }
    return make_missing(leads_to, directory, links + 1);
}

/* Make a directory or an empty file, and before it the directories above that are missing. */
static int make_missing(char *path, bool directory, int links)
{
    char *slash = strrchr(path, '/'), *name = slash + 1;
    *slash = '\0';
    int above = open_path(slash == path ? "/" : path, O_DIRECTORY);
    if (above < 0 && errno == ENOENT && slash != path && make_missing(path, true, links) == 0)
        above = open_path(path, O_DIRECTORY);
    *slash = '/';
    if (above < 0)
        return -1;
    int made = directory ? mkdirat(above, name, 0777)
                         : openat(above, name, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (made < 0 && errno == EEXIST)
        made = make_linked(above, path, name, directory, links);
    else if (made >= 0 && !directory)
        close(made);
    close_keeping_errno(above);
    return made < 0 ? -1 : 0;
}

int open_place(const char *target, bool directory)
{
    char path[PATH_MAX];
    int place = open_path(target, 0);
    if (place >= 0 || errno != ENOENT)
        return place;
    if (snprintf(path, sizeof path, "/%s", target) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    for (size_t size = strlen(path); path[size - 1] == '/' && size > 1;)
        path[--size] = '\0';
    return make_missing(path, directory, 0) < 0 ? -1 : open_path(target, 0);
}

int make_directory(const char *path, mode_t mode)
{
    if (is_directory(path))
        return 0;
    int place = open_place(path, true);
    close_keeping_errno(place);
    if (place >= 0 && !is_directory(path))
        return fail_with("CONTENTS", EEXIST, path);
    return place >= 0 && chmod(path, mode) == 0 ? 0 : fail("CONTENTS", path);
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

int mount_attach(int mount, const char *target)
{
    struct stat st, of_place;
    if (fstat(mount, &st) < 0)
        return fail("ATTACH", target);
    bool directory = S_ISDIR(st.st_mode);
    int place = open_place(target, directory);
    if (place < 0 || fstat(place, &of_place) < 0)
        return fail("MOUNTPOINT", target);
    if (S_ISDIR(of_place.st_mode) != directory)
        return fail_with("MISMATCH", directory ? ENOTDIR : EISDIR, target);
    if (syscall(SYS_move_mount, mount, "", place, "",
                MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
        return fail("ATTACH", target);
    close(place);
    close(mount);
    return 0;
}

/* ---- the paths shared with the host --------------------------------------------------------- */

struct bind {
    const char *target;
    size_t depth; /* of its place before anything is attached */
    int mount;
    uint64_t id; /* once it is attached */
};

static int in_order(const void *one, const void *other)
{
    const struct bind *first = one, *second = other;
    if (first->depth != second->depth)
        return first->depth < second->depth ? -1 : 1;
    return first->target < second->target ? -1 : 1; /* as in the plan, which holds both */
}

/* The depth of a path without symbolic links. One that is missing comes after all that are not:
 * it may be missing below one of them, by a symbolic link. */
static size_t depth_of(const char *target)
{
    char path[PATH_MAX], real[PATH_MAX] = "";
    size_t depth = 0;
    int place;
    (void)snprintf(path, sizeof path, "/%s", target);
    while ((place = open(path, O_PATH | O_CLOEXEC)) < 0 && depth++ < PATH_MAX) {
        char *last = strrchr(path, '/');
        *(last == path ? last + 1 : last) = '\0';
    }
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", place);
    (void)!readlink(path, real, sizeof real - 1);
    close(place);
    depth += depth ? PATH_MAX : 0;
    for (const char *at = real; *at; at++)
        depth += *at == '/' && at[1];
    return depth;
}

/* The mount whose root is at a path; 0 if none is. */
static uint64_t mounted_at(const char *path)
{
    struct statx st;
    bool known = statx(AT_FDCWD, path, 0, STATX_MNT_ID, &st) == 0;
    return known && st.stx_attributes & STATX_ATTR_MOUNT_ROOT ? st.stx_mnt_id : 0;
}

int attach_binds(struct plan *plan)
{
    static struct bind binds[PLAN_MOST_SLOTS];
    struct bind *end = binds;
    struct record record;
    char both[2 * PATH_MAX];
    for (struct cursor cursor = plan->sections[SECTION_INIT]; plan_next(&cursor, &record);) {
        const struct argument *slot = &record.arguments[0], *target = &record.arguments[1];
        if (record.step != STEP_BIND || slot_descriptor(plan, slot) < 0)
            continue;
        *end++ = (struct bind){.target = target->bytes,
                               .depth = depth_of(target->bytes),
                               .mount = slot_descriptor(plan, slot)};
        slot_fill(plan, slot, -1);
    }
    qsort(binds, (size_t)(end - binds), sizeof *binds, in_order);
    for (struct bind *one = binds; one < end; one++) {
        /* Two targets may be one path, by symbolic links. */
        uint64_t found = mounted_at(one->target);
        for (const struct bind *before = binds; found && before < one; before++)
            if (before->id == found) {
                (void)snprintf(both, sizeof both, "%s\n%s", before->target, one->target);
                return fail_with("TWICE", EBUSY, both);
            }
        if (mount_attach(one->mount, one->target) < 0)
            return -1;
        one->id = mounted_at(one->target);
    }
    return 0;
}
