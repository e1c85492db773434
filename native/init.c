/* The init of a view (PID 1): carry out its section of the plan, start the command, reap, forward
 * signals. When init ends, for any reason, the kernel kills every other process of the view
 * (pid_namespaces(7)). */
#include "supervisor.h"

#include <linux/keyctl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

enum { ALL_OTHERS = -1 }; /* kill(2): init itself is PID 1 */

/* ---- steps ---------------------------------------------------------------------------------- */

/* Bring up the loopback interface of this network namespace; the kernel assigns its addresses. */
static int
raise_loopback(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int any_socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (any_socket < 0 || ioctl(any_socket, SIOCSIFFLAGS, &request) < 0)
        return fail("LOOPBACK", "");
    close(any_socket);
    return 0;
}

/* Carry out STEP_FRESH or STEP_CLONE. */
static int
make_mount(struct plan *plan, const struct record *record)
{
    const struct argument *argument = record->arguments;
    bool fresh = record->step == STEP_FRESH;
    uint64_t flags = argument[fresh ? 4 : 5].number;
    if (flags & PLAN_UNLESS_FILLED && slot_descriptor(plan, &argument[0]) >= 0)
        return 0;
    struct mount_attr attributes = {.attr_set = argument[2].number,
                                    .attr_clr = argument[3].number,
                                    .propagation = argument[4].number};
    bool changes = attributes.attr_set | attributes.attr_clr | attributes.propagation;
    int mount = fresh ? mount_fresh(argument[1].bytes, (unsigned)argument[2].number, &argument[3])
                      : mount_clone(argument[1].bytes, changes ? &attributes : NULL);
    const struct argument *failure = &argument[fresh ? 5 : 6];
    if (mount >= 0)
        slot_fill(plan, &argument[0], mount);
    else if (!(flags & PLAN_OPTIONAL || (flags & PLAN_OPTIONAL_IF_EPERM && errno == EPERM) ||
               (flags & PLAN_OPTIONAL_IF_ENOENT && errno == ENOENT)))
        return fail(failure[0].bytes, failure[1].bytes);
    return 0;
}

static int
make_root(struct plan *plan, const struct argument *slots)
{
    int mounts[4];
    for (int at = 0; at < 4; at++) {
        mounts[at] = slot_descriptor(plan, &slots[at]);
        slot_fill(plan, &slots[at], -1);
    }
    return mount_root(mounts[0], mounts[1], mounts[2], mounts[3]) < 0 ? fail("ROOT", "") : 0;
}

static int
attach(struct plan *plan, const struct argument *argument)
{
    struct stat st;
    int mount = slot_descriptor(plan, &argument[0]);
    if (mount < 0)
        return 0;
    slot_fill(plan, &argument[0], -1);
    if (argument[2].number & PLAN_IF_TARGET_EXISTS && stat(argument[1].bytes, &st) < 0)
        return close(mount);
    return mount_attach(mount, argument[1].bytes);
}

/* In a view of a view a filter refuses it (EPERM): the name is the outer one's. */
static int
set_hostname(const char *name)
{
    return sethostname(name, strlen(name)) < 0 && errno != EPERM ? fail("HOSTNAME", name) : 0;
}

/* Leave the caller's session keyring for a new one (keyrings(7)). A kernel without keys, or a
 * filter that refuses keyctl(2) to the command as well, is no failure. Returns -1 with errno set.
 */
static int
join_session_keyring(void)
{
    if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) >= 0)
        return 0;
    return errno == ENOSYS || errno == EPERM ? 0 : -1;
}

static int
change_directory(const char *path, bool required)
{
    if (chdir(path) == 0)
        return 0;
    if (required)
        return fail("DIRECTORY", path);
    return chdir("/") < 0 ? fail("DIRECTORY", "/") : 0;
}

static const char PTMX[] = "/dev/pts/ptmx";

