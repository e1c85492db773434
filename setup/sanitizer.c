/* For the interpreters that run with the runtime of ThreadSanitizer (setup/sanitize), after it in LD_PRELOAD.
 *
 * A daemon that has left the machine's root directory can open no file for a report: one is open before, and stays open
 * where a fork closes all others; the mappings of the memory are read before.
 *
 * The runtime starts a thread of its own in each child of fork(2), and only a process of one thread
 * may enter a user namespace or join a mount namespace (unshare(2), setns(2)). The thread ends here before. The runtime
 * can end it (sanitizer/common_interface_defs.h) once a program has had a thread itself, so each gets one as it starts.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LEAST_DESCRIPTOR = 500 }; /* above those that tests count on */

static int report = -1;

/* The runtime opens the file of a parent's reports again, by its path. */
static void
set_report(void)
{
    if (report >= 0)
        __sanitizer_set_report_fd((void *)(intptr_t)report);
}

static void *
nothing(void *given)
{
    return given;
}

__attribute__((constructor)) static void
prepare(void)
{
    pthread_t thread;
    const char *path = getenv("OVERLAYKIT_TEST_REPORTS");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    report = file < 0 ? -1 : fcntl(file, F_DUPFD_CLOEXEC, LEAST_DESCRIPTOR);
    if (file >= 0)
        close(file);
    set_report();
    (void)pthread_atfork(NULL, NULL, set_report);
    if (pthread_create(&thread, NULL, nothing, NULL) == 0)
        pthread_join(thread, NULL);
    __sanitizer_sandbox_on_notify(NULL);
}

static void
end_thread_of_runtime(void)
{
    struct stat threads; /* two links, and one more for each */
    if (stat("/proc/self/task", &threads) == 0 && threads.st_nlink > 3)
        __sanitizer_sandbox_on_notify(NULL);
}

/* Close all but the file of reports. */
int
close_range(unsigned first, unsigned last, int flags)
{
    int (*next)(unsigned, unsigned, int) =
        (int (*)(unsigned, unsigned, int))dlsym(RTLD_NEXT, "close_range");
    unsigned kept = (unsigned)report;
    if (report < 0 || flags || kept < first || kept > last)
        return next(first, last, flags);
    if (first < kept && next(first, kept - 1, 0) < 0)
        return -1;
    return kept < last ? next(kept + 1, last, 0) : 0;
}

int
unshare(int flags)
{
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "unshare");
    end_thread_of_runtime();
    return next(flags);
}

int
setns(int fd, int kind)
{
    int (*next)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "setns");
    end_thread_of_runtime();
    return next(fd, kind);
}

long
syscall(long number, ...)
{
    static long (*next)(long, ...);
    va_list given;
    long words[6];
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_start(given, number);
    for (size_t at = 0; at < sizeof words / sizeof words[0]; at++)
        words[at] = va_arg(given, long);
    va_end(given);
    if (number == SYS_unshare || number == SYS_setns)
        end_thread_of_runtime();
    if (number == SYS_close_range)
        return close_range((unsigned)words[0], (unsigned)words[1], (int)words[2]);
    return next(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}
