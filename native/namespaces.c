/* The namespaces of a view that its monitor is not in, as descriptors that the monitor holds.
 *
 * A command that joins a running view (namespace/join.py) finds them below /proc/PID/fd of the
 * monitor. It cannot look them up at init, which is not dumpable (ptrace(2)), nor at the command,
 * which may have entered others. */
#include "supervisor.h"

#include <fcntl.h>
#include <unistd.h>

static const char *const files[OFFERED_NAMESPACES] = {
    "/proc/self/ns/mnt",
    "/proc/self/ns/uts",
    "/proc/self/ns/ipc",
    "/proc/self/ns/cgroup",
};

static int
open_all(int *descriptors)
{
    for (size_t at = 0; at < OFFERED_NAMESPACES; at++)
        if ((descriptors[at] = open(files[at], O_RDONLY | O_CLOEXEC)) < 0)
            return fail("NAMESPACES", files[at]);
    return 0;
}

int
namespaces_offer(int channel)
{
    int descriptors[OFFERED_NAMESPACES] = {-1, -1, -1, -1};
    int result = open_all(descriptors);
    if (result == 0 &&
        message_send(channel, MESSAGE_NAMESPACES, descriptors, OFFERED_NAMESPACES) < 0)
        result = fail("NAMESPACES", "");
    for (size_t at = 0; at < OFFERED_NAMESPACES; at++)
        if (descriptors[at] >= 0)
            close(descriptors[at]);
    return result;
}
