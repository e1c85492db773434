/* The namespaces of a view that its monitor is not in, as descriptors that the monitor holds.
 *
 * A command that joins a running view (namespace/join.py) finds them below /proc/PID/fd of the
 * monitor. It cannot look them up at init, which is not dumpable (ptrace(2)), nor at the command,
 * which may have entered others. */
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const files[OFFERED_NAMESPACES] = {
    "/proc/self/ns/mnt",
    "/proc/self/ns/uts",
    "/proc/self/ns/ipc",
    "/proc/self/ns/cgroup",
};

/* Room for the descriptors in a control message (cmsg(3)). */
union control {
    char bytes[CMSG_SPACE(sizeof(int) * OFFERED_NAMESPACES)];
    struct cmsghdr aligned;
};

static int
open_all(int *descriptors)
{
    for (size_t at = 0; at < OFFERED_NAMESPACES; at++)
        if ((descriptors[at] = open(files[at], O_RDONLY | O_CLOEXEC)) < 0)
            return fail(NAMESPACES, files[at]);
    return 0;
}

int
namespaces_offer(int channel)
{
    int descriptors[OFFERED_NAMESPACES] = {-1, -1, -1, -1};
    char byte = '\n';
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    union control control;
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    int result = open_all(descriptors);
    if (result == 0) {
        memset(&control, 0, sizeof control);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof descriptors);
        memcpy(CMSG_DATA(header), descriptors, sizeof descriptors);
        if (sendmsg(channel, &message, MSG_NOSIGNAL) < 0)
            result = fail(NAMESPACES, "");
    }
    for (size_t at = 0; at < OFFERED_NAMESPACES; at++)
        if (descriptors[at] >= 0)
            close(descriptors[at]);
    return result;
}

void
namespaces_take(int channel, int *descriptors)
{
    char byte;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    union control control;
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    for (size_t at = 0; at < OFFERED_NAMESPACES; at++)
        descriptors[at] = -1;
    if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
        return;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int) * OFFERED_NAMESPACES))
        memcpy(descriptors, CMSG_DATA(header), sizeof(int) * OFFERED_NAMESPACES);
}
