/* The command of a view in a guest: its user, its streams, its terminal, its signals and its end.
 *
 * The words of the step (machine/view_guest.py makes them):
 *
 *     "command", for a failure; "terminal" or "pipes"; "kept" or "dropped": the disk
 *     the ports of the streams: standard output, standard error, standard input
 *     user, group, supplementary groups with a comma after each, umask (octal)
 *     working directory; "required", or "optional": / in its place
 *     the number of arguments; the arguments; the environment
 *
 * Each stream is a virtio port, whose other end the host has (machine/session.py). Standard output
 * of this program is the port of the control: lines in both directions. From the host:
 *
 *     signal N, group N    for the command, or for its process group
 *     size ROWS COLUMNS    of the terminal
 *     end COUNT            standard input has COUNT bytes
 *     quit                 the host has all output: power off
 *
 * To the host:
 *
 *     ready                           the guest takes lines
 *     exited STATUS OUT ERR           the end, with the bytes of both outputs
 *     killed SIGNAL OUT ERR
 *     full                            before it: the guest's disk has no space left
 *     failed ERRNO session WORD       see guest_init.c; WORD is "directory" for the working one
 */
#include "guest_session.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum {
    CONTROL = STDOUT_FILENO,
    MOST_GROUPS = 1024,
    SPARE_BYTES = 1 << 16, /* with less, the disk counts as full */
    END_OF_FILE = 4,       /* the key of a terminal (^D) */
};

/* Bytes on their way from one descriptor to another. */
struct stream {
    int from, to;
    size_t at, end;
    uint64_t count, limit; /* read so far, and at most */
    bool ended;
    char bytes[1 << 15];
};

static struct stream input, output, errors;
static pid_t command;
static bool has_terminal, quit;

struct words {
    char *what, *terminal, *disk, *out, *err, *in, *user, *group, *groups, *umask, *directory,
        *required, *count;
};

/* ---- streams -------------------------------------------------------------------------------- */

static bool is_full(const struct stream *one) { return one->at < one->end; }

/* Read if there is room, and write what there is; never blocks. Returns whether it went on. */
static bool pass_on(struct stream *one)
{
    bool went_on = false;
    if (!is_full(one) && !one->ended) {
        uint64_t left = one->limit - one->count;
        size_t most = left < sizeof one->bytes ? (size_t)left : sizeof one->bytes;
        ssize_t count = most ? read(one->from, one->bytes, most) : 0;
        if (count > 0) {
            one->at = 0;
            one->end = (size_t)count;
            one->count += (uint64_t)count;
            one->ended = one->count >= one->limit; /* "end" came before the last bytes */
            went_on = true;
        } else if (count == 0 || (errno != EAGAIN && errno != EINTR))
            one->ended = true; /* EIO: no process has the terminal */
    }
    if (is_full(one)) {
        ssize_t count = write(one->to, one->bytes + one->at, one->end - one->at);
        if (count > 0) {
            one->at += (size_t)count;
            went_on = true;
        } else if (count < 0 && errno != EAGAIN && errno != EINTR) {
            one->at = one->end = 0; /* nobody reads: EPIPE */
            one->ended = one == &input;
        }
    }
    return went_on;
}

static struct pollfd waited_for(const struct stream *one)
{
    if (is_full(one))
        return (struct pollfd){.fd = one->to, .events = POLLOUT};
    return (struct pollfd){.fd = one->ended ? -1 : one->from, .events = POLLIN};
}

static void end_input(void)
{
    if (!input.ended || is_full(&input) || input.to < 0)
        return;
    if (has_terminal)
        (void)!write(input.to, &(char){END_OF_FILE}, 1);
    else
        close(input.to);
    input.to = -1;
}

/* ---- the control ---------------------------------------------------------------------------- */

static void obey(const char *line)
{
    int number = 0;
    unsigned short rows = 0, columns = 0;
    if (sscanf(line, "signal %d", &number) == 1)
        (void)kill(command, number);
    else if (sscanf(line, "group %d", &number) == 1)
        (void)kill(-command, number);
    else if (sscanf(line, "size %hu %hu", &rows, &columns) == 2 && has_terminal)
        (void)ioctl(output.from, TIOCSWINSZ, &(struct winsize){.ws_row = rows, .ws_col = columns});
    else if (sscanf(line, "end %" SCNu64, &input.limit) == 1)
        input.ended |= input.count >= input.limit;
    else if (!strcmp(line, "quit"))
        quit = true;
}

