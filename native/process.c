/* What a process of a view sets for itself: descriptors, signals, capabilities. */
#include "supervisor.h"

#include <linux/capability.h>
#include <time.h>

enum {
    EVENTS_AT_ONCE = 64,
};

static int epoll = -1;
static struct {
    int64_t at;
    void (*act)(void); /* NULL: it is not set */
} timers[TIMERS];

int events_open(void) { return epoll = epoll_create1(EPOLL_CLOEXEC); }

int watch(int descriptor, struct source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) == 0)
        return 0;
    return errno == EEXIST ? epoll_ctl(epoll, EPOLL_CTL_MOD, descriptor, &event) : -1;
}

int unwatch(int descriptor) { return epoll_ctl(epoll, EPOLL_CTL_DEL, descriptor, NULL); }

int64_t now_milliseconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

void timer_set(enum timer timer, int64_t milliseconds, void (*act)(void))
{
    timers[timer].at = now_milliseconds() + milliseconds;
    timers[timer].act = act;
}

bool timer_is_set(enum timer timer) { return timers[timer].act; }

int events_handle(void)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int64_t now = now_milliseconds(), left = -1;
    for (int one = 0; one < TIMERS; one++)
        if (timers[one].act && (left < 0 || timers[one].at - now < left))
            left = timers[one].at > now ? timers[one].at - now : 0;
    int count = epoll_wait(epoll, events, EVENTS_AT_ONCE, (int)left);
    int failed = count < 0 && errno != EINTR ? -1 : 0;
    for (int at = 0; at < count; at++) {
        struct source *source = events[at].data.ptr;
        if (source->ready)
            source->ready(source, events[at].events);
        if (source->flag)
            *source->flag = true;
        if (source->act)
            source->act();
    }
    for (int one = 0; one < TIMERS; one++)
        if (timers[one].act && timers[one].at <= now_milliseconds()) {
            void (*act)(void) = timers[one].act;
            timers[one].act = NULL;
            act();
        }
    return failed;
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

int await_input(int descriptor, int milliseconds)
{
    struct pollfd watched = {.fd = descriptor, .events = POLLIN};
    int count;
    do
        count = poll(&watched, 1, milliseconds);
    while (count < 0 && errno == EINTR);
    return count > 0 ? watched.revents : 0;
}

bool is_readable(int descriptor) { return await_input(descriptor, 0); }

uint64_t block_signals(int how, uint64_t mask)
{
    uint64_t before = 0;
    (void)syscall(SYS_rt_sigprocmask, how, &mask, &before, sizeof mask);
    return before;
}

void ignore_signals(uint64_t mask)
{
    static uint64_t unknown = ~0ULL,
                    ignored; /* as the last call, or this process's parent, left it */
    const uint64_t changed = unknown | (ignored ^ mask);
    unknown = 0;
    ignored = mask;
    for (int number = 1; number <= LAST_SIGNAL; number++) {
        if (!(changed & MASK(number)))
            continue;
        /* The kernel's struct sigaction, for sigaction(2) leaves out signals of glibc's own, which
         * its posix_spawn(3) ignores. */
        uintptr_t found[4], wanted[4] = {(uintptr_t)(mask & MASK(number) ? SIG_IGN : SIG_DFL)};
        /* To set an action again may discard a pending signal (POSIX, Signal Actions). */
        if (syscall(SYS_rt_sigaction, number, NULL, found, sizeof mask) == 0 &&
            found[0] != wanted[0])
            (void)syscall(SYS_rt_sigaction, number, wanted, NULL, sizeof mask);
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
