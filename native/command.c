/* The command: what a new fork of init sets before execve(2). */
#include "supervisor.h"

#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>

#define LISTEN_PID "LISTEN_PID="

/* Pass the sockets that the launcher was passed on to the command (sd_listen_fds(3)): a program
 * uses them only if LISTEN_PID is its own process id. */
static void
take_sockets_over(char **environment)
{
    static char entry[sizeof LISTEN_PID + 12];
    (void)snprintf(entry, sizeof entry, LISTEN_PID "%d", (int)getpid());
    for (; *environment; environment++)
        if (!strncmp(*environment, LISTEN_PID, sizeof LISTEN_PID - 1))
            *environment = entry;
}

/* execve(2) the first candidate that can be executed, as execvp(3) does. Entries that may not be
 * executed are skipped. */
static int
execute(const struct argument *arguments)
{
    char **argv = list_vector(&arguments[0], 0), **environment = list_vector(&arguments[1], 0);
    const char *forbidden = NULL;
    struct stat st;
    if (!argv || !environment)
        return fail("PROCESS", "");
    if (arguments[3].number)
        take_sockets_over(environment);
    for (const char *path = NULL; (path = list_next(&arguments[2], path));) {
        (void)execve(path, argv, environment);
        switch (errno) {
        case ENOENT:
        case ENOTDIR:
            if (stat(path, &st) == 0) /* its interpreter is missing */
                return fail_with("EXECUTE", ENOENT, path);
            break;
        case EACCES:
        case EPERM:
            /* If it is not visible, the directory may not be searched: the same as a missing
             * entry. */
            if (!forbidden && lstat(path, &st) == 0)
                forbidden = path;
            break;
        default:
            return fail("EXECUTE", path);
        }
    }
    return forbidden ? fail_with("EXECUTE", EACCES, forbidden)
                     : fail_with("LOOKUP", ENOENT, argv[0]);
}

static int
become(const struct argument *arguments)
{
    uid_t user = (uid_t)arguments[0].number;
    gid_t group = (gid_t)arguments[1].number;
    uint64_t groups = arguments[2].number, kept = arguments[3].number;
    const struct argument *list = &arguments[4];
    char subject[24];
    if (groups != PLAN_GROUPS_KEPT &&
        setgroups(list->length / sizeof(gid_t), (const void *)list->bytes) < 0 &&
        !(groups == PLAN_GROUPS_SET_IF_PERMITTED && errno == EPERM))
        return fail("SUPPLEMENTARY", "");
    (void)snprintf(subject, sizeof subject, "%u:%u", user, group);
    /* Bounded before the change of user, with which a user other than root loses CAP_SETPCAP. */
    if (setresgid(group, group, group) < 0)
        return fail("USER", subject);
    if (bound_capabilities(kept) < 0)
        return fail("CAPABILITIES", "");
    if (setresuid(user, user, user) < 0)
        return fail("USER", subject);
    (void)set_capabilities(kept);
    return 0;
}

/* Make the slave the controlling terminal and the standard streams of this session's leader. */
static int
take_pty(int slave)
{
    if (ioctl(slave, TIOCSCTTY, 0) < 0)
        return fail("TERMINAL", "/dev/console");
    for (int descriptor = 0; descriptor < 3; descriptor++)
        if (dup2(slave, descriptor) < 0)
            return fail("TERMINAL", "/dev/console");
    return 0;
}

/* Become the leader of a new session, with the view's terminal if it has one. */
static int
begin_session(bool with_pty, int slave)
{
    if (setsid() < 0)
        return fail("PROCESS", "");
    return with_pty ? take_pty(slave) : 0;
}

/* Keep the process and its descendants from abstract sockets of others (Landlock). A kernel without
 * that is no failure. Returns -1 with errno set. */
static int
scope_sockets(void)
{
    /* struct landlock_ruleset_attr since Linux 6.12, with LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET. */
    const struct {
        uint64_t files, network, scoped;
    } attributes = {.scoped = 1};
    int rules = (int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
    if (rules < 0) /* E2BIG: older; EOPNOTSUPP: not enabled; EPERM: refused by an outer filter */
        return errno == E2BIG || errno == ENOSYS || errno == EOPNOTSUPP || errno == EPERM ? 0 : -1;
    int result = (int)syscall(SYS_landlock_restrict_self, rules, 0);
    close_keeping_errno(rules);
    return result;
}

/* Returns -1 with errno set: EACCES without no_new_privs and CAP_SYS_ADMIN. */
static int
install_filter(const struct argument *instructions)
{
    struct sock_fprog program = {
        .len = (unsigned short)(instructions->length / sizeof(struct sock_filter)),
        .filter = (struct sock_filter *)(uintptr_t)instructions->bytes};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

static int
carry_out(const struct plan *plan, const struct record *record, int slave)
{
    const struct argument *argument = record->arguments;
    switch (record->step) {
    case STEP_BLOCKED:
        block_signals(argument[0].number, NULL);
        return 0;
    case STEP_IGNORED:
        ignore_signals(argument[0].number);
        return 0;
    case STEP_STANDARD:
        return dup2(slot_descriptor(plan, &argument[1]), (int)argument[0].number) < 0
                   ? fail("PROCESS", "")
                   : 0;
    case STEP_CLOSE_STANDARD:
        for (int descriptor = 0; descriptor < 3; descriptor++)
            if (argument[0].number >> descriptor & 1)
                close(descriptor);
        return 0;
    case STEP_PASS:
        return fcntl(slot_descriptor(plan, &argument[0]), F_SETFD, 0) < 0 ? fail("PROCESS", "") : 0;
    case STEP_SESSION:
        return begin_session(argument[0].number, slave);
    case STEP_NO_NEW_PRIVS:
        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? fail("NO_NEW_PRIVS", "") : 0;
    case STEP_SCOPE_SOCKETS:
        return scope_sockets() < 0 ? fail("SCOPE", "") : 0;
    case STEP_SECCOMP:
        return install_filter(argument) < 0 ? fail("SECCOMP", "") : 0;
    case STEP_RESTRICT_CAPABILITIES:
        return restrict_capabilities(argument[0].number) < 0 ? fail("CAPABILITIES", "") : 0;
    case STEP_LIMIT:
        return set_limit(argument);
    case STEP_USER:
        return become(argument);
    case STEP_EXEC:
        return execute(argument);
    default:
        return 0;
    }
}

/* The parent sees end of file in the status pipe before another process can see the command
 * running: this process waits at the gate until it alone holds the pipe. Each holder closes the
 * status pipe before its copy of the gate. Every other descriptor is close-on-exec. */
int
command_execute(const struct plan *plan, const struct init_descriptors *descriptors)
{
    struct cursor cursor = plan->sections[SECTION_COMMAND];
    struct record record;
    char none;
    ssize_t count;
    do
        count = read(descriptors->gate[0], &none, 1);
    while (count < 0 && errno == EINTR);
    while (plan_next(&cursor, &record))
        if (carry_out(plan, &record, descriptors->slave) < 0)
            break;
    return -1;
}
