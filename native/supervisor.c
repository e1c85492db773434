/* The program that holds a view: monitor and init, for a plan made by Python (namespace/plan.py).
 *
 *     _supervisor FD           carry out the plan in the descriptor FD
 *     _supervisor FD --check   check it only
 *     _supervisor --after PID PROGRAM [ARG]...
 *                              wait for a child, then execute a program with its status
 *
 * This file is the monitor. It enters the namespaces that init inherits, forks init, forwards
 * published ports, and waits for the end of the parent, of init, or of what the plan says; then it
 * ends the others. They end as well when the monitor is killed. It either reports to a parent, or
 * is the launcher itself and then forwards signals, too. */
#include "supervisor.h"

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>

enum {
    REFUSED = 125, /* the exit status for a failure of our own */
    KILLED = 128 + SIGKILL,
    INTERRUPTED = 128 + SIGINT,
    DRAIN_MILLISECONDS = 2000, /* for a client to read what a view that has ended had sent it */
};

static struct plan plan;

/* The state of the monitor. */
static struct {
    bool alone;                /* without a parent to report to */
    uint64_t ignored, blocked; /* signals, by the caller */
    int epoll;
    int signals; /* a signalfd; -1 unless alone */
    int status;  /* alone: the read end of the status pipe; -1 once it has ended */
    int namespaces[MOST_PASSED];
    size_t offers; /* that were taken */
    struct init_descriptors of_init;
    pid_t init;
    int view; /* a pidfd of init; -1 before its fork */
    bool with_terminal;
    int messages;                  /* the socket from which those of init come */
    bool own_session;              /* of the command, without a terminal */
    bool to_stop, command_stopped; /* by SIGTSTP */
    int code;                      /* the status of init */
    int interrupt;                 /* alone: the signal that ended the launch; 0 if none did */
    int deadly;                    /* the signal of the caller's PR_SET_PDEATHSIG, 0 if none */
    pid_t caller;
    bool view_ended, parent_ended, aborted, executed, resumed, awaiting;
    bool kills, killed;     /* this process kills init; another one has killed it */
    bool drops_connections; /* with what their clients have not read yet */
    bool undelivered;       /* the rest of the view's output is given up */
    bool may_reap;          /* the parent has a pidfd of init */
    int json;               /* where child-pid and exit-code are written; -1 for nowhere */
    int64_t grace;          /* milliseconds from SIGTERM to SIGKILL, -1 for ever */
    int input;    /* a write end of the pipe that is the input; -1 for none, and at its end */
    int announce; /* the write end of a pipe that tells that the command runs; -1 if none does */
    bool logs;
    struct helper helper;
} monitor = {.epoll = -1,
             .signals = -1,
             .status = -1,
             .namespaces = {-1, -1, -1, -1},
             .view = -1,
             .messages = -1,
             .of_init = {.monitor = -1, .gate = {-1, -1}},
             .helper = {.socket = -1}};

/* ---- events --------------------------------------------------------------------------------- */

static void signal_view(int number)
{
    monitor.kills |= number == SIGKILL;
    if (monitor.view >= 0)
        (void)syscall(SYS_pidfd_send_signal, monitor.view, number, NULL, 0);
}

static void kill_view(void) { signal_view(SIGKILL); }

static void abort_ready(void)
{
    if (monitor.view >= 0 && is_readable(monitor.view))
        return;
    monitor.aborted = true;
    signal_view(SIGKILL);
}

/* Let descriptors lead nowhere: a copy of the command's streams would keep their readers and
 * writers from end of file. */
static void empty_streams(int first, int last)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int descriptor = first; descriptor <= last; descriptor++)
        if (null < 0 || dup2(null, descriptor) < 0)
            close(descriptor);
    if (null >= 0)
        close(null);
}

/* Tell the launcher of a detached view that its command runs; leave its standard error. */
static void announce(void)
{
    (void)dprintf(monitor.announce, "\n");
    empty_streams(STDERR_FILENO, STDERR_FILENO);
    close(monitor.announce);
    monitor.announce = -1;
}

