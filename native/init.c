/* The init of a view (PID 1): carry out its section of the plan, start the command, reap, forward
 * signals. When init ends, for any reason, the kernel kills every other process of the view
 * (pid_namespaces(7)). */
#include "supervisor.h"

enum { ALL_OTHERS = -1 }; /* kill(2): init itself is PID 1 */

/* ---- steps ---------------------------------------------------------------------------------- */

static int attach(struct plan *plan, const struct argument *argument)
{
    int mount = slot_descriptor(plan, &argument[0]);
    if (mount < 0)
        return 0;
    slot_fill(plan, &argument[0], -1);
    return mount_attach(mount, argument[1].bytes);
}

static int carry_out(struct plan *plan, const struct record *record, struct covered_hosts *hosts,
                     int channel)
{
    const struct argument *argument = record->arguments;
    switch (record->step) {
    case STEP_CALL:
        return call(plan, argument);
    case STEP_OFFER:
        return offer(plan, argument, channel);
    case STEP_ATTACH_MOUNT:
        return attach(plan, argument);
    case STEP_SYMLINK:
        return make_symlink(argument[0].bytes, argument[1].bytes);
    case STEP_DIRECTORY:
        return make_directory(argument[0].bytes, (mode_t)argument[1].number);
    case STEP_COPY:
        return copy_all(plan, argument);
    case STEP_ATTACH_BINDS:
        return attach_binds(plan);
    case STEP_MASK:
        return mask(argument);
    case STEP_PROTECT_PATHS:
        return protect(argument);
    case STEP_COVER:
        return cover_file(argument);
    case STEP_HOSTS:
        return hosts_cover(hosts, argument[0].bytes, argument[1].bytes, argument[2].number);
    case STEP_RESTRICT_CAPABILITIES:
        return restrict_capabilities(argument[0].number);
    default: /* STEP_BIND: for STEP_ATTACH_BINDS */
        return 0;
    }
}

/* ---- after the steps ------------------------------------------------------------------------ */

/* Reap children and orphans until the command ends; its status. `with_grace`: SIGTERM is for every
 * process of the view. `messages`: a socket to the monitor, which is told whether the command is
 * stopped. */
static int reap_until(pid_t command, bool with_grace, int messages)
{
    const uint64_t watched = FORWARDED_SIGNALS | MASK(SIGCHLD) | MASK(SIGTSTP);
    for (;;) {
        siginfo_t info;
        int number = (int)syscall(SYS_rt_sigtimedwait, &watched, &info, NULL, sizeof watched);
        /* A sender outside the view has pid 0. The view's processes are in init's process group: a
         * signal from one of them to the group has reached the command already, and so has one of
         * the terminal (si_code SI_KERNEL, sigaction(2)). */
        if (number > 0 && number != SIGCHLD && info.si_code <= 0 && info.si_pid == 0)
            (void)kill(with_grace && number == SIGTERM ? ALL_OTHERS : command, number);
        if (number != SIGCHLD)
            continue;
        int found;
        for (pid_t one; (one = waitpid(-1, &found, WNOHANG | WUNTRACED | WCONTINUED)) > 0;) {
            bool stopped = WIFSTOPPED(found);
            if (one == command && !stopped && !WIFCONTINUED(found))
                return status_of(found);
            /* A monitor that is stopped already may have no room for it. */
            char kind = stopped ? MESSAGE_STOPPED : MESSAGE_CONTINUED;
            if (one == command)
                (void)send(messages, &kind, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
    }
}

/* Die when the monitor does. It may have died before the prctl(2), which its pidfd shows. */
static void end_with(int monitor)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (is_readable(monitor))
        _exit(EXIT_FAILURE);
}

static _Noreturn void give_up(const struct init_descriptors *descriptors)
{
    failure_write(descriptors->status);
    _exit(EXIT_FAILURE);
}

/* Forget what the command alone needs: init stays as long as the view. */
static void shrink(struct plan *plan, struct covered_hosts *hosts, bool keep, int messages)
{
    int kept[] = {keep ? hosts->cover : -1, keep ? hosts->below : -1, messages};
    if (!keep)
        free(hosts->contents);
    plan_forget(plan, SECTION_PLAN, SECTION_END);
    close_all_but(kept, sizeof kept / sizeof *kept);
}

_Noreturn void init_run(struct plan *plan, struct init_descriptors *descriptors)
{
    struct covered_hosts hosts = {.cover = -1, .below = -1};
    struct cursor cursor = plan->sections[SECTION_INIT];
    struct record record;
    bool keep = false, with_grace = plan_find(plan, SECTION_PLAN, STEP_GRACE);
    end_with(descriptors->monitor);
    while (plan_next(&cursor, &record)) {
        if (carry_out(plan, &record, &hosts, descriptors->messages) < 0)
            give_up(descriptors);
        if (record.step == STEP_UNLESS && slot_descriptor(plan, &record.arguments[0]) >= 0)
            for (uint64_t left = record.arguments[1].number; left; left--)
                (void)plan_next(&cursor, &record);
        if (record.step == STEP_HOSTS)
            keep = record.arguments[2].number && hosts.cover >= 0;
    }
    end_with(descriptors->monitor); /* a new user namespace has reset it */
    pid_t command = fork();
    if (command < 0) {
        (void)fail("PROCESS", "");
        give_up(descriptors);
    }
    if (command == 0) {
        close(descriptors->gate[1]);
        /* The parent sees end of file in the status pipe before another process can see the command
         * running: this process waits at the gate until it alone holds the pipe. Each holder closes
         * the status pipe before its copy of the gate. All else is close-on-exec. */
        while (read(descriptors->gate[0], &(char){0}, 1) < 0 && errno == EINTR)
            continue;
        (void)command_execute(plan, descriptors->messages);
        give_up(descriptors);
    }
    /* Where the command needs capabilities to install its filter, it restricts its own. */
    const struct argument *kept = plan_find(plan, SECTION_COMMAND, STEP_RESTRICT_CAPABILITIES);
    if (kept && restrict_capabilities(kept->number) < 0)
        give_up(descriptors);
    /* No process of the view may read this memory (ptrace(2)). */
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    /* Before the gate opens. */
    close(descriptors->status);
    shrink(plan, &hosts, keep, descriptors->messages);
    int status = reap_until(command, with_grace, descriptors->messages);
    if (keep)
        hosts_write_back(&hosts);
    _exit(status);
}
