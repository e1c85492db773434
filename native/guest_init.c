/* The init of a guest: carries out a plan made by Python (machine/plan.py) up to the root of the
 * guest, runs the program there that does the rest (machine/inside.py), and powers off.
 *
 * The plan is the file /plan of the initramfs. It holds words, each with a NUL after it. A step is
 * its name, the number of its words, and these:
 *
 *     until    a path: read(2) events of descriptor 3 until it is there
 *     run      a program and its arguments; the last step
 *     session  the command of a view (guest_session.c); the last step
 *     network  an interface, which is raised; its address and netmask, if it gets one
 *     others   what it is about, the number of a system call, an errno that is no failure, and the
 *              arguments: "n" and a number, or "s" and a string
 *
 * The console is the standard streams; the plan replaces standard output, on which the result is a
 * line of the program's, or one of these:
 *
 *     exited 0                 nothing was to be run: a trial boot
 *     failed ERRNO STEP WORD   a step failed; WORD is its first word
 */
#include "guest_session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <net/if.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PLAN "/plan"

enum {
    LONGEST_PLAN = 1 << 21,
    MOST_WORDS = 1 << 15, /* of a step */
    MOST_ARGUMENTS = 6,
    EVENTS = 3, /* the first descriptor after the standard ones */
};

static char plan[LONGEST_PLAN];
static size_t plan_size;

/* ---- steps: each returns 0, or -1 with errno set -------------------------------------------- */

static int call(char **words)
{
    long arguments[MOST_ARGUMENTS] = {0};
    if (!words[1] || !words[2])
        return -1;
    for (int at = 0; at < MOST_ARGUMENTS && words[3 + at]; at++) {
        char *value = words[3 + at] + 1;
        arguments[at] = words[3 + at][0] == 'n' ? strtol(value, NULL, 10) : (long)value;
    }
    long result = syscall(strtol(words[1], NULL, 10), arguments[0], arguments[1], arguments[2],
                          arguments[3], arguments[4], arguments[5]);
    return result < 0 && errno != strtol(words[2], NULL, 10) ? -1 : 0;
}

/* The kernel makes device nodes some time after their driver is loaded. */
static int wait_for_node(char **words)
{
    char events[4096];
    while (access(words[0], F_OK) < 0)
        if (errno != ENOENT || read(EVENTS, events, sizeof events) < 0)
            return -1;
    return 0;
}

/* Run the program, which says itself how it ends, and reap what it and its children leave. */
static int run(char **words)
{
    int status = 0;
    pid_t program = fork(), ended;
    if (program == 0) {
        (void)execv(words[0], words);
        _exit(errno);
    }
    while ((ended = wait(&status)) != program)
        if (ended < 0)
            return -1;
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
    return errno ? -1 : 0;
}

/* The address of an interface; a name alone raises it as it is (the loopback device). */
static int network(char **words)
{
    struct ifreq request = {0};
    struct sockaddr_in address = {.sin_family = AF_INET};
    int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (any < 0)
        return -1;
    (void)strncpy(request.ifr_name, words[0], sizeof request.ifr_name - 1);
    static const unsigned long requests[] = {SIOCSIFADDR, SIOCSIFNETMASK};
    int result = 0;
    for (int at = 0; !result && at < 2 && words[1] && words[1 + at]; at++) {
        (void)inet_pton(AF_INET, words[1 + at], &address.sin_addr);
        memcpy(&request.ifr_addr, &address, sizeof address);
        result = ioctl(any, requests[at], &request);
    }
    request.ifr_flags = IFF_UP;
    result = result ? result : ioctl(any, SIOCSIFFLAGS, &request);
    close(any);
    return result;
}

/* ---- the plan ------------------------------------------------------------------------------- */

static int read_plan(void)
{
    int descriptor = open(PLAN, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return -1;
    ssize_t count;
    while ((count = read(descriptor, plan + plan_size, sizeof plan - 1 - plan_size)) > 0)
        plan_size += (size_t)count;
    close(descriptor);
    return (int)count;
}

static char *next(char *word) { return word + strlen(word) + 1; }

static void carry_out_plan(void)
{
    static char *words[MOST_WORDS + MOST_ARGUMENTS];
    const char *name = "";
    for (char *word = plan, *end = plan + plan_size; word < end;) {
        name = word;
        word = next(word);
        long count = word < end ? strtol(word, NULL, 10) : 0;
        memset(words, 0, sizeof words);
        for (long at = 0; at < count && at < MOST_WORDS && (word = next(word)) < end; at++)
            words[at] = word;
        word = next(word);
        int (*step)(char **) = !strcmp(name, "until")     ? wait_for_node
                               : !strcmp(name, "run")     ? run
                               : !strcmp(name, "session") ? session
                               : !strcmp(name, "network") ? network
                                                          : call;
        errno = EINVAL;
        if (!words[0] || step(words) < 0) {
            (void)printf("failed %d %s %s\n", errno, name, words[0] ? words[0] : "");
            return;
        }
    }
    if (strcmp(name, "run") && strcmp(name, "session"))
        (void)puts("exited 0"); /* a trial boot */
}

int main(void)
{
    if (getpid() != 1)
        return EXIT_FAILURE;
    (void)umask(0);
    /* In the command's session, but not in its process group: an orphaned group ignores SIGTSTP. */
    (void)setsid();
    if (read_plan() < 0)
        (void)printf("failed %d plan " PLAN "\n", errno);
    else
        carry_out_plan();
    (void)fflush(stdout);
    (void)kill(-1, SIGKILL); /* all but this process */
    sync();
    (void)reboot(RB_AUTOBOOT); /* QEMU ends, with -no-reboot: sooner than a power-off */
    return EXIT_FAILURE;       /* the kernel panics */
}