static void read_status(void)
{
    if (monitor.status < 0 || failure_read(monitor.status))
        return;
    monitor.executed = !has_failed();
    if (monitor.executed && monitor.announce >= 0)
        announce();
    close(monitor.status);
    monitor.status = -1;
}

/* Say a line where the view's user reads it: in the log of a detached view. */
static void say(const char *what, const char *why)
{
    if (!monitor.alone)
        return;
    if (monitor.logs && monitor.executed)
        logs_redirect(STDERR_FILENO);
    (void)dprintf(STDERR_FILENO, "overlaykit: %s%s%s\n", what, why,
                  monitor.with_terminal ? "\r" : "");
}

/* The helper has started its program for the first packet, has failed to, or has ended. */
static void helper_ready(void)
{
    char *said = monitor.helper.said;
    int error = helper_answer(&monitor.helper);
    bool ended = monitor.view_ended || (monitor.view >= 0 && is_readable(monitor.view));
    if (!error)
        return;
    for (size_t size = strlen(said); size && said[size - 1] == '\n';)
        said[--size] = '\0';
    const char *line = strrchr(said, '\n');
    if (!ended)
        say("the view reaches nothing outside any more: ", error == ECHILD
                                                               ? "its network program has ended"
                                                           : line ? line + 1
                                                                  : said);
    (void)unwatch(monitor.helper.socket);
    helper_end(&monitor.helper);
}

/* A signal of the terminal (si_code SI_KERNEL, sigaction(2)) reaches the whole foreground process
 * group, the command included: to forward it would interrupt the command twice. It does not
 * reach a command with a terminal of its own. SIGHUP of a terminal that hangs up reaches the
 * session leader alone. */
static bool is_to_forward(const struct signalfd_siginfo *info)
{
    return info->ssi_code <= 0 || monitor.with_terminal ||
           (info->ssi_signo == SIGHUP && getsid(0) == getpid());
}

/* Let a blocked signal have its default action. */
static void suffer(int number)
{
    (void)raise(number);
    block_signals(SIG_UNBLOCK, MASK(number));
    block_signals(SIG_BLOCK, MASK(number));
}

/* Stop last: the caller's shell takes the terminal back once this process has stopped. */
static void stop_with_command(void)
{
    if (!monitor.to_stop || !monitor.command_stopped)
        return;
    monitor.to_stop = monitor.command_stopped = false;
    suffer(SIGTSTP);
}

/* What an attached client asks for by SIGRTMIN, which is queued: a size of the terminal, rows above
 * columns; 0 for the end of the input. */
static void take_control(int value)
{
    if (value) {
        terminal_resize((unsigned)value >> 16, (unsigned)value & 0xffff);
    } else if (monitor.input >= 0) {
        close(monitor.input);
        monitor.input = -1;
    }
}

static void take_signal(const struct signalfd_siginfo *info)
{
    int number = (int)info->ssi_signo;
    if (monitor.ignored & MASK(number)) /* nohup(1) */
        return;
    /* A signal after end of file is for the command: its sender may have seen it running. */
    while (monitor.status >= 0 && is_readable(monitor.status))
        read_status();
    if (monitor.with_terminal && terminal_takes_signal(number))
        return;
    if (number == SIGRTMIN)
        return take_control(info->ssi_int);
    if (number == SIGTSTP || number == SIGCONT)
        monitor.to_stop = number == SIGTSTP;
    if (number == SIGTSTP) {
        monitor.command_stopped |= !monitor.executed || monitor.view < 0; /* none is there */
        if (monitor.view >= 0 && is_to_forward(info))
            signal_view(number);
        return stop_with_command();
    }
    if (monitor.view < 0 && monitor.executed && !monitor.awaiting) { /* the output is blocked */
        if (number != SIGCONT && number != SIGWINCH)
            monitor.undelivered = true;
    } else if (monitor.executed && !monitor.awaiting) {
        if (is_to_forward(info))
            signal_view(number);
        if (number == SIGTERM && monitor.grace >= 0 && !timer_is_set(TIMER_GRACE))
            timer_set(TIMER_GRACE, monitor.grace, kill_view);
    } else if (number != SIGCONT && number != SIGWINCH && (monitor.awaiting || !has_failed())) {
        monitor.interrupt = number;
        signal_view(SIGKILL);
    }
}

