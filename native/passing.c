/* Descriptors sent to another process through a socket (SCM_RIGHTS, unix(7)). */
#include "supervisor.h"

#include <string.h>
#include <sys/socket.h>

/* Room for the descriptors in a control message (cmsg(3)). */
union control {
    char bytes[CMSG_SPACE(sizeof(int) * MOST_PASSED)];
    struct cmsghdr aligned;
};

int
descriptors_send(int channel, const int *descriptors, size_t count)
{
    size_t size = count * sizeof *descriptors;
    char byte = '\n';
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    union control control = {.bytes = {0}};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE(size)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(header), descriptors, size);
    return sendmsg(channel, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

void
descriptors_take(int channel, int *descriptors, size_t count)
{
    size_t size = count * sizeof *descriptors;
    char byte;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    union control control;
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE(size)};
    for (size_t at = 0; at < count; at++)
        descriptors[at] = -1;
    if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
        return;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(size))
        memcpy(descriptors, CMSG_DATA(header), size);
}
