/* What a process of a view sets for itself: descriptors, signals, capabilities. */
#include "supervisor.h"

#include <linux/capability.h>

enum {
    EVENTS_AT_ONCE = 64,
};

static int epoll = -1;

int events_open(void) { return epoll = epoll_create1(EPOLL_CLOEXEC); }

int watch(int descriptor, struct source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) == 0)
        return 0;
    return errno == EEXIST ? epoll_ctl(epoll, EPOLL_CTL_MOD, descriptor, &event) : -1;
}

int unwatch(int descriptor) { return epoll_ctl(epoll, EPOLL_CTL_DEL, descriptor, NULL); }

int events_handle(int timeout)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = epoll_wait(epoll, events, EVENTS_AT_ONCE, timeout);
    for (int at = 0; at < count; at++) {
        struct source *source = events[at].data.ptr;
        if (source->ready)
            source->ready(source, events[at].events);
        if (source->flag)
            *source->flag = true;
        if (source->act)
            source->act();
    }
    return count < 0 && errno != EINTR ? -1 : 0;
}

static int in_order(const void *one, const void *other)
{
    return *(const int *)one - *(const int *)other;
}

void close_all_but(int *kept, size_t count)
{
    unsigned first = 0;
    qsort(kept, count, sizeof *kept, in_order);
    for (size_t at = 0; at < count; at++) {
        if (kept[at] < 0)
            continue;
        unsigned descriptor = (unsigned)kept[at];
        if (first < descriptor)
            (void)syscall(SYS_close_range, first, descriptor - 1, 0);
        first = descriptor + 1;
    }
    (void)syscall(SYS_close_range, first, ~0U, 0);
}

void close_keeping_errno(int descriptor)
{
    int error = errno;
    close(descriptor);
    errno = error;
}

bool is_readable(int descriptor)
{
    struct pollfd watched = {.fd = descriptor, .events = POLLIN};
    int count;
    do
        count = poll(&watched, 1, 0);
    while (count < 0 && errno == EINTR);
    return count > 0;
}

sigset_t forwarded_signals(void)
{
    static const int numbers[] = FORWARDED_SIGNALS;
    sigset_t set;
    sigemptyset(&set);
    for (size_t at = 0; at < sizeof numbers / sizeof *numbers; at++)
        sigaddset(&set, numbers[at]);
    return set;
}

void block_signals(uint64_t mask, const sigset_t *more)
{
    sigset_t set;
    sigemptyset(&set);
    for (int number = 1; number <= LAST_SIGNAL; number++)
        if (mask >> (number - 1) & 1 || (more && sigismember(more, number) == 1))
            (void)sigaddset(&set, number);
    (void)sigprocmask(SIG_SETMASK, &set, NULL);
}

void ignore_signals(uint64_t mask)
{
    for (int number = 1; number <= LAST_SIGNAL; number++) {
        struct sigaction found, wanted = {.sa_handler = SIG_DFL};
        if (mask >> (number - 1) & 1)
            wanted.sa_handler = SIG_IGN;
        /* To set an action again may discard a pending signal (POSIX, Signal Actions). */
        if (sigaction(number, NULL, &found) == 0 && found.sa_handler != wanted.sa_handler)
            (void)sigaction(number, &wanted, NULL);
    }
}

int set_capabilities(uint64_t kept)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2];
    if (syscall(SYS_capget, &header, sets) < 0)
        return -1;
    for (int half = 0; half < 2; half++) {
        sets[half].permitted &= (uint32_t)(kept >> 32 * half);
        sets[half].effective = sets[half].permitted;
        sets[half].inheritable = 0;
    }
    return (int)syscall(SYS_capset, &header, sets);
}

int bound_capabilities(uint64_t kept)
{
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return fail("CAPABILITIES", "");
    /* EINVAL: past the last capability of this kernel. */
    for (unsigned long capability = 0; capability < 64; capability++)
        if (!(kept >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
            return errno == EINVAL ? 0 : fail("CAPABILITIES", "");
    return 0;
}

int restrict_capabilities(uint64_t kept)
{
    if (bound_capabilities(kept) < 0)
        return -1;
    return set_capabilities(kept) < 0 ? fail("CAPABILITIES", "") : 0;
}

int pidfd_of(pid_t process) { return (int)syscall(SYS_pidfd_open, process, 0); }

int status_of(int ended) { return WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended); }
