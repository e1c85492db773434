/* Remove a tree, as overlaykit/rmtree.py does: with unreadable and read-only directories, deep
 * paths and symbolic links in it. */
#include "supervisor.h"

#include <dirent.h>

enum { NAME_TRIES = 16 };

/* Open a directory for removal: widen its mode where it forbids that. Follows no link. */
static DIR *open_writable(int parent, const char *name)
{
    char path[sizeof "/proc/self/fd/" + 12];
    struct stat st;
    int handle = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (handle < 0)
        return NULL;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", handle);
    int directory = -1;
    if (fstat(handle, &st) == 0 && ((st.st_mode & 0700) == 0700 || chmod(path, 0700) == 0))
        directory = openat(handle, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    close_keeping_errno(handle);
    DIR *stream = directory < 0 ? NULL : fdopendir(directory);
    if (directory >= 0 && !stream)
        close_keeping_errno(directory);
    return stream;
}

/* Remove an entry. Returns 1 for a directory that is not empty, -1 with errno set. */
static int remove_entry(int parent, const char *name)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR)
        return -1;
    if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return 0;
    /* EBUSY: a mountpoint. */
    return errno == ENOTEMPTY || errno == EEXIST ? 1 : -1;
}

/* Move a directory that is not empty to `top`, under a name that is free there. */
static int lift(int parent, const char *name, int top)
{
    static unsigned number;
    char free_name[24];
    int result;
    DIR *stream = open_writable(parent, name); /* its entry ".." is written, too */
    if (!stream)
        return -1;
    closedir(stream);
    do {
        (void)snprintf(free_name, sizeof free_name, ".removed-%u", number++);
        result = renameat2(parent, name, top, free_name, RENAME_NOREPLACE);
    } while (result < 0 && errno == EEXIST);
    return result;
}

/* Remove what is in a directory. What is not empty is lifted to `top`, so that a deep tree needs no
 * deep recursion and few descriptors. Returns the number of entries found, or -1. */
static long clear(DIR *stream, int top)
{
    long found = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry)
            return errno ? -1 : found;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        found++;
        int state = remove_entry(dirfd(stream), entry->d_name);
        if (state == 1 && dirfd(stream) != top) {
            state = lift(dirfd(stream), entry->d_name, top);
        } else if (state == 1) {
            DIR *below = open_writable(top, entry->d_name);
            if (!below)
                return -1;
            state = clear(below, top) < 0 ? -1 : 0;
            int error = errno;
            closedir(below);
            errno = error;
            if (state == 0)
                state = unlinkat(top, entry->d_name, AT_REMOVEDIR);
        }
        if (state < 0)
            return -1;
    }
}

/* Remove all that is in a directory. */
static int empty(int directory, const char *name)
{
    DIR *stream = open_writable(directory, name);
    if (!stream)
        return -1;
    long found;
    while ((found = clear(stream, dirfd(stream))) > 0)
        rewinddir(stream);
    int error = errno;
    closedir(stream);
    errno = error;
    return found < 0 ? -1 : 0;
}

int remove_tree(int directory, const char *name)
{
    int state = remove_entry(directory, name);
    if (state < 1)
        return state;
    return empty(directory, name) < 0 ? -1 : unlinkat(directory, name, AT_REMOVEDIR);
}

void remove_opened(int directory)
{
    char link[sizeof "/proc/self/fd/" + 12];
    char path[PATH_MAX] = "..";
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    int state = empty(directory, ".");
    /* The name may change before it is used. It may be another directory's then, which stays,
     * because it is not empty. */
    for (int tries = 0; state == 0 && tries < NAME_TRIES; tries++) {
        ssize_t length = readlink(link, path + 2, sizeof path - 3);
        char *name = length > 0 ? memrchr(path + 2, '/', (size_t)length) : NULL;
        if (!name)
            return;
        path[2 + length] = '\0';
        memmove(path + 2, name, strlen(name) + 1);
        if (unlinkat(directory, path, AT_REMOVEDIR) == 0)
            return;
    }
}