static void signals_ready(void)
{
    struct signalfd_siginfo info;
    while (read(monitor.signals, &info, sizeof info) == (ssize_t)sizeof info)
        take_signal(&info);
}

static void message_ready(void)
{
    int taken[MOST_PASSED];
    for (char kind; (kind = message_take(monitor.messages, taken)); monitor.offers++)
        if (kind == PLAN_OFFERED_NAMESPACES) {
            memcpy(monitor.namespaces, taken, sizeof taken);
        } else if (kind == PLAN_OFFERED_LISTENER) {
            if (release_listen(taken[0]) < 0)
                signal_view(SIGKILL);
        } else if (kind != PLAN_OFFERED_TERMINAL) {
            monitor.command_stopped = kind == MESSAGE_STOPPED;
        } else if (terminal_open(taken[0]) < 0) {
            (void)fail("TERMINAL", "");
            signal_view(SIGKILL);
        }
    stop_with_command();
}

static struct source on_view = {.flag = &monitor.view_ended}, on_abort = {.act = abort_ready},
                     on_parent = {.flag = &monitor.parent_ended, .act = kill_view},
                     on_reap = {.flag = &monitor.may_reap}, on_resume = {.flag = &monitor.resumed},
                     on_status = {.act = read_status}, on_signals = {.act = signals_ready},
                     on_message = {.act = message_ready}, on_helper = {.act = helper_ready};

static void handle_events(void)
{
    if (events_handle() < 0)
        _exit(EXIT_FAILURE); /* init dies with this process */
    ports_collect();
}

/* ---- what the plan says of the monitor ------------------------------------------------------ */

/* The number that a step has, `otherwise` without the step. */
static uint64_t number_of(enum section section, enum step step, uint64_t otherwise)
{
    const struct argument *found = plan_find(&plan, section, step);
    return found ? found->number : otherwise;
}

/* The descriptor that a step of the section of the plan has, -1 without the step. */
static int descriptor_of(enum step step)
{
    const struct argument *found = plan_find(&plan, SECTION_PLAN, step);
    return found ? slot_descriptor(&plan, found) : -1;
}

/* ---- descriptors ---------------------------------------------------------------------------- */

/* Close what the command alone needs, or init: the mount above all, which ends with its last
 * descriptor. The command waits for the end of the gate. */
static void close_others(void)
{
    static const enum section sections[] = {SECTION_PLAN, SECTION_MONITOR, SECTION_END};
    static bool keep[PLAN_MOST_SLOTS];
    for (size_t at = 0; at < sizeof sections / sizeof *sections; at++) {
        struct cursor cursor = plan.sections[sections[at]];
        for (struct record record; plan_next(&cursor, &record);) {
            const char *signature = plan_signature(record.step);
            /* The status pipe is left to init and to the command. */
            for (size_t one = record.step == STEP_REPORT; signature[one]; one++)
                if (signature[one] == 'd')
                    keep[record.arguments[one].number] = true;
        }
    }
    for (size_t slot = 0; slot < PLAN_MOST_SLOTS; slot++)
        if (plan.slots[slot] && !keep[slot])
            close(plan.slots[slot] - 1);
    if (!monitor.alone)
        (void)syscall(SYS_close_range, STDIN_FILENO, STDERR_FILENO, 0);
    close(monitor.of_init.monitor);
    close(monitor.of_init.gate[0]);
    close(monitor.of_init.gate[1]);
}

/* Close what the plan does not name, and keep the rest from programs that are executed. */
static void close_unnamed(void)
{
    static int named[PLAN_MOST_SLOTS + 3];
    size_t count = 0;
    for (int descriptor = 0; descriptor < 3; descriptor++)
        named[count++] = descriptor;
    for (size_t slot = 0; slot < PLAN_MOST_SLOTS; slot++) {
        int descriptor = plan.slots[slot] - 1;
        if (descriptor < 0)
            continue;
        (void)fcntl(descriptor, F_SETFD, FD_CLOEXEC);
        named[count++] = descriptor;
    }
    close_all_but(named, count);
}

