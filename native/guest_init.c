/* The init of a guest: carries out a plan made by Python (machine/plan.py) up to the root of the
 * guest, runs the program there that does the rest (machine/inside.py), and powers off.
 *
 * The plan is the file /plan of the initramfs. Its section "init" has system calls, and the steps
 *
 *     until          read the events of a descriptor until a path is there
 *     run            run a program; the last step
 *     guest_session  run the command of the section "command" (guest_session.c); the last step
 *
 * The console is the standard streams; the plan replaces standard output, on which the result is a
 * line of the program's, or this one:
 *
 *     failed ERRNO STEP SUBJECT     a step failed
 */
#include "supervisor.h"

#include <linux/reboot.h>
#include <sys/reboot.h>

#define PLAN "/plan"

/* ---- steps: each returns 0, or -1 with the failure recorded ---------------------------------- */

/* The kernel makes device nodes some time after their driver is loaded. */
int guest_await_node(int events, const char *path)
{
    char event[4096];
    while (access(path, F_OK) < 0)
        if (errno != ENOENT || read(events, event, sizeof event) < 0)
            return fail("wait", path);
    return 0;
}

/* Run the program, which says itself how it ends, and reap what it and its children leave. */
static int run_program(const struct argument *arguments)
{
    char **argv = list_vector(arguments, 0);
    int status = 0;
    pid_t program = argv ? fork() : -1, ended;
    if (program == 0) {
        (void)execv(argv[0], argv);
        _exit(errno);
    }
    while (program < 0 || (ended = wait(&status)) != program)
        if (program < 0 || ended < 0)
            return fail("run", arguments->bytes);
    int error = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
    return error ? fail_with("run", error, arguments->bytes) : 0;
}

static int carry_out(struct plan *plan, const struct record *record)
{
    const struct argument *argument = record->arguments;
    switch (record->step) {
    case STEP_CALL:
        return call(plan, argument);
    case STEP_UNTIL:
        return guest_await_node(slot_descriptor(plan, &argument[0]), argument[1].bytes);
    case STEP_RUN:
        return run_program(argument);
    default: /* STEP_GUEST_SESSION */
        return guest_session(plan, argument);
    }
}

int guest_carry_out(int file)
{
    static struct plan plan;
    const char *refusal;
    struct record record;
    plan = (struct plan){0}; /* of another command: init's is still there */
    if (plan_read(&plan, file, &refusal) < 0)
        return fail_with("plan", EINVAL, refusal);
    for (struct cursor cursor = plan.sections[SECTION_INIT]; plan_next(&cursor, &record);)
        if (carry_out(&plan, &record) < 0)
            return -1;
    return 0;
}

int main(void)
{
    if (getpid() != 1)
        return EXIT_FAILURE;
    (void)umask(0);
    /* In the command's session, but not in its process group: an orphaned group ignores SIGTSTP. */
    (void)setsid();
    if (guest_carry_out(open(PLAN, O_RDONLY | O_CLOEXEC)) < 0)
        guest_say_failure();
    (void)fflush(stdout);
    (void)kill(-1, SIGKILL); /* all but this process */
    sync();
    (void)reboot(RB_AUTOBOOT); /* QEMU ends, with -no-reboot: sooner than a power-off */
    return EXIT_FAILURE;       /* the kernel panics */
}
