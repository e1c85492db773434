/* The metadata of a copy-up: owner, xattrs with ACLs and file capabilities, mode, times.
 *
 * The order preserves them all. chown(2) drops capabilities and the set-user-ID bit, so it comes
 * first. An ACL changes the mode, and the mode changes the ACL's mask; the source's agree, so the
 * copy's agree once both are set. Times come last, since the other steps change them. */
#include "copyup.h"

#include <endian.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/limits.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"

/* The inode number of the initial user namespace: include/linux/proc_ns.h of the kernel, and since
 * Linux 6.18 USER_NS_INIT_INO in linux/nsfs.h. */
#define INITIAL_USER_NAMESPACE 0xEFFFFFFDU

/* An inode by its descriptor. Calls on descriptors refuse one that is O_PATH, so calls on paths use
 * its link in /proc, which leads to the inode itself, also of a symlink. */
struct inode {
    int fd;
    bool by_path;
    char path[sizeof("/proc/self/fd/-2147483648")];
};

static int
inode_from(int fd, struct inode *inode)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -1;
    inode->fd = fd;
    inode->by_path = (flags & O_PATH) != 0;
    snprintf(inode->path, sizeof(inode->path), "/proc/self/fd/%d", fd);
    return 0;
}

static ssize_t
list_xattrs(const struct inode *inode, char *names, size_t size)
{
    return inode->by_path ? listxattr(inode->path, names, size)
                          : flistxattr(inode->fd, names, size);
}

static ssize_t
get_xattr(const struct inode *inode, const char *name, void *value, size_t size)
{
    return inode->by_path ? getxattr(inode->path, name, value, size)
                          : fgetxattr(inode->fd, name, value, size);
}

static int
set_xattr(const struct inode *inode, const char *name, const void *value, size_t size)
{
    return inode->by_path ? setxattr(inode->path, name, value, size, 0)
                          : fsetxattr(inode->fd, name, value, size, 0);
}

static int
change_mode(const struct inode *inode, mode_t mode)
{
    return inode->by_path ? chmod(inode->path, mode) : fchmod(inode->fd, mode);
}

static bool
begins_with(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static bool
is_acl(const char *name)
{
    return strcmp(name, ACL_ACCESS) == 0 || strcmp(name, ACL_DEFAULT) == 0;
}

static bool
begins_with_any(const char *name, const struct copyup_prefix *prefixes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strncmp(name, prefixes[i].bytes, prefixes[i].length) == 0)
            return true;
    return false;
}

static bool
is_skipped(const struct copyup *copy, const char *name)
{
    return begins_with_any(name, copy->skip, copy->skip_count) &&
           !begins_with_any(name, copy->keep, copy->keep_count);
}

/* Whether the process has CAP_SYS_ADMIN over the initial user namespace, which writing trusted.*
 * needs, and security.* as a rule. */
static bool
is_privileged(void)
{
    struct stat ours;
    if (stat("/proc/self/ns/user", &ours) == 0 && ours.st_ino != INITIAL_USER_NAMESPACE)
        return false;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
    return syscall(SYS_capget, &header, sets) == 0 &&
           (sets[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN)) != 0;
}

/* Whether the copy may lack an xattr that could not be read or written, for this errno. As in
 * ovl_copy_xattr of the kernel's overlayfs, it may where the file system does not support the
 * xattr, unless the xattr restricts access. A user namespace may also lack what it can never write:
 * ACLs with ids outside of it, and file capabilities of another user namespace, which it cannot
 * even read (EOVERFLOW; see cap_inode_getsecurity in the kernel). */
static bool
may_be_dropped(const char *name, int error)
{
    bool is_security = begins_with(name, "security.");
    switch (error) {
    case EOPNOTSUPP:
        return !is_security && !is_acl(name);
    case EOVERFLOW:
    case EPERM:
        return (is_security || begins_with(name, "trusted.")) && !is_privileged();
    case EINVAL:
        return is_acl(name) && !is_privileged();
    default:
        return false;
    }
}

