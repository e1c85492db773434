/* Detached mounts: make one, clone one, attach one, make one the root; the protection of procfs. */
#include "supervisor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Missing from the headers of Linux 5.10. The number is the same on all architectures but alpha. */
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef MNT_DETACH
#define MNT_DETACH 2 /* sys/mount.h conflicts with linux/mount.h */
#endif

enum { MOST_LINKS = 40 }; /* as the kernel, path_resolution(7) */

static int
set_attributes(int mount, unsigned flags, struct mount_attr attributes)
{
    return (int)syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH | flags, &attributes,
                        sizeof attributes);
}

static int
move_mount_to(int mount, const char *path)
{
    return (int)syscall(SYS_move_mount, mount, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
}

static int
set_option(int context, const char *key, const char *value)
{
    return (int)syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, key, value, 0);
}

static int
configure(int context, const char *fstype, const struct argument *options)
{
    if (set_option(context, "source", fstype) < 0)
        return -1;
    for (const char *key = NULL, *value = NULL; (key = list_next(options, value));) {
        value = list_next(options, key);
        if (set_option(context, key, value) < 0)
            return -1;
    }
    return (int)syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
}

int
mount_fresh(const char *fstype, unsigned attributes, const struct argument *options)
{
    int context = (int)syscall(SYS_fsopen, fstype, FSOPEN_CLOEXEC);
    if (context < 0)
        return -1;
    int mount = configure(context, fstype, options);
    if (mount == 0)
        mount = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes);
    close_keeping_errno(context);
    return mount;
}

/* An unprivileged process may make no other clone: it would reveal what the mounts below cover
 * (has_locked_children() in fs/namespace.c). */
int
mount_clone(const char *path, unsigned attributes)
{
    int mount = (int)syscall(SYS_open_tree, AT_FDCWD, path,
                             OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (mount < 0 || !attributes)
        return mount;
    if (set_attributes(mount, AT_RECURSIVE, (struct mount_attr){.attr_set = attributes}) < 0) {
        close_keeping_errno(mount);
        return -1;
    }
    return mount;
}

/* ---- paths ---------------------------------------------------------------------------------- */

/* Put `first`, a slash unless `first` ends with one, and `second` into `path`. */
static int
join(char *path, const char *first, const char *second)
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
int
real_path(const char *path, char *real)
{
    char rest[PATH_MAX], link[PATH_MAX], longer[PATH_MAX];
    int links = 0;
    if (join(rest, "/", path) < 0)
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
        if (join(longer, real, name) < 0)
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
        if (join(longer, link, after) < 0)
            return -1;
        strcpy(rest, longer);
        at = rest;
    }
    if (!real[0])
        strcpy(real, "/");
    return 0;
}

static bool
is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int
make_node(const char *path, bool directory)
{
    if (directory)
        return mkdir(path, 0777);
    int file = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0644);
    return file < 0 ? -1 : close(file);
}

/* Make a directory or an empty file, and before it the directories above that are missing. Only
 * then: each mkdir(2) looks its name up in the file system, which is a request to a daemon. */
static int
make_missing(char *path, bool directory)
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

/* Put the real path of `target` into `place`, and make it if it is missing: move_mount(2) follows
 * no symbolic link in the last name. */
static int
make_mountpoint(const char *target, bool directory, char *place)
{
    struct stat st;
    if (real_path(target, place) < 0)
        return -1;
    return lstat(place, &st) == 0 ? 0 : make_missing(place, directory);
}

int
mount_attach(int mount, const char *target)
{
    char place[PATH_MAX];
    struct stat st;
    if (fstat(mount, &st) < 0)
        return fail(ATTACH, target);
    bool directory = S_ISDIR(st.st_mode);
    if (make_mountpoint(target, directory, place) < 0)
        return fail(MOUNTPOINT, target);
    if (is_directory(place) != directory)
        return fail_with(MISMATCH, directory ? ENOTDIR : EISDIR, target);
    if (move_mount_to(mount, place) < 0)
        return fail(ATTACH, target);
    close(mount);
    return 0;
}

/* ---- the root ------------------------------------------------------------------------------- */

/* Attach a mount, private, on top of the root directory, and make it the working directory. */
static int
cover_root(int mount)
{
    struct mount_attr private = {.propagation = MS_PRIVATE};
    if (set_attributes(mount, AT_RECURSIVE, private) < 0 || move_mount_to(mount, "/") < 0)
        return -1;
    return fchdir(mount);
}

