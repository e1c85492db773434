/* Relay between the caller's streams and the master of a view's pty.
 *
 * The caller's streams are shared with other processes, so they never become non-blocking. Standard
 * output is opened once more where that is possible, and read and written only when it is ready
 * otherwise. Each direction has a buffer of one size: a reader that is slow stops the writer.
 *
 * The slave is the view's alone. So the master reports EPOLLHUP while no process of the view has it
 * open, and is watched edge-triggered: a process may open it again, as some inits do with
 * /dev/console. */
#include "supervisor.h"

#include <sys/ioctl.h>
#include <termios.h>

enum {
    BUFFER_BYTES = 16384,
    /* Between two looks at whether the view has read its input: each is twice the one before. */
    FIRST_MILLISECONDS = 10,
    LAST_MILLISECONDS = 160,
    AGAIN_MILLISECONDS = 10000, /* once it was told of the end */
};

struct flow {
    char bytes[BUFFER_BYTES];
    size_t from, to;
};

/* A descriptor of the event loop. */
struct end {
    struct source source;
    int descriptor;
    bool is_file; /* for which epoll_ctl(2) fails with EPERM: it is always ready */
    bool ready;
};

static void pump(void);

static struct {
    int master;
    bool prepared, interactive;
    bool is_terminal; /* standard input, with -i */
    bool raw;
    struct termios before, wanted; /* wanted: raw */
    pid_t guardian;
    struct end input, output, view;
    bool input_ended, end_told; /* end of file at the caller, and told to the view */
    bool partial;               /* the last line of the input has no newline */
    bool output_gone, output_is_socket, output_blocks, draining;
    int error, pause;
    struct flow in, out;
} terminal = {
    .master = -1,
    .pause = FIRST_MILLISECONDS,
    .input = {.source = {.flag = &terminal.input.ready, .act = pump}, .descriptor = STDIN_FILENO},
    .output = {.source = {.flag = &terminal.output.ready, .act = pump},
               .descriptor = STDOUT_FILENO},
    .view = {.source = {.act = pump}, .descriptor = -1},
};

/* ---- the caller's terminal ------------------------------------------------------------------ */

/* In the background the terminal's SIGTTOU stops this process, as it stops every program that sets
 * a mode there. */
static void make_raw(void)
{
    uint64_t before = block_signals(SIG_UNBLOCK, MASK(SIGTTOU));
    if (terminal.is_terminal && terminal.master >= 0)
        terminal.raw = tcsetattr(STDIN_FILENO, TCSANOW, &terminal.wanted) == 0;
    block_signals(SIG_SETMASK, before);
}

/* Another process group may have the terminal by now, and may have set its own mode. */
static void restore_mode(void)
{
    pid_t foreground = tcgetpgrp(STDIN_FILENO);
    if (terminal.raw && (foreground < 0 || foreground == getpgrp()))
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &terminal.before);
    terminal.raw = false;
}

/* Wait until the monitor ends, then restore the mode unless another process has set one. Outside of
 * the terminal's session nothing stops this process (tty_check_change() in drivers/tty). */
static _Noreturn void guard(int monitor)
{
    struct termios found;
    int kept[] = {STDIN_FILENO, monitor};
    (void)setsid();
    (void)prctl(PR_SET_NAME, "terminal", 0, 0, 0);
    close_all_but(kept, sizeof kept / sizeof *kept);
    (void)await_input(monitor, -1);
    if (tcgetattr(STDIN_FILENO, &found) == 0 &&
        !memcmp(&found, &terminal.wanted, offsetof(struct termios, c_line)))
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &terminal.before);
    _exit(0);
}

static int start_guardian(void)
{
    int monitor = pidfd_of(getpid());
    if (monitor < 0)
        return -1;
    terminal.guardian = fork();
    if (terminal.guardian == 0)
        guard(monitor);
    close_keeping_errno(monitor);
    return terminal.guardian < 0 ? -1 : 0;
}

void terminal_resize(unsigned rows, unsigned columns)
{
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    (void)ioctl(terminal.master, TIOCSWINSZ, &size);
}

/* The size of the first standard stream that is a terminal. */
static void copy_size(void)
{
    struct winsize size;
    for (int descriptor = 0; descriptor < 3; descriptor++) {
        if (ioctl(descriptor, TIOCGWINSZ, &size) == 0) {
            (void)ioctl(terminal.master, TIOCSWINSZ, &size);
            return;
        }
    }
}

/* ---- buffers -------------------------------------------------------------------------------- */

static size_t space(const struct flow *flow) { return BUFFER_BYTES - flow->to; }

