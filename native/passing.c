/* Messages of a byte and descriptors, to another process through a socket (SCM_RIGHTS, unix(7)). */
#include "supervisor.h"

/* Room for the descriptors in a control message (cmsg(3)). */
union control {
    char bytes[CMSG_SPACE(sizeof(int) * MOST_PASSED)];
    struct cmsghdr aligned;
};

int message_send(int channel, char kind, const int *descriptors, size_t count)
{
    size_t size = count * sizeof *descriptors;
    struct iovec data = {.iov_base = &kind, .iov_len = 1};
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

char message_take(int channel, int descriptors[MOST_PASSED])
{
    char kind = 0;
    struct iovec data = {.iov_base = &kind, .iov_len = 1};
    union control control;
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    for (size_t at = 0; at < MOST_PASSED; at++)
        descriptors[at] = -1;
    if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
        return 0;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(descriptors, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
    return kind;
}