/* Returns -1 once the host has closed its end. */
static int read_control(void)
{
    static char lines[256];
    static size_t size;
    ssize_t count = read(CONTROL, lines + size, sizeof lines - size);
    if (count <= 0)
        return count < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    size += (size_t)count;
    char *line = lines, *end;
    while ((end = memchr(line, '\n', size))) {
        *end = '\0';
        obey(line);
        size -= (size_t)(end + 1 - line);
        line = end + 1;
    }
    memmove(lines, line, size);
    return size < sizeof lines ? 0 : -1;
}

/* ---- the command ---------------------------------------------------------------------------- */

/* In the child: become the command. Returns with errno set: what failed. */
static const char *become(const struct words *one, char **arguments, char **variables)
{
    static gid_t groups[MOST_GROUPS];
    size_t count = 0;
    for (char *at = one->groups; *at && count < MOST_GROUPS; at++)
        groups[count++] = (gid_t)strtoul(at, &at, 10);
    gid_t group = (gid_t)strtoul(one->group, NULL, 10);
    uid_t user = (uid_t)strtoul(one->user, NULL, 10);
    (void)umask((mode_t)strtoul(one->umask, NULL, 8));
    if (setgroups(count, groups) < 0 || setgid(group) < 0 || setuid(user) < 0)
        return "command";
    if (chdir(one->directory) < 0 && (!strcmp(one->required, "required") || chdir("/") < 0))
        return "directory";
    environ = variables;
    if (!getenv("PATH")) {
        /* As for a view: the environment stays without it. */
        (void)setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    }
    (void)execvpe(arguments[0], arguments, variables);
    return "command";
}

/* The ends of the command's streams: 0, 1 and 2 in `theirs`, and what is relayed. */
static int open_streams(const struct words *one, int *theirs)
{
    if (has_terminal) {
        int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
        if (master < 0 || unlockpt(master) < 0)
            return -1;
        int terminal = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (terminal < 0 || fchown(terminal, (uid_t)strtoul(one->user, NULL, 10), (gid_t)-1) < 0)
            return -1;
        theirs[0] = theirs[1] = theirs[2] = terminal;
        output.from = input.to = master;
        errors.ended = true;
        return 0;
    }
    int in[2], out[2], err[2];
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        return -1;
    uid_t user = (uid_t)strtoul(one->user, NULL, 10);
    theirs[0] = in[0], theirs[1] = out[1], theirs[2] = err[1];
    for (int at = 0; at < 3; at++)
        if (fchown(theirs[at], user, (gid_t)-1) < 0) /* for /dev/stdout */
            return -1;
    input.to = in[1], output.from = out[0], errors.from = err[0];
    if (fcntl(in[1], F_SETFL, O_NONBLOCK) < 0 || fcntl(out[0], F_SETFL, O_NONBLOCK) < 0 ||
        fcntl(err[0], F_SETFL, O_NONBLOCK) < 0)
        return -1;
    return 0;
}

/* Fork the command. Returns 0, or -1 with errno set where it cannot be executed; see `failed`. */
static int start(const struct words *one, char **arguments, char **variables, const sigset_t *mask,
                 const char **failed)
{
    struct {
        int error;
        const char *what; /* of the text, which parent and child share */
    } failure;
    int theirs[3], report[2];
    if (open_streams(one, theirs) < 0 || pipe2(report, O_CLOEXEC) < 0)
        return -1;
    command = fork();
    if (command < 0)
        return -1;
    if (command == 0) {
        (void)setsid();
        if (has_terminal)
            (void)ioctl(theirs[0], TIOCSCTTY, 0);
        (void)signal(SIGPIPE, SIG_DFL);
        (void)sigprocmask(SIG_SETMASK, mask, NULL);
        for (int at = 0; at < 3; at++)
            if (dup2(theirs[at], at) < 0)
                _exit(EXIT_FAILURE);
        failure.what = become(one, arguments, variables);
        failure.error = errno;
        (void)!write(report[1], &failure, sizeof failure);
        _exit(EXIT_FAILURE);
    }
    for (int at = 0; at < (has_terminal ? 1 : 3); at++)
        close(theirs[at]);
    close(report[1]);
    if (read(report[0], &failure, sizeof failure) == sizeof failure) {
        *failed = failure.what;
        errno = failure.error;
        return -1;
    }
    close(report[0]);
    return 0;
}