static bool is_empty(const struct flow *flow) { return flow->from == flow->to; }

static void discard(struct flow *flow) { flow->from = flow->to = 0; }

/* Count bytes that were written from the buffer. */
static void consume(struct flow *flow, size_t count)
{
    flow->from += count;
    if (is_empty(flow))
        discard(flow);
}

static void hang_up(void);

/* ---- events --------------------------------------------------------------------------------- */

/* Of the caller's streams: once, for a hang-up would be reported in any case. */
static int watch_end(struct end *end, uint32_t events)
{
    if (end->is_file || watch(end->descriptor, &end->source, events) == 0)
        return 0;
    end->is_file = end->ready = errno == EPERM;
    return end->is_file ? 0 : -1;
}

/* The view's terminal goes with its reader. */
static void lose_output(int error)
{
    terminal.output_gone = true;
    if (error != EPIPE && error != EIO && error != ECONNRESET)
        terminal.error = error;
    hang_up();
}

static bool wants_input(void)
{
    return terminal.interactive && !terminal.input_ended && !terminal.draining &&
           space(&terminal.in);
}

/* Read from the caller, if it is ready. */
static bool read_input(void)
{
    struct flow *flow = &terminal.in;
    bool ready = terminal.input.ready;
    /* What is not read now may be another reader's later. */
    terminal.input.ready = terminal.input.is_file;
    if (!ready || !wants_input())
        return false;
    ssize_t count = read(STDIN_FILENO, flow->bytes + flow->to, space(flow));
    if (count > 0) {
        flow->to += (size_t)count;
        terminal.partial = flow->bytes[flow->to - 1] != '\n';
        return true;
    }
    if (count < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    terminal.input_ended = true;
    if (terminal.is_terminal && (count < 0 || await_input(STDIN_FILENO, 0) & POLLHUP))
        hang_up();
    return true;
}

static bool write_to_view(void)
{
    struct flow *flow = &terminal.in;
    if (terminal.master < 0 || is_empty(flow))
        return false;
    ssize_t count = write(terminal.master, flow->bytes + flow->from, flow->to - flow->from);
    if (count > 0)
        consume(flow, (size_t)count);
    else if (count < 0 && errno != EAGAIN && errno != EINTR)
        discard(flow);
    return count > 0;
}

/* Fails with EIO while no process has the slave open. */
static bool read_from_view(void)
{
    struct flow *flow = &terminal.out;
    if (terminal.master < 0 || !space(flow))
        return false;
    ssize_t count = read(terminal.master, flow->bytes + flow->to, space(flow));
    if (count > 0)
        flow->to += (size_t)count;
    else if (terminal.draining && !(count < 0 && errno == EINTR))
        hang_up();
    return count > 0;
}

static bool write_output(void)
{
    struct flow *flow = &terminal.out;
    int output = terminal.output.descriptor;
    if (is_empty(flow) || !terminal.output.ready)
        return false;
    const char *bytes = flow->bytes + flow->from;
    size_t length = flow->to - flow->from;
    /* What is ready takes so much without blocking (pipe(7)). */
    if (terminal.output_blocks && length > PIPE_BUF)
        length = PIPE_BUF;
    ssize_t count = terminal.output_is_socket
                        ? send(output, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL)
                        : write(output, bytes, length);
    if (terminal.output_blocks || (count < 0 && errno == EAGAIN))
        terminal.output.ready = terminal.output.is_file;
    if (count > 0)
        consume(flow, (size_t)count);
    else if (count < 0 && errno != EAGAIN && errno != EINTR)
        lose_output(errno);
    return count > 0;
}

/* ---- the end of the input ------------------------------------------------------------------- */

/* Whether the view has read all that was written to it. The slave is open for a moment only. */
static bool is_consumed(void)
{
    int slave = ioctl(terminal.master, TIOCGPTPEER, O_RDONLY | O_NOCTTY | O_CLOEXEC);
    bool consumed = slave < 0 || !is_readable(slave);
    if (slave >= 0)
        close(slave);
    return consumed;
}

static bool is_at_end(void)
{
    return terminal.master >= 0 && terminal.input_ended && is_empty(&terminal.in) &&
           !terminal.draining;
}

/* Tell the view of the end of the input as a user does who presses Ctrl-D; in the middle of a line
 * that takes two. A program that changes the mode (readline) discards what it has not read, so this
 * comes last, and again once it was read: an input that has ended stays so. */
static void tell_end(void)
{
    struct termios mode;
    if (!is_at_end())
        return;
    if (terminal.pause < (terminal.end_told ? AGAIN_MILLISECONDS : LAST_MILLISECONDS))
        terminal.pause *= 2;
    if (is_consumed() && tcgetattr(terminal.master, &mode) == 0) {
        if (terminal.partial && mode.c_lflag & ICANON)
            terminal.in.bytes[terminal.in.to++] = (char)mode.c_cc[VEOF];
        terminal.in.bytes[terminal.in.to++] = (char)mode.c_cc[VEOF];
        terminal.end_told = true;
        terminal.partial = false;
    }
    pump();
}

/* ---- the relay ------------------------------------------------------------------------------ */

/* Move bytes until nothing moves, and watch for what is missing. */
static void pump(void)
{
    bool moved = true;
    while (moved) {
        moved = read_input();
        moved |= write_to_view();
        moved |= read_from_view();
        moved |= write_output();
    }
    if (terminal.output_gone)
        discard(&terminal.out);
    if (wants_input() && watch_end(&terminal.input, EPOLLIN | EPOLLONESHOT) < 0)
        terminal.input_ended = true;
    bool wants_output = !is_empty(&terminal.out) && !terminal.output.ready;
    if (wants_output && watch_end(&terminal.output, EPOLLOUT | EPOLLONESHOT) < 0)
        lose_output(errno);
    if (is_at_end() && !timer_is_set(TIMER_TERMINAL))
        timer_set(TIMER_TERMINAL, terminal.pause, tell_end);
}

/* ---- the life of the relay ------------------------------------------------------------------ */

/* Open standard output once more, so that writes do not block. A file keeps its offset, which later
 * writers share; a socket cannot be opened. */
static void open_output(void)
{
    struct stat st;
    if (fstat(STDOUT_FILENO, &st) < 0)
        return;
    terminal.output_is_socket = S_ISSOCK(st.st_mode);
    terminal.output_blocks = !terminal.output_is_socket;
    if (!S_ISFIFO(st.st_mode) && !isatty(STDOUT_FILENO))
        return;
    int copy = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (copy < 0)
        return;
    terminal.output.descriptor = copy;
    terminal.output_blocks = false;
}

int terminal_prepare(bool interactive)
{
    terminal.prepared = true;
    terminal.interactive = interactive;
    terminal.is_terminal = interactive && tcgetattr(STDIN_FILENO, &terminal.before) == 0;
    terminal.wanted = terminal.before;
    cfmakeraw(&terminal.wanted);
    if (terminal.is_terminal && start_guardian() < 0)
        return -1;
    open_output();
    return 0;
}

int terminal_open(int master)
{
    terminal.master = terminal.view.descriptor = master;
    copy_size();
    make_raw();
    /* This finds files, too, for which no event comes. */
    if (watch_end(&terminal.view, EPOLLIN | EPOLLOUT | EPOLLET) < 0 ||
        watch_end(&terminal.output, EPOLLOUT | EPOLLONESHOT) < 0 ||
        (terminal.interactive && watch_end(&terminal.input, EPOLLIN | EPOLLONESHOT) < 0))
        return -1;
    pump();
    return 0;
}

bool terminal_is_open(void) { return terminal.prepared && terminal.view.descriptor >= 0; }

bool terminal_takes_signal(int number)
{
    if (number == SIGTSTP) {
        restore_mode();
        (void)raise(SIGSTOP);
        return true;
    }
    if (!terminal_is_open())
        return false;
    if (number == SIGCONT)
        make_raw();
    if (number == SIGCONT || number == SIGWINCH)
        copy_size();
    return number == SIGWINCH;
}

void terminal_drain(void)
{
    terminal.draining = true;
    pump();
}

bool terminal_is_drained(void) { return terminal.master < 0 && is_empty(&terminal.out); }

int terminal_error(void) { return terminal.error; }

/* Hang up the pty: the foreground processes of the view get SIGHUP. */
static void hang_up(void)
{
    if (terminal.master >= 0)
        close(terminal.master);
    terminal.master = -1;
    if (!terminal.draining)
        restore_mode();
    terminal.input_ended = true;
    discard(&terminal.in);
}

void terminal_end(void)
{
    if (!terminal.prepared)
        return;
    hang_up();
    discard(&terminal.out);
    restore_mode();
    if (terminal.guardian > 0) {
        (void)kill(terminal.guardian, SIGKILL);
        while (waitpid(terminal.guardian, NULL, 0) < 0 && errno == EINTR)
            continue;
        terminal.guardian = 0;
    }
    if (terminal.output.descriptor > STDOUT_FILENO)
        close(terminal.output.descriptor);
    terminal.prepared = false;
}
