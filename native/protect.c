/* What covers parts of procfs and sysfs, and paths that a view hides. */
#include "supervisor.h"

#include <dirent.h>

static const struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};

/* Whether the machine's uid 0, which owns procfs and needs no capability for it, is mapped here. */
static bool maps_machine_root(void)
{
    struct stat st;
    uid_t overflow;
    FILE *file = fopen("/proc/sys/kernel/overflowuid", "re");
    bool known = file && fscanf(file, "%u", &overflow) == 1;
    if (file)
        (void)fclose(file);
    return !known || stat("/proc/sys", &st) < 0 || st.st_uid != overflow;
}

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

/* Cover paths that exist, directories by empty ones and other files by `file`. */
static int cover_all(const struct argument *paths, const char *file,
                     const struct mount_attr *attributes, const char *failure)
{
    for (const char *path = NULL; (path = list_next(paths, path));) {
        struct stat st;
        if (stat(path, &st) < 0) {
            if (errno != ENOENT && errno != ENOTDIR && errno != EACCES && errno != ELOOP)
                return fail(failure, path);
            continue; /* no process of the view sees more */
        }
        bool directory = S_ISDIR(st.st_mode);
        int mount = directory ? cover_directory(path) : mount_clone(file, attributes);
        if (mount < 0)
            return fail(failure, path);
        if (!directory && mount_attach(mount, path) < 0)
            return -1;
    }
    return 0;
}

int protect(const struct argument *arguments)
{
    const struct argument *masked = &arguments[0], *shown = &arguments[1];
    bool whole = arguments[3].number & PLAN_MACHINE && maps_machine_root();
    if (whole && make_proc_read_only(&arguments[2]) < 0)
        return -1;
    for (const char *path = NULL; (path = list_next(shown, path));)
        if (!(whole && !strncmp(path, "/proc/", 6)) && make_read_only(path) < 0)
            return -1;
    return cover_all(masked, "/dev/null", NULL, "PROC");
}

/* An empty file, unlike /dev/null, refuses writes. It lies on the view's own /run meanwhile. */
int hide(const struct argument *paths)
{
    static const char empty[] = "/run/.empty";
    int file = open(empty, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
    if (file < 0)
        return fail("HIDE", paths->bytes);
    close(file);
    int result = cover_all(paths, empty, &read_only, "HIDE");
    (void)unlink(empty);
    return result;
}