/* pivot_root(2) with one mountpoint for the new and the old root (its NOTES). */
static int
exchange_root(int mount)
{
    if (cover_root(mount) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
        syscall(SYS_umount2, ".", MNT_DETACH) < 0)
        return -1;
    return chdir("/");
}

/* Below the new root is `below`, a small file system that no path reaches, with a whole procfs: an
 * unprivileged process gets a fresh procfs only while it sees a whole one (mount_too_revealing() in
 * fs/namespace.c), and parts of the view's are covered. The view's root covers the root of `below`:
 * for the kernel, no process of the view is in a chroot(2), where it could make no user namespace
 * (current_chrooted() in fs/namespace.c). Fails with EINVAL where the old root is the initial
 * ramfs, which pivot_root(2) cannot move. */
int
mount_root(int mount, int whole_proc, int below)
{
    struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};
    if (exchange_root(below) < 0 || mkdir("/proc", 0500) < 0 ||
        move_mount_to(whole_proc, "/proc") < 0 || set_attributes(below, 0, read_only) < 0 ||
        cover_root(mount) < 0 || chroot(".") < 0)
        return -1;
    close(below);
    close(whole_proc);
    close(mount);
    return 0;
}

/* ---- procfs --------------------------------------------------------------------------------- */

/* Whether the machine's uid 0, which owns procfs and needs no capability for it, is mapped here. */
static bool
maps_machine_root(void)
{
    char text[16];
    struct stat st;
    int file = open("/proc/sys/kernel/overflowuid", O_RDONLY | O_CLOEXEC);
    ssize_t count = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    if (count < 0 || stat("/proc/sys", &st) < 0)
        return true;
    text[count] = '\0';
    return st.st_uid != strtoul(text, NULL, 10);
}

/* Attach `mount` over `target`, unless it is -1: then a missing target does not count. */
static int
cover(int mount, const char *target)
{
    if (mount < 0)
        return errno == ENOENT ? 0 : fail(PROC, target);
    return mount_attach(mount, target);
}

/* Whether an entry of /proc is no process, and is writable or may contain a writable file. */
static bool
is_of_the_machine(int proc, const char *name)
{
    struct stat st;
    if (!name[strspn(name, "0123456789")] || name[0] == '.' ||
        fstatat(proc, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISLNK(st.st_mode))
        return false;
    return S_ISDIR(st.st_mode) || st.st_mode & 0222;
}

static int
make_proc_read_only(void)
{
    DIR *proc = opendir("/proc");
    int result = 0;
    if (!proc)
        return fail(PROC, "/proc");
    for (const struct dirent *entry; result == 0 && (entry = readdir(proc));) {
        char path[sizeof "/proc/" + NAME_MAX];
        if (!is_of_the_machine(dirfd(proc), entry->d_name))
            continue;
        (void)snprintf(path, sizeof path, "/proc/%s", entry->d_name);
        result = cover(mount_clone(path, MOUNT_ATTR_RDONLY), path);
    }
    closedir(proc);
    return result;
}

static int
mask_in_proc(const char *name)
{
    static const char mode[] = "mode\0"
                               "0555";
    const struct argument options = {.bytes = mode, .length = sizeof mode};
    char path[PATH_MAX];
    struct stat st;
    if (join(path, "/proc", name) < 0)
        return fail(PROC, name);
    if (stat(path, &st) < 0)
        return cover(-1, path);
    if (S_ISDIR(st.st_mode))
        return cover(mount_fresh("tmpfs",
                                 MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
                                     MOUNT_ATTR_RDONLY,
                                 &options),
                     path);
    return cover(mount_clone("/dev/null", 0), path);
}

/* With a private network, /proc/sys/net stays writable: it shows the network of its reader, and
 * container engines set it. */
int
protect_proc(const struct argument *masked, bool own_network)
{
    static const char network[] = "/proc/sys/net";
    int mount = -1;
    if (!maps_machine_root())
        return 0;
    if (own_network && is_directory(network) && (mount = mount_clone(network, 0)) < 0)
        return fail(PROC, network);
    if (make_proc_read_only() < 0 || (mount >= 0 && mount_attach(mount, network) < 0))
        return -1;
    for (const char *name = NULL; (name = list_next(masked, name));)
        if (mask_in_proc(name) < 0)
            return -1;
    return 0;
}
