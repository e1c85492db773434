#include "inode.h"

#include "native.h"

#include <fcntl.h>
#include <sys/xattr.h>

void fill_stat(struct fuse_attr *to, uint64_t id, const struct stat *st)
{
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
        .nlink = (uint32_t)st->st_nlink,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .blksize = (uint32_t)st->st_blksize,
    };
}

int64_t nanoseconds_of(const struct timespec *time)
{
    return time->tv_sec * SECOND + time->tv_nsec;
}

int64_t now_on(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return nanoseconds_of(&now);
}

bool is_acl(const char *attribute) { return strncmp(attribute, "system.posix_acl_", 17) == 0; }

bool is_marker(const char *attribute)
{
    return strncmp(attribute, "trusted.overlay.", 16) == 0 ||
           strncmp(attribute, "user.overlay.", 13) == 0 ||
           strncmp(attribute, "user.fuseoverlayfs.", 19) == 0;
}

bool is_marked(int fd)
{
    char path[64], names[4096];
    ssize_t size = flistxattr(fd, names, sizeof names);
    if (size < 0 && errno == EBADF) { /* O_PATH */
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        size = listxattr(path, names, sizeof names);
    }
    if (size < 0)
        return errno != EOPNOTSUPP;
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1)
        if (is_marker(names + at))
            return true;
    return false;
}

int open_quietly(int at, const char *name, int flags)
{
    flags |= O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(at, name, flags | O_NOATIME);
    return fd < 0 && errno == EPERM ? openat(at, name, flags) : fd;
}

void set_modified(int fd, int64_t modified)
{
    struct timespec times[] = {{.tv_nsec = UTIME_OMIT},
                               {.tv_sec = modified / SECOND, .tv_nsec = modified % SECOND}};
    (void)futimens(fd, times);
}

int resize(const char *path, bool follows, uint64_t size)
{
    struct stat st;
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK | (follows ? 0 : O_NOFOLLOW));
    int result = fd < 0 || fstat(fd, &st) < 0 ? -1 : ftruncate(fd, (off_t)size), error = errno;
    if (result == 0)
        set_modified(fd, nanoseconds_of(&st.st_mtim));
    if (fd >= 0)
        close(fd);
    errno = error;
    return result;
}
