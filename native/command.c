/* The command: what a new fork of init sets before execve(2). */
#include "supervisor.h"

#define LISTEN_PID "LISTEN_PID="

/* Pass the sockets that the launcher was passed on to the command (sd_listen_fds(3)): a program
 * uses them only if LISTEN_PID is its own process id. */
static void take_sockets_over(char **environment)
{
    static char entry[sizeof LISTEN_PID + 12];
    (void)snprintf(entry, sizeof entry, LISTEN_PID "%d", (int)getpid());
    for (; *environment; environment++)
        if (!strncmp(*environment, LISTEN_PID, sizeof LISTEN_PID - 1))
            *environment = entry;
}

/* execve(2) the first candidate that can be executed, as execvp(3) does. Entries that may not be
 * executed are skipped. */
static int execute(const struct argument *arguments)
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

static int carry_out(struct plan *plan, const struct record *record, int messages)
{
    const struct argument *argument = record->arguments;
    switch (record->step) {
    case STEP_BLOCKED:
        block_signals(SIG_SETMASK, argument[0].number);
        return 0;
    case STEP_IGNORED:
        ignore_signals(argument[0].number);
        return 0;
    case STEP_CALL:
        return call(plan, argument);
    case STEP_OFFER:
        return offer(plan, argument, messages);
    case STEP_RESTRICT_CAPABILITIES:
        return restrict_capabilities(argument[0].number);
    case STEP_BOUND_CAPABILITIES:
        return bound_capabilities(argument[0].number);
    case STEP_DROP_CAPABILITIES:
        (void)set_capabilities(argument[0].number);
        return 0;
    case STEP_EXEC:
        return execute(argument);
    default:
        return 0;
    }
}

int command_execute(struct plan *plan, int messages)
{
    struct cursor cursor = plan->sections[SECTION_COMMAND];
    struct record record;
    while (plan_next(&cursor, &record))
        if (carry_out(plan, &record, messages) < 0)
            break;
    return -1;
}
