/* The program that forwards published ports of one view.
 *
 *     forwarder LIFELINE LISTENER:PORT...
 *
 * LIFELINE and LISTENER are descriptors. The monitor starts it in the view's network namespace,
 * with sockets that were bound outside: a socket belongs to the namespace it was made in, so the
 * program accepts there and connects here. Once the other end of LIFELINE is closed, it accepts
 * nothing more, delivers what the view has sent, and ends.
 */
#include "ports.h"

#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    EVENTS_AT_ONCE = 64,
    DRAIN_MILLISECONDS = 2000, /* for a client to read what a view that has ended had sent it */
};

static bool view_ended;

static void
lifeline_ready(struct source *source, uint32_t events)
{
    (void)source;
    (void)events;
    view_ended = true;
}

static int
fail(const char *what)
{
    fprintf(stderr, "forwarder: %s: %s\n", what, strerror(errno));
    return EXIT_FAILURE;
}

/* Read a number of at most `most`, up to `end`. Returns -1 if there is none. */
static long
number(const char *text, char end, long most, const char **rest)
{
    char *stop;
    errno = 0;
    long value = strtol(text, &stop, 10);
    if (errno || stop == text || *stop != end || value < 0 || value > most) {
        errno = EINVAL;
        return -1;
    }
    if (rest)
        *rest = stop + 1;
    return value;
}

static int
drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return (int)syscall(SYS_capset, &header, none);
}

static void
allow_many_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max; /* two per connection */
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int
forward(int epoll, struct ports *ports)
{
    int64_t deadline = -1;
    while (deadline < 0 || ports_busy(ports)) {
        struct epoll_event events[EVENTS_AT_ONCE];
        int wait = ports_timeout(ports);
        if (deadline >= 0) {
            int64_t left = deadline - now_milliseconds();
            if (left <= 0)
                return EXIT_SUCCESS;
            wait = (int)left;
        }
        int count = epoll_wait(epoll, events, EVENTS_AT_ONCE, wait);
        if (count < 0 && errno != EINTR)
            return fail("epoll_wait");
        for (int at = 0; at < count; at++) {
            struct source *source = events[at].data.ptr;
            source->ready(source, events[at].events);
        }
        ports_expire(ports);
        if (view_ended && deadline < 0) {
            deadline = now_milliseconds() + DRAIN_MILLISECONDS;
            ports_drain(ports);
        }
        ports_collect(ports);
    }
    return EXIT_SUCCESS;
}

int
main(int count, char **arguments)
{
    struct source lifeline = {lifeline_ready};
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = &lifeline};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct ports *ports = epoll < 0 ? NULL : ports_new(epoll);
    if (!ports)
        return fail("epoll");
    if (count < 3) {
        fprintf(stderr, "usage: forwarder LIFELINE LISTENER:PORT...\n");
        return EXIT_FAILURE;
    }
    if (drop_capabilities() < 0)
        return fail("capset");
    allow_many_descriptors();
    long descriptor = number(arguments[1], '\0', INT_MAX, NULL);
    if (descriptor < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, (int)descriptor, &event) < 0)
        return fail(arguments[1]);
    for (int at = 2; at < count; at++) {
        const char *rest = NULL;
        long listener = number(arguments[at], ':', INT_MAX, &rest);
        long port = listener < 0 ? -1 : number(rest, '\0', UINT16_MAX, NULL);
        if (port < 0 || ports_add(ports, (int)listener, (uint16_t)port) < 0)
            return fail(arguments[at]);
    }
    return forward(epoll, ports);
}