/* ---- steps ---------------------------------------------------------------------------------- */

/* Have the helper connect the network namespace of this process. One that waits for the first
 * packet may be refused. Returns -1 also without a failure, if the launch is to end. */
static int connect_network(int tap)
{
    struct helper *helper = &monitor.helper;
    bool waits = helper->waits;
    if (helper_connect(helper, tap) < 0 && waits) {
        helper_end(helper);
        return 0;
    }
    if (has_failed() || watch(helper->socket, waits ? &on_helper : &on_resume, EPOLLIN) < 0)
        return fail("CONNECT", helper->program);
    while (!waits && !monitor.resumed) {
        handle_events();
        if (monitor.parent_ended || monitor.aborted || monitor.interrupt)
            return -1;
    }
    int error = waits ? 0 : helper_answer(helper);
    if (error)
        return fail_with("CONNECT", error, helper->said);
    return watch(helper->socket, &on_helper, EPOLLIN) < 0 ? fail("CONNECT", helper->program) : 0;
}

/* The listening socket belongs to the host's network, the sockets that are connected to the
 * view's, in which this process is. */
static int publish(int listener, uint16_t port)
{
    char subject[8];
    (void)snprintf(subject, sizeof subject, "%u", port);
    return ports_add(listener, port) < 0 ? fail("PORT", subject) : 0;
}

static int keep_log(const struct argument *argument)
{
    int pipes[] = {slot_descriptor(&plan, &argument[0]), slot_descriptor(&plan, &argument[1])};
    monitor.logs = logs_open(pipes, slot_descriptor(&plan, &argument[2]), argument[3].bytes,
                             argument[4].number, monitor.with_terminal || monitor.input >= 0) == 0;
    return monitor.logs ? 0 : fail("LOG", argument[3].bytes);
}

static int carry_out(const struct record *record)
{
    const struct argument *argument = record->arguments;
    switch (record->step) {
    case STEP_LOG:
        return keep_log(argument);
    case STEP_CALL:
        return call(&plan, argument);
    case STEP_JOINED:
        monitor.kills = true;
        return 0;
    case STEP_HELPER:
        return helper_start(&monitor.helper, argument);
    case STEP_CONNECT_NETWORK: {
        int tap = slot_descriptor(&plan, &argument[0]);
        slot_fill(&plan, &argument[0], -1);
        return connect_network(tap);
    }
    default: /* STEP_PUBLISH */
        return publish(slot_descriptor(&plan, &argument[0]), (uint16_t)argument[1].number);
    }
}

/* With a terminal of its own the command is not stopped by that of the caller; this process
 * restores the mode before it stops. Else it stops after the command. */
static uint64_t watched_signals(void)
{
    return FORWARDED_SIGNALS | MASK(SIGRTMIN) | (monitor.own_session ? 0 : MASK(SIGTSTP));
}

/* The events of the section of the plan. */
static int watch_named(void)
{
    struct cursor cursor = plan.sections[SECTION_PLAN];
    struct record record;
    uint64_t watched = watched_signals();
    monitor.epoll = events_open();
    if (monitor.epoll < 0)
        return fail("PROCESS", "");
    if (monitor.alone) {
        monitor.signals =
            (int)syscall(SYS_signalfd4, -1, &watched, sizeof watched, SFD_CLOEXEC | SFD_NONBLOCK);
        if (monitor.signals < 0 || watch(monitor.signals, &on_signals, EPOLLIN) < 0)
            return fail("PROCESS", "");
    }
    while (plan_next(&cursor, &record)) {
        struct source *source = record.step == STEP_PARENT     ? &on_parent
                                : record.step == STEP_ABORT_ON ? &on_abort
                                : record.step == STEP_REPORT   ? &on_reap
                                                               : NULL;
        const struct argument *slot = &record.arguments[record.step == STEP_REPORT];
        if (source && watch(slot_descriptor(&plan, slot), source, EPOLLIN | EPOLLONESHOT) < 0)
            return fail("PROCESS", "");
    }
    return 0;
}

/* ---- init ----------------------------------------------------------------------------------- */

