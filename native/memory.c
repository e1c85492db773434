/* Files in memory, as detached mounts.
 *
 * Before Linux 6.15 open_tree(2) clones no detached mount, so the file system of a new file is
 * attached, at a place of the view that is covered for a moment, while the file is cloned. */
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ATTACHED_AT "/run"

enum { DETACH = 2 /* MNT_DETACH */, BUFFER_BYTES = 65536 };

static const char path[] = ATTACHED_AT "/file";

int
memory_file(void)
{
    static const char options[] = "mode\0"
                                  "0755";
    int memory = mount_fresh("tmpfs", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
                             &(struct argument){.bytes = options, .length = sizeof options});
    if (memory < 0 || mount_attach(memory, ATTACHED_AT) < 0)
        return -1;
    return open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
}

int
memory_mount(uint64_t attributes)
{
    const struct mount_attr set = {.attr_set = attributes};
    int mount = mount_clone(path, attributes ? &set : NULL);
    if (mount >= 0 && syscall(SYS_umount2, ATTACHED_AT, DETACH) < 0) {
        close_keeping_errno(mount);
        return -1;
    }
    return mount;
}

/* Write all that is read from a descriptor. Returns -1 with errno set. */
static int
copy(int from, int to)
{
    static char buffer[BUFFER_BYTES];
    ssize_t count;
    while ((count = read(from, buffer, sizeof buffer)) != 0) {
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -1;
        for (ssize_t done = 0, written; done < count; done += written)
            if ((written = write(to, buffer + done, (size_t)(count - done))) < 0)
                return -1;
    }
    return 0;
}

int
data_mount(const struct plan *plan, const struct argument *arguments)
{
    const char *subject = arguments[4].bytes;
    int file = memory_file();
    if (file < 0 || copy(slot_descriptor(plan, &arguments[1]), file) < 0 ||
        fchown(file, (uid_t)arguments[2].number, (gid_t)-1) < 0 ||
        fchmod(file, (mode_t)arguments[5].number) < 0)
        return fail("DATA", subject);
    /* Before the clone: a file that is open for writing cannot become read-only. */
    close(file);
    int mount = memory_mount(arguments[3].number);
    return mount < 0 ? fail("DATA", subject) : mount;
}

int
write_whole(int file, const char *text, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t count = pwrite(file, text + done, size - done, (off_t)done);
        if (count < 0)
            return -1;
        done += (size_t)count;
    }
    return 0;
}