/* Let /dev/console be the terminal, too: the mountpoint is an empty file. */
static int
cover_console(int master)
{
    unsigned number;
    char path[sizeof "/dev/pts/" + 10];
    if (ioctl(master, TIOCGPTN, &number) < 0)
        return fail("TERMINAL", PTMX);
    (void)snprintf(path, sizeof path, "/dev/pts/%u", number);
    int mount = mount_clone(path, NULL);
    return mount < 0 ? fail("TERMINAL", path) : mount_attach(mount, "/dev/console");
}

/* Make a pty of the view's devpts, send its master over `channel`, put its slave into `*slave`, and
 * leave the caller's session. */
static int
open_pty(const struct record *step, int channel, int *slave)
{
    uid_t owner = (uid_t)step->arguments[0].number;
    int unlock = 0, master = open(PTMX, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock) < 0 ||
        (*slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0 ||
        fchown(*slave, owner, (gid_t)-1) < 0)
        return fail("TERMINAL", PTMX);
    if (step->arguments[1].number && cover_console(master) < 0)
        return -1;
    /* Out of the caller's session: its signals reach the monitor alone, which forwards them. */
    (void)setsid();
    if (message_send(channel, MESSAGE_TERMINAL, &master, 1) < 0)
        return fail("TERMINAL", PTMX);
    close(master);
    return 0;
}