/* The mode of a file that loses its access ACL, so that no user gains access. With an ACL, the
 * mode's group bits are the mask, not the rights of the owning group; without it, a user or group
 * named in the ACL has the rights of the group or of others. Layout: linux/posix_acl_xattr.h. */
static mode_t
mode_without_acl(mode_t mode, const char *acl, size_t size)
{
    mode_t mask = (mode >> 3) & 7, group = mask, other = mode & 7;
    struct posix_acl_xattr_entry entry;
    for (size_t at = sizeof(struct posix_acl_xattr_header); at + sizeof(entry) <= size;
         at += sizeof(entry)) {
        memcpy(&entry, acl + at, sizeof(entry));
        mode_t granted = le16toh(entry.e_perm);
        switch (le16toh(entry.e_tag)) {
        case ACL_USER:
            group &= granted;
            other &= granted & mask;
            break;
        case ACL_GROUP_OBJ:
            group &= granted;
            break;
        case ACL_GROUP:
            other &= granted & mask;
            break;
        }
    }
    return (mode & ~(mode_t)077) | group << 3 | other;
}

/* Copy one xattr through the buffer `value`. `*mode` loses bits if the copy lacks the access ACL.
 */
static int
copy_xattr(struct copyup *copy, const struct inode *src, const struct inode *dst, const char *name,
           char *value, mode_t *mode)
{
    ssize_t size;
    COPYUP_CALL(copy, size, get_xattr(src, name, value, XATTR_SIZE_MAX));
    if (size < 0) {
        /* Removed after it was listed, or listed to a user that may not read it. */
        return errno == ENODATA || may_be_dropped(name, errno) ? 0 : -1;
    }
    int result;
    COPYUP_CALL(copy, result, set_xattr(dst, name, value, (size_t)size));
    if (result < 0) {
        if (!may_be_dropped(name, errno))
            return -1;
        if (strcmp(name, ACL_ACCESS) == 0)
            *mode = mode_without_acl(*mode, value, (size_t)size);
    }
    return 0;
}

static int
copy_xattrs(struct copyup *copy, const struct inode *src, const struct inode *dst, mode_t *mode)
{
    /* The kernel's limits for a list and for a value. */
    struct {
        char names[XATTR_LIST_MAX];
        char value[XATTR_SIZE_MAX];
    } *room = malloc(sizeof(*room));
    if (room == NULL)
        return -1;
    int result = 0;
    ssize_t length;
    COPYUP_CALL(copy, length, list_xattrs(src, room->names, sizeof(room->names)));
    if (length < 0) {
        result = errno == EOPNOTSUPP ? 0 : -1;
        length = 0;
    }
    for (const char *name = room->names; result == 0 && name < room->names + length;
         name += strlen(name) + 1) {
        if (!is_skipped(copy, name))
            result = copy_xattr(copy, src, dst, name, room->value, mode);
    }
    free(room);
    return result;
}

int
copyup_metadata(struct copyup *copy)
{
    struct inode src, dst;
    if (inode_from(copy->src, &src) < 0 || inode_from(copy->dst, &dst) < 0)
        return -1;
    uid_t uid = copy->uid == (uid_t)-1 ? copy->source.st_uid : copy->uid;
    gid_t gid = copy->gid == (gid_t)-1 ? copy->source.st_gid : copy->gid;
    int result;
    COPYUP_CALL(copy, result, fchownat(copy->dst, "", uid, gid, AT_EMPTY_PATH));
    if (result < 0)
        return -1;
    mode_t mode = copy->source.st_mode & 07777;
    if (copy_xattrs(copy, &src, &dst, &mode) < 0)
        return -1;
    if (!S_ISLNK(copy->source.st_mode)) { /* a symlink has no mode */
        COPYUP_CALL(copy, result, change_mode(&dst, mode));
        if (result < 0)
            return -1;
    }
    struct timespec times[] = {copy->source.st_atim, copy->source.st_mtim};
    COPYUP_CALL(copy, result, utimensat(copy->dst, "", times, AT_EMPTY_PATH));
    return result;
}