/* The status pipe: the parent's, or our own. */
static int status_write_end(void)
{
    int ends[2];
    if (!monitor.alone)
        return descriptor_of(STEP_REPORT);
    if (pipe2(ends, O_CLOEXEC) < 0 || watch(ends[0], &on_status, EPOLLIN) < 0)
        return -1;
    monitor.status = ends[0];
    return ends[1];
}

/* As bubblewrap's --json-status-fd. */
static void write_json(const char *key, int value)
{
    if (monitor.json >= 0)
        (void)dprintf(monitor.json, "{\"%s\": %d}\n", key, value);
}

static int fork_init(void)
{
    struct init_descriptors *passed = &monitor.of_init;
    int ends[2];
    passed->status = status_write_end();
    passed->monitor = pidfd_of(getpid());
    if (passed->status < 0 || passed->monitor < 0 || pipe2(passed->gate, O_CLOEXEC) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0 ||
        watch(ends[0], &on_message, EPOLLIN | EPOLLET) < 0)
        return fail("PROCESS", "");
    monitor.messages = ends[0];
    passed->messages = ends[1];
    pid_t child = fork();
    if (child < 0)
        return fail("PROCESS", "");
    if (child == 0)
        init_run(&plan, passed);
    monitor.init = child;
    monitor.view = pidfd_of(child);
    if (monitor.view < 0 || watch(monitor.view, &on_view, EPOLLIN | EPOLLONESHOT) < 0) {
        (void)fail("PROCESS", "");
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        return -1;
    }
    if (!monitor.alone)
        (void)dprintf(passed->status, "%d%c%c\n", child, '\0', '\0');
    write_json("child-pid", child);
    /* Before the gate; the parent's is one of close_others. */
    if (monitor.alone)
        close(passed->status);
    close(passed->messages);
    return 0;
}

/* All that the monitor does from now on is to signal and reap its own child, to forward ports, to
 * answer uname(2), and to remove what the plan names. */
