/* What covers parts of procfs and sysfs, and paths that a view hides. */
#include "supervisor.h"

#include <dirent.h>

static const struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};

/* Whether an entry of /proc is no process, and is writable or may contain a writable file. */
static bool is_of_the_machine(int proc, const char *name)
{
    struct stat st;
    if (!name[strspn(name, "0123456789")] || name[0] == '.' ||
        fstatat(proc, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISLNK(st.st_mode))
        return false;
    return S_ISDIR(st.st_mode) || st.st_mode & 0222;
}

static bool list_has(const struct argument *list, const char *wanted)
{
    for (const char *one = NULL; (one = list_next(list, one));)
        if (!strcmp(one, wanted))
            return true;
    return false;
}

static int make_read_only(const char *path)
{
    int mount = mount_clone(path, &read_only);
    if (mount < 0)
        return errno == ENOENT ? 0 : fail("PROC", path);
    return mount_attach(mount, path);
}

/* Make all of procfs read-only but processes and the paths that are left as they are. */
static int make_proc_read_only(const struct argument *left)
{
    DIR *proc = opendir("/proc");
    int result = 0;
    if (!proc)
        return fail("PROC", "/proc");
    for (const struct dirent *entry; result == 0 && (entry = readdir(proc));) {
        char path[sizeof "/proc/" + NAME_MAX];
        (void)snprintf(path, sizeof path, "/proc/%s", entry->d_name);
        if (is_of_the_machine(dirfd(proc), entry->d_name) && !list_has(left, path))
            result = make_read_only(path);
    }
    closedir(proc);
    return result;
}

static int cover_directory(const char *path)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;
    return (int)syscall(SYS_mount, "tmpfs", path, "tmpfs", flags, "mode=0555");
}

int protect(const struct argument *arguments)
{
    const struct argument *shown = &arguments[0];
    struct stat st;
    /* Whether the machine's uid 0, which owns procfs and needs no capability for it, is mapped. */
    bool whole = arguments[2].number & PLAN_MACHINE &&
                 (stat("/proc/sys", &st) < 0 || st.st_uid != arguments[3].number);
    if (whole && make_proc_read_only(&arguments[1]) < 0)
        return -1;
    for (const char *path = NULL; (path = list_next(shown, path));)
        if (!(whole && !strncmp(path, "/proc/", 6)) && make_read_only(path) < 0)
            return -1;
    return 0;
}

int mask(const struct argument *arguments)
{
    const char *file = arguments[1].bytes, *failure = arguments[3].bytes;
    const struct mount_attr attributes = {.attr_set = arguments[2].number};
    for (const char *path = NULL; (path = list_next(&arguments[0], path));) {
        struct stat st;
        if (stat(path, &st) < 0) {
            if (errno != ENOENT && errno != ENOTDIR && errno != EACCES && errno != ELOOP)
                return fail(failure, path);
            continue; /* no process of the view sees more */
        }
        bool directory = S_ISDIR(st.st_mode);
        int mount = directory ? cover_directory(path)
                              : mount_clone(file, attributes.attr_set ? &attributes : NULL);
        if (mount < 0)
            return fail(failure, path);
        if (!directory && mount_attach(mount, path) < 0)
            return -1;
    }
    return 0;
}