static int
carry_out(struct plan *plan, const struct record *record, struct covered_hosts *hosts)
{
    const struct argument *argument = record->arguments;
    switch (record->step) {
    case STEP_SETNS:
        return setns(slot_descriptor(plan, &argument[0]), (int)argument[1].number) < 0
                   ? fail("NAMESPACES", "")
                   : 0;
    case STEP_JOIN_CGROUP:
        return write(slot_descriptor(plan, &argument[0]), "0", 1) < 0 ? fail("CGROUP", "") : 0;
    case STEP_UNSHARE:
        return unshare((int)argument[0].number) < 0 ? fail("NAMESPACES", "") : 0;
    case STEP_PRIVATE_MOUNTS:
        return syscall(SYS_mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0
                   ? fail("NAMESPACES", "")
                   : 0;
    case STEP_HOSTNAME:
        return set_hostname(argument[0].bytes);
    case STEP_LOOPBACK:
        return raise_loopback();
    case STEP_UMASK:
        umask((mode_t)argument[0].number);
        return 0;
    case STEP_FRESH:
    case STEP_CLONE:
        return make_mount(plan, record);
    case STEP_ROOT:
        return make_root(plan, argument);
    case STEP_ATTACH:
        return attach(plan, argument);
    case STEP_SYMLINK:
        return make_symlink(argument[0].bytes, argument[1].bytes) < 0
                   ? fail("SYMLINK", argument[1].bytes)
                   : 0;
    case STEP_DIRECTORY:
        return make_directory(argument[0].bytes, (mode_t)argument[1].number) < 0
                   ? fail("CONTENTS", argument[0].bytes)
                   : 0;
    case STEP_DATA:
        slot_fill(plan, &argument[0], data_mount(plan, argument));
        return slot_descriptor(plan, &argument[0]) < 0 ? -1 : 0;
    case STEP_ATTACH_BINDS:
        return attach_binds(plan);
    case STEP_HIDE:
        return hide(&argument[0]);
    case STEP_PROTECT:
        return protect(argument);
    case STEP_COVER:
        return cover_file(argument);
    case STEP_HOSTS:
        return hosts_cover(hosts, argument[0].bytes, argument[1].bytes, argument[2].number);
    case STEP_CHDIR:
        return change_directory(argument[0].bytes, argument[1].number);
    case STEP_SESSION_KEYRING:
        return join_session_keyring() < 0 ? fail("KEYRING", "") : 0;
    case STEP_LIMIT:
        return set_limit(argument);
    case STEP_RESTRICT_CAPABILITIES:
        return restrict_capabilities(argument[0].number) < 0 ? fail("CAPABILITIES", "") : 0;
    default: /* STEP_BIND: for STEP_ATTACH_BINDS; STEP_OFFER_NAMESPACES: after all others; STEP_PTY
              */
        return 0;
    }
}

/* ---- after the steps ------------------------------------------------------------------------ */

/* Reap children and orphans until the command ends; its status. `with_grace`: SIGTERM is for every
 * process of the view. `messages`: a socket to the monitor, which is told whether the command is
 * stopped. */
static int
reap_until(pid_t command, bool with_grace, int messages)
{
    sigset_t watched = forwarded_signals();
    sigaddset(&watched, SIGCHLD);
    sigaddset(&watched, SIGTSTP);
    for (;;) {
        siginfo_t info;
        int number = sigwaitinfo(&watched, &info);
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

/* The namespaces that the monitor is not in, as descriptors that it holds. A command that joins the
 * view (namespace/join.py) finds them below /proc/PID/fd of the monitor. It cannot look them up at
 * init, which is not dumpable (ptrace(2)), nor at the command, which may have entered others. */
static int
offer_namespaces(int channel)
{
    static const char *const files[OFFERED_NAMESPACES] = {
        "/proc/self/ns/mnt", "/proc/self/ns/uts", "/proc/self/ns/ipc", "/proc/self/ns/cgroup"};
    int descriptors[OFFERED_NAMESPACES];
    for (size_t at = 0; at < OFFERED_NAMESPACES; at++)
        if ((descriptors[at] = open(files[at], O_RDONLY | O_CLOEXEC)) < 0)
            return fail("NAMESPACES", files[at]);
    if (message_send(channel, MESSAGE_NAMESPACES, descriptors, OFFERED_NAMESPACES) < 0)
        return fail("NAMESPACES", "");
    for (size_t at = 0; at < OFFERED_NAMESPACES; at++)
        close(descriptors[at]);
    return 0;
}

/* Die when the monitor does. It may have died before the prctl(2), which its pidfd shows. */
static void
end_with(int monitor)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (is_readable(monitor))
        _exit(EXIT_FAILURE);
}

static _Noreturn void
give_up(const struct init_descriptors *descriptors)
{
    failure_write(descriptors->status);
    _exit(EXIT_FAILURE);
}

/* Forget what the command alone needs: init stays as long as the view. */
static void
shrink(struct plan *plan, struct covered_hosts *hosts, bool keep, int messages)
{
    int kept[] = {keep ? hosts->cover : -1, keep ? hosts->below : -1, messages};
    if (!keep)
        free(hosts->contents);
    plan_forget(plan, SECTION_PLAN, SECTION_END);
    close_all_but(kept, sizeof kept / sizeof *kept);
}

_Noreturn void
init_run(struct plan *plan, struct init_descriptors *descriptors)
{
    struct covered_hosts hosts = {.cover = -1, .below = -1};
    struct cursor cursor = plan->sections[SECTION_INIT];
    struct record record;
    bool keep = false, offers = false, with_grace = plan_find(plan, SECTION_PLAN, STEP_GRACE);
    end_with(descriptors->monitor);
    while (plan_next(&cursor, &record)) {
        if (carry_out(plan, &record, &hosts) < 0)
            give_up(descriptors);
        if (record.step == STEP_PTY &&
            open_pty(&record, descriptors->messages, &descriptors->slave) < 0)
            give_up(descriptors);
        offers |= record.step == STEP_OFFER_NAMESPACES;
        if (record.step == STEP_HOSTS)
            keep = record.arguments[2].number && hosts.cover >= 0;
    }
    if (offers && offer_namespaces(descriptors->messages) < 0)
        give_up(descriptors);
    end_with(descriptors->monitor); /* a new user namespace has reset it */
    pid_t command = fork();
    if (command < 0) {
        (void)fail("PROCESS", "");
        give_up(descriptors);
    }
    if (command == 0) {
        close(descriptors->gate[1]);
        (void)command_execute(plan, descriptors);
        give_up(descriptors);
    }
    /* Where the command needs capabilities to install its filter, it restricts its own. */
    const struct argument *kept = plan_find(plan, SECTION_COMMAND, STEP_RESTRICT_CAPABILITIES);
    if (kept && restrict_capabilities(kept->number) < 0) {
        (void)fail("CAPABILITIES", "");
        give_up(descriptors);
    }
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