static void give_powers_up(void)
{
    uint64_t kept = number_of(SECTION_END, STEP_RESTRICT_CAPABILITIES, 0);
    if (release_is_told())
        kept |= 1 << CAP_SYS_PTRACE | 1 << CAP_SYS_ADMIN | 1 << CAP_DAC_OVERRIDE;
    (void)set_capabilities(kept);
    /* Alone, it may execute a program that needs root's capabilities to read its own files. */
    if (!monitor.alone)
        (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    /* setns(2) into a user namespace took the process from its owner's sight, and reset the
     * caller's PR_SET_PDEATHSIG (commit_creds() in kernel/cred.c). */
    (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    if (monitor.deadly) {
        (void)prctl(PR_SET_PDEATHSIG, monitor.deadly, 0, 0, 0);
        if (getppid() != monitor.caller)
            (void)raise(monitor.deadly);
    }
}

/* Each connection through a published port has two descriptors. */
static void allow_many_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* ---- the life of the view ------------------------------------------------------------------- */

static void reap(void)
{
    int ended = 0;
    pid_t reaped;
    /* The program that executed this one may have left other children. */
    do
        reaped = waitpid(monitor.init, &ended, 0);
    while (reaped < 0 && errno == EINTR);
    monitor.code = status_of(ended);
    monitor.killed = WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL && !monitor.kills;
    /* If init ended by itself, its status counts: the daemon may end a moment earlier, with the
     * view's mounts. What it has sent tells more, if that is awaited. */
    if (monitor.alone && monitor.aborted && monitor.code == KILLED &&
        !plan_find(&plan, SECTION_END, STEP_AWAIT))
        (void)fail_with("DAEMON", 0, "");
}

/* Deliver what the view has written, unless a signal ends the wait. */
static void drain_terminal(void)
{
    if (!terminal_is_open())
        return;
    terminal_drain();
    while (!terminal_is_drained() && !monitor.undelivered)
        handle_events();
    if (terminal_error())
        (void)fail_with("OUTPUT", terminal_error(), "");
}

static void drop_connections(void) { monitor.drops_connections = true; }

/* Wait for the view's end, and until clients of published ports have what the view has sent. */
static void hold_view(void)
{
    while (!(monitor.view_ended && (monitor.may_reap || monitor.parent_ended)))
        handle_events();
    reap();
    monitor.view = -1;
    message_ready();
    /* No mount of the view outlives it. */
    for (size_t at = 0; at < MOST_PASSED; at++)
        if (monitor.namespaces[at] >= 0)
            close(monitor.namespaces[at]);
    drain_terminal();
    if (monitor.logs)
        logs_finish();
    ports_drain();
    ports_collect();
    timer_set(TIMER_DRAIN, DRAIN_MILLISECONDS, drop_connections);
    while (ports_busy() && !monitor.drops_connections && !monitor.parent_ended)
        handle_events();
}

/* ---- the end -------------------------------------------------------------------------------- */

/* Discard pending signals: an interrupt of the terminal was for the command. */
static void discard_signals(void)
{
    struct signalfd_siginfo info;
    while (monitor.signals >= 0 && read(monitor.signals, &info, sizeof info) > 0)
        continue;
}

/* Wait until a descriptor is readable, or a signal ends the wait. */
static void await_readable(int descriptor)
{
    monitor.awaiting = true;
    monitor.resumed = false;
    bool watched = watch(descriptor, &on_resume, EPOLLIN | EPOLLONESHOT) == 0;
    if (!watched)
        (void)fail("DAEMON", "");
    while (watched && !monitor.resumed && !monitor.interrupt && !monitor.parent_ended)
        handle_events();
}

/* Wait until the daemon says that all that was written is in the upper. */
static void await_daemon(int channel)
{
    char byte;
    discard_signals();
    await_readable(channel);
    if (monitor.resumed && read(channel, &byte, 1) != 1)
        (void)fail_with("DAEMON", 0, "");
}

/* The end of PID 1 kills its namespace (pid_namespaces(7)): wait until the daemon has removed the
 * entry and the changes, and has ended. */
static void await_daemons_end(void)
{
    struct cursor cursor = plan.sections[SECTION_PLAN];
    struct record record;
    while (plan_next(&cursor, &record))
        if (record.step == STEP_ABORT_ON)
            await_readable(slot_descriptor(&plan, &record.arguments[0]));
}

/* Write the exit status and the time of the end into the file `name` of a directory, which others
 * may have open. */
static void record_status(int directory, const char *name)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int file = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0)
        return;
    (void)dprintf(file, "%d %lld%09ld\n", monitor.code, (long long)now.tv_sec, now.tv_nsec);
    close(file);
}

/* If the view was killed, see whether that was for its memory: the file of a memory controller has
 * a line "oom_kill N". */
static void look_for_lack_of_memory(int file)
{
    char key[32];
    unsigned long count;
    FILE *events = monitor.code == KILLED ? fdopen(file, "r") : NULL;
    (void)lseek(file, 0, SEEK_SET);
    while (events && fscanf(events, "%31s %lu", key, &count) == 2)
        if (!strcmp(key, "oom_kill") && count)
            (void)fail_with("MEMORY", 0, "");
}

/* Say why the view had no way outward, if a command that failed has looked for one: the kernel
 * counts packets without a route. */
static void hint(const char *reason)
{
    unsigned long long without_route = 0;
    FILE *counters =
        monitor.code && monitor.executed ? fopen("/proc/thread-self/net/snmp", "re") : NULL;
    if (counters &&
        fscanf(counters, "%*[^\n] Ip: %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %llu",
               &without_route) == 1 &&
        without_route)
        say("the view reached nothing outside: ", reason);
}