/* ---- the step ------------------------------------------------------------------------------- */

/* Relay until the command has ended. Returns 0, or -1 if the host has gone. */
static int relay(int ended, int *status)
{
    for (;;) {
        struct pollfd on[] = {{.fd = CONTROL, .events = POLLIN},
                              {.fd = ended, .events = POLLIN},
                              waited_for(&input),
                              waited_for(&output),
                              waited_for(&errors)};
        if (poll(on, sizeof on / sizeof *on, -1) < 0 && errno != EINTR)
            return -1;
        struct signalfd_siginfo info;
        if (read(ended, &info, sizeof info) > 0) {
            pid_t one;
            int of_one;
            while ((one = waitpid(-1, &of_one, WNOHANG)) > 0)
                if (one == command) {
                    *status = of_one;
                    return 0;
                }
        }
        if (on[0].revents && read_control() < 0)
            return -1;
        (void)pass_on(&input);
        end_input();
        (void)pass_on(&output);
        (void)pass_on(&errors);
    }
}

/* Pass on what is in a pipe, after each process has ended. */
static void drain(struct stream *one)
{
    while (pass_on(one) || is_full(one))
        if (is_full(one)) {
            struct pollfd on[] = {{.fd = one->to, .events = POLLOUT},
                                  {.fd = CONTROL, .events = POLLIN}};
            (void)poll(on, 2, -1);
            if (on[1].revents && read_control() < 0)
                return;
        }
}

static int open_port(const char *path, int flags)
{
    return open(path, flags | O_CLOEXEC | O_NOCTTY);
}

int session(char **given)
{
    struct words one;
    memcpy(&one, given, sizeof one);
    for (size_t at = 0; at < sizeof one / sizeof(char *); at++)
        if (!given[at])
            return errno = EINVAL, -1;
    char **rest = given + sizeof one / sizeof(char *);
    long count = strtol(one.count, NULL, 10);
    for (long at = 0; at < count; at++)
        if (!rest[at])
            return errno = EINVAL, -1;
    /* The arguments move down by one, and a NULL ends them. */
    char **arguments = given + sizeof one / sizeof(char *) - 1, **variables = rest + count;
    memmove(arguments, rest, (size_t)count * sizeof *rest);
    arguments[count] = NULL;

    has_terminal = !strcmp(one.terminal, "terminal");
    output.limit = errors.limit = input.limit = UINT64_MAX;
    sigset_t child, before;
    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigprocmask(SIG_BLOCK, &child, &before);
    int ended = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    output.to = open_port(one.out, O_WRONLY | O_NONBLOCK);
    errors.to = open_port(one.err, O_WRONLY | O_NONBLOCK);
    input.from = open_port(one.in, O_RDWR);
    /* A write blocks until the port is connected, which the host does in the order of the ports;
     * without it a read would find the end of file. */
    if (ended < 0 || output.to < 0 || errors.to < 0 || input.from < 0 ||
        write(input.from, "\n", 1) < 0 || fcntl(input.from, F_SETFL, O_NONBLOCK) < 0)
        return -1;
    const char *failed = given[0];
    if (start(&one, arguments, variables, &before, &failed) < 0) {
        given[0] = (char *)(uintptr_t)failed;
        return -1;
    }
    if (puts("ready") < 0 || fflush(stdout) < 0 || fcntl(CONTROL, F_SETFL, O_NONBLOCK) < 0)
        return -1;
    int status = 0;
    if (relay(ended, &status) < 0)
        return 0;
    (void)kill(-1, SIGKILL);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    drain(&output);
    drain(&errors);
    if (!strcmp(one.disk, "kept"))
        sync();
    (void)fcntl(CONTROL, F_SETFL, 0);
    struct statvfs disk;
    if (statvfs("/", &disk) == 0 && disk.f_bavail * disk.f_frsize < SPARE_BYTES)
        (void)puts("full");
    (void)printf("%s %d %" PRIu64 " %" PRIu64 "\n", WIFEXITED(status) ? "exited" : "killed",
                 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), output.count,
                 errors.count);
    (void)fflush(stdout);
    while (!quit && read_control() == 0)
        ;
    return 0;
}
