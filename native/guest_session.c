/* The command of a view in a guest: its streams, its terminal, its signals and its end.
 *
 * Each stream is a virtio port, whose other end the host has (machine/session.py). Standard output
 * of this program is the port of the control: lines in both directions. From the host:
 *
 *     signal N, group N    for the command, or for its process group
 *     size ROWS COLUMNS    of the terminal
 *     end COUNT            standard input has COUNT bytes
 *     quit                 the host has all output: power off
 *     exec N               run another command, whose ports are those from the number N on
 *
 * To the host:
 *
 *     hello                           of another command: the bytes of its plan may come, after a
 *                                     line with their number
 *     ready                           the guest takes lines
 *     exited STATUS OUT ERR           the end, with the bytes of both outputs
 *     killed SIGNAL OUT ERR
 *     full                            before it: the guest's disk has no space left
 *     failed ERRNO STEP SUBJECT       see guest_init.c
 */
#include "supervisor.h"

#include <inttypes.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/statvfs.h>

/* The arguments of STEP_GUEST_SESSION. */
enum { MASTER, SLAVE, KEEPS, OUT, ERR, IN, OWNER };

enum {
    CONTROL = STDOUT_FILENO,
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
static bool has_terminal, quit, is_another;
static struct {
    char bytes[256];
    size_t size;
} lines; /* of the control, not yet obeyed */

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

static void start_another(int first);

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
    else if (sscanf(line, "exec %d", &number) == 1 && !is_another)
        start_another(number);
}

/* Returns -1 once the host has closed its end. */
static int read_control(void)
{
    ssize_t count = read(CONTROL, lines.bytes + lines.size, sizeof lines.bytes - lines.size);
    if (count <= 0)
        return count < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    lines.size += (size_t)count;
    char *line = lines.bytes, *end;
    while ((end = memchr(line, '\n', lines.size))) {
        *end = '\0';
        obey(line);
        lines.size -= (size_t)(end + 1 - line);
        line = end + 1;
    }
    memmove(lines.bytes, line, lines.size);
    return lines.size < sizeof lines.bytes ? 0 : -1;
}

/* ---- the command ---------------------------------------------------------------------------- */

/* Make the pipes of a command without a terminal: its ends in `theirs`. */
static int open_pipes(uid_t owner, int theirs[3])
{
    int *const ours[] = {&input.to, &output.from, &errors.from};
    for (int at = 0; at < 3; at++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) < 0)
            return -1;
        theirs[at] = ends[at != 0];
        *ours[at] = ends[at == 0];
        /* The owner: for /dev/stdout. */
        if (fchown(theirs[at], owner, (gid_t)-1) < 0 || fcntl(*ours[at], F_SETFL, O_NONBLOCK) < 0)
            return -1;
    }
    return 0;
}

/* Fork the command, and wait until it is executed. A terminal becomes its own by its section. */
static int start(struct plan *plan, const struct argument *arguments)
{
    int theirs[3] = {slot_descriptor(plan, &arguments[SLAVE]), -1, -1}, report[2];
    output.from = input.to = slot_descriptor(plan, &arguments[MASTER]);
    has_terminal = errors.ended = input.to >= 0;
    if ((!has_terminal && open_pipes((uid_t)arguments[OWNER].number, theirs) < 0) ||
        pipe2(report, O_CLOEXEC) < 0 || (command = fork()) < 0)
        return fail("session", "command");
    if (command == 0) {
        for (int at = 0; at < 3 && !has_terminal; at++)
            (void)dup2(theirs[at], at);
        (void)command_execute(plan, -1);
        failure_write(report[1]);
        _exit(EXIT_FAILURE);
    }
    for (int at = 0; at < 3; at++)
        close(theirs[at]);
    close(report[1]);
    while (failure_read(report[0]))
        continue;
    close(report[0]);
    return has_failed() ? -1 : 0;
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

void guest_say_failure(void)
{
    const char *fields[3];
    if (failure_fields(fields))
        (void)printf("failed %s %s %.*s\n", fields[1], fields[0], (int)strcspn(fields[2], "\n"),
                     fields[2]);
}

int guest_session(struct plan *plan, const struct argument *arguments)
{
    const uint64_t child = MASK(SIGCHLD);
    struct statvfs disk;
    int status = 0;
    output.limit = errors.limit = input.limit = UINT64_MAX;
    ignore_signals(MASK(SIGPIPE));
    block_signals(SIG_BLOCK, child);
    int ended = (int)syscall(SYS_signalfd4, -1, &child, sizeof child, SFD_CLOEXEC | SFD_NONBLOCK);
    output.to = slot_descriptor(plan, &arguments[OUT]);
    errors.to = slot_descriptor(plan, &arguments[ERR]);
    input.from = slot_descriptor(plan, &arguments[IN]);
    if (ended < 0)
        return fail("session", "signals");
    if (start(plan, arguments) < 0)
        return -1;
    if (puts("ready") < 0 || fflush(stdout) < 0 || fcntl(CONTROL, F_SETFL, O_NONBLOCK) < 0)
        return fail("session", "control");
    if (relay(ended, &status) < 0) {
        if (is_another)
            (void)kill(-command, SIGKILL);
        return 0;
    }
    if (!is_another) {
        (void)kill(-1, SIGKILL);
        while (wait(NULL) > 0 || errno == EINTR)
            ;
    }
    drain(&output);
    drain(&errors);
    if (arguments[KEEPS].number)
        sync();
    (void)fcntl(CONTROL, F_SETFL, 0);
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

/* ---- other commands ------------------------------------------------------------------------- */

/* Read the plan from the control into a file. Returns its descriptor, or -1. */
static int read_plan(void)
{
    char number[16] = "", bytes[4096];
    for (size_t at = 0; at < sizeof number - 1 && read(CONTROL, number + at, 1) == 1; at++)
        if (number[at] == '\n')
            break;
    int file = memfd_create("plan", MFD_CLOEXEC);
    for (size_t left = strtoul(number, NULL, 10); left;) {
        ssize_t count = read(CONTROL, bytes, left < sizeof bytes ? left : sizeof bytes);
        if (count <= 0 || write(file, bytes, (size_t)count) != count)
            return -1;
        left -= (size_t)count;
    }
    return file;
}

/* The ports: standard output, standard error, control, standard input. */
static _Noreturn void run_another(int first)
{
    char control[32], last[32];
    is_another = true;
    lines.size = 0;
    input = output = errors = (struct stream){0};
    (void)snprintf(control, sizeof control, "/dev/vport0p%d", first + 2);
    (void)snprintf(last, sizeof last, "/dev/vport0p%d", first + 3);
    if (syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0) < 0)
        _exit(EXIT_FAILURE);
    int nodes = inotify_init1(IN_CLOEXEC);
    if (inotify_add_watch(nodes, "/dev", IN_CREATE) < 0 || guest_await_node(nodes, last) < 0)
        _exit(EXIT_FAILURE);
    close(nodes);
    int opened = open(control, O_RDWR | O_CLOEXEC | O_NOCTTY);
    /* The write blocks until the host has connected. */
    if (opened < 0 || dup2(opened, CONTROL) < 0 || puts("hello") < 0 || fflush(stdout) < 0)
        _exit(EXIT_FAILURE);
    close(opened);
    if (guest_carry_out(read_plan()) < 0) {
        guest_say_failure();
        (void)fflush(stdout);
        (void)fcntl(CONTROL, F_SETFL, 0);
        while (!quit && read_control() == 0)
            ;
    }
    _exit(EXIT_SUCCESS);
}

static void start_another(int first)
{
    if (fork() == 0)
        run_another(first);
}