static void carry_out_end(void)
{
    struct cursor cursor = plan.sections[SECTION_END];
    struct record record;
    while (plan_next(&cursor, &record)) {
        const struct argument *argument = record.arguments;
        bool has_slot = *plan_signature(record.step) == 'd';
        int descriptor = has_slot ? slot_descriptor(&plan, &argument[0]) : -1;
        if (record.step == STEP_CALL)
            (void)call(&plan, argument);
        else if (record.step == STEP_AWAIT)
            await_daemon(descriptor);
        else if (record.step == STEP_OUT_OF_MEMORY)
            look_for_lack_of_memory(descriptor);
        else if (record.step == STEP_HINT)
            hint(argument[0].bytes);
        else if (record.step == STEP_REMOVE)
            (void)remove_tree(descriptor, argument[1].bytes);
        else if (record.step == STEP_REMOVE_OPENED)
            remove_opened(descriptor);
        else if (record.step == STEP_RECORD_STATUS && monitor.executed)
            record_status(descriptor, argument[1].bytes);
    }
    if (getpid() == 1 && plan_find(&plan, SECTION_END, STEP_AWAIT))
        await_daemons_end();
}

/* Execute the program that reports the failure. */
static _Noreturn void execute_front(const char *when)
{
    const char *fields[3] = {"UNFORESEEN", "5", ""};
    (void)failure_fields(fields);
    const struct argument *front = plan_find(&plan, SECTION_PLAN, STEP_FRONT);
    size_t count = list_count(&front[0]);
    char **argv = list_vector(&front[0], 4), **environment = list_vector(&front[1], 0);
    if (argv && environment) {
        for (int field = 0; field < 3; field++)
            argv[count++] = (char *)fields[field];
        argv[count] = (char *)when;
        /* A detached view has no other place for a message. */
        if (monitor.logs && monitor.executed)
            logs_redirect(STDERR_FILENO);
        block_signals(SIG_SETMASK, monitor.blocked);
        (void)execve(argv[0], argv, environment);
    }
    dprintf(STDERR_FILENO, "supervisor: %s: %s: %s\n", fields[0], fields[2],
            strerror(atoi(fields[1])));
    _exit(REFUSED);
}

/* End as the signal that interrupted the launch would have ended this process. */
static _Noreturn void end_interrupted(void)
{
    if (monitor.interrupt != SIGINT)
        suffer(monitor.interrupt);
    _exit(INTERRUPTED);
}

/* End alone: with the view's status, or with the report of a failure. */
static _Noreturn void finish_alone(void)
{
    if (monitor.interrupt)
        end_interrupted();
    if (has_failed()) {
        discard_signals();
        execute_front(monitor.executed ? "after" : "before");
    }
    _exit(monitor.code);
}

static int start(void)
{
    struct cursor cursor = plan.sections[SECTION_MONITOR];
    struct record record;
    if (watch_named() < 0)
        return -1;
    const struct argument *terminal = plan_find(&plan, SECTION_PLAN, STEP_TERMINAL);
    if (terminal && terminal_prepare(terminal->number) < 0)
        return fail("PROCESS", "");
    while (plan_next(&cursor, &record))
        if (carry_out(&record) < 0)
            return -1;
    return fork_init();
}

/* Take what init offers: a view can be joined as soon as its command is seen to run, and the
 * command begins with the size of the caller's window. */
static void await_offers(void)
{
    struct cursor cursor = plan.sections[SECTION_INIT];
    size_t expected = 0;
    for (struct record record; plan_next(&cursor, &record);)
        expected += record.step == STEP_OFFER;
    while (monitor.offers < expected && !monitor.view_ended)
        handle_events();
}

static _Noreturn void run(void)
{
    (void)prctl(PR_GET_PDEATHSIG, &monitor.deadly, 0, 0, 0);
    monitor.caller = getppid();
    monitor.alone = monitor.may_reap = plan_find(&plan, SECTION_PLAN, STEP_FRONT);
    monitor.with_terminal = plan_find(&plan, SECTION_PLAN, STEP_TERMINAL);
    monitor.own_session = plan_find(&plan, SECTION_COMMAND, STEP_OWN_SESSION);
    monitor.grace = (int64_t)number_of(SECTION_PLAN, STEP_GRACE, (uint64_t)-1);
    monitor.json = descriptor_of(STEP_JSON_STATUS);
    monitor.input = descriptor_of(STEP_INPUT);
    monitor.announce = descriptor_of(STEP_ANNOUNCE);
    monitor.ignored = number_of(SECTION_COMMAND, STEP_IGNORED, 0);
    const struct argument *release = plan_find(&plan, SECTION_COMMAND, STEP_TELL_RELEASE);
    if (release)
        release_tell(release->bytes);
    monitor.blocked = number_of(SECTION_COMMAND, STEP_BLOCKED, 0);
    /* A process that ignores SIGCHLD cannot wait for children (wait(2)). */
    ignore_signals(monitor.ignored & ~MASK(SIGCHLD));
    close_unnamed();
    bool started = start() == 0;
    if (!started && monitor.aborted) {
        monitor.code = KILLED;
        (void)fail_with("DAEMON", 0, "");
    } else if (!started) {
        monitor.code = EXIT_FAILURE;
    }
    if (!started && !monitor.alone)
        failure_write(descriptor_of(STEP_REPORT));
    if (monitor.alone && !monitor.with_terminal)
        empty_streams(STDIN_FILENO, STDOUT_FILENO);
    /* Other launchers look into this process once the locks are closed that the plan does not hold.
     */
    if (started) {
        give_powers_up();
        await_offers();
    }
    /* The command waits for this. */
    close_others();
    if (started) {
        plan_forget(&plan, SECTION_INIT, SECTION_COMMAND);
        if (plan_find(&plan, SECTION_MONITOR, STEP_PUBLISH))
            allow_many_descriptors();
        if (monitor.alone)
            block_signals(SIG_SETMASK, monitor.blocked | watched_signals() | MASK(SIGPIPE));
        hold_view();
    }
    terminal_end();
    helper_end(&monitor.helper);
    if (monitor.alone && monitor.with_terminal)
        empty_streams(STDIN_FILENO, STDOUT_FILENO);
    while (monitor.status >= 0)
        read_status();
    carry_out_end();
    if (monitor.executed && monitor.killed && !has_failed())
        (void)fail_with("INIT", 0, "");
    if (monitor.executed)
        write_json("exit-code", monitor.code);
    if (monitor.alone)
        finish_alone();
    _exit(monitor.code);
}

/* Wait for the child `arguments[0]` in a process that has nothing but descriptor 0, a lock.
 * `arguments[count]` is NULL. */
static int execute_after(int count, char **arguments, uint64_t mask)
{
    char status[16];
    int ended = 0, kept = STDIN_FILENO;
    pid_t child = (pid_t)strtol(arguments[0], NULL, 10);
    char **argv = calloc((size_t)count + 1, sizeof *argv);
    close_all_but(&kept, 1);
    block_signals(SIG_SETMASK, mask);
    while (child > 0 && waitpid(child, &ended, 0) < 0)
        if (errno != EINTR)
            return REFUSED;
    if (!argv)
        return REFUSED;
    memcpy(argv, arguments + 1, (size_t)(count - 1) * sizeof *argv);
    (void)snprintf(status, sizeof status, "%d", status_of(ended));
    argv[count - 1] = status;
    (void)execv(argv[0], argv);
    return REFUSED;
}

static int refuse(const char *reason)
{
    dprintf(STDERR_FILENO, "supervisor: the plan is not understood: %s\n", reason);
    return REFUSED;
}

int main(int count, char **arguments)
{
    const char *refusal;
    char *end = NULL;
    uint64_t before = block_signals(SIG_SETMASK, ~0ULL);
    if (count >= 4 && !strcmp(arguments[1], "--after"))
        return execute_after(count - 2, arguments + 2, before);
    bool checks = count == 3 && !strcmp(arguments[2], "--check");
    long from = count == 2 || checks ? strtol(arguments[1], &end, 10) : -1;
    if (from < 0 || from > INT_MAX || end == arguments[1] || *end) {
        dprintf(STDERR_FILENO, "usage: _supervisor FD, with a plan in the descriptor FD\n");
        return REFUSED;
    }
    for (int descriptor = 0; descriptor < 3; descriptor++)
        if (fcntl(descriptor, F_GETFD) < 0)
            return refuse("a standard descriptor is closed");
    if (plan_read(&plan, (int)from, &refusal) < 0)
        return refuse(refusal);
    if (!plan_find(&plan, SECTION_COMMAND, STEP_EXEC))
        return refuse("there is no command");
    if (checks)
        return EXIT_SUCCESS;
    run();
}
