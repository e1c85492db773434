/* The init of a guest: carries out a plan made by Python (machine/plan.py) up to the root of the
 * guest, runs the program there that does the rest (machine/inside.py), and powers off.
 *
 * The plan is the file /plan of the initramfs. It holds words, each with a NUL after it: the name
 * of a step and its arguments, step after step. After the step "run" all words are the program's.
 * The console is the standard streams; the step "status" replaces standard output, on which the
 * result is a line of the program's, or one of these:
 *
 *     exited 0                 nothing was to be run: a trial boot
 *     failed ERRNO STEP WORD   a step failed; WORD is its first argument
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PLAN "/plan"

enum {
    LONGEST_PLAN = 1 << 20,
    MOST_WORDS = 4096, /* of a step */
};

static char plan[LONGEST_PLAN];
static size_t plan_size;

/* ---- steps: each returns 0, or -1 with errno set -------------------------------------------- */

static int
load_module(char **words)
{
    int descriptor = open(words[0], O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return -1;
    int result = (int)syscall(SYS_finit_module, descriptor, "", 0);
    close(descriptor);
    return result < 0 && errno == EEXIST ? 0 : result;
}

/* The kernel makes device nodes some time after their driver is loaded. */
static int
wait_for_node(char **words)
{
    char directory[256], events[4096];
    const char *slash = strrchr(words[0], '/');
    if (!slash || slash == words[0] || slash - words[0] >= (ptrdiff_t)sizeof directory) {
        errno = EINVAL;
        return -1;
    }
    (void)snprintf(directory, sizeof directory, "%.*s", (int)(slash - words[0]), words[0]);
    int watch = inotify_init1(IN_CLOEXEC);
    if (watch < 0 || inotify_add_watch(watch, directory, IN_CREATE) < 0)
        return -1;
    while (access(words[0], F_OK) < 0)
        if (errno != ENOENT || read(watch, events, sizeof events) < 0)
            return -1;
    return close(watch);
}

static int
make_directory(char **words)
{
    mode_t mode = (mode_t)strtoul(words[1], NULL, 8);
    return mkdir(words[0], mode) < 0 && errno != EEXIST ? -1 : chmod(words[0], mode);
}

/* mount TARGET SOURCE TYPE FLAGS DATA */
static int
mount_file_system(char **words)
{
    return mount(words[1], words[0], words[2], strtoul(words[3], NULL, 10), words[4]);
}

/* The initramfs cannot be the argument of pivot_root(2): the new root is moved over it. */
static int
switch_root(char **words)
{
    if (chdir(words[0]) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
        return -1;
    return chdir("/");
}

static int
open_status(char **words)
{
    int descriptor = open(words[0], O_WRONLY | O_CLOEXEC);
    return descriptor < 0 || dup2(descriptor, STDOUT_FILENO) < 0 ? -1 : close(descriptor);
}

/* Run the program, which says itself how it ends, and reap what it and its children leave. */
static int
run(char **words)
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

static const struct step {
    const char *name;
    int words;
    int (*carry_out)(char **words);
} STEPS[] = {
    {"module", 1, load_module},      {"wait", 1, wait_for_node}, {"directory", 2, make_directory},
    {"mount", 5, mount_file_system}, {"root", 1, switch_root},   {"status", 1, open_status},
    {"run", MOST_WORDS - 1, run},
};

/* ---- the plan ------------------------------------------------------------------------------- */

static int
read_plan(void)
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

static const struct step *
find_step(const char *name)
{
    for (size_t at = 0; at < sizeof STEPS / sizeof *STEPS; at++)
        if (!strcmp(STEPS[at].name, name))
            return &STEPS[at];
    return NULL;
}

/* Put up to `most` words from `word` on, and then NULL, into `words`. Returns what follows. */
static char *
take_words(char *word, char **words, int most)
{
    int count = 0;
    for (; count < most && word < plan + plan_size; word += strlen(word) + 1)
        words[count++] = word;
    words[count] = NULL;
    return word;
}

static void
carry_out_plan(void)
{
    static char *words[MOST_WORDS];
    const char *name = NULL;
    for (char *word = plan; word < plan + plan_size;) {
        name = word;
        const struct step *step = find_step(name);
        word = take_words(word + strlen(word) + 1, words, step ? step->words : 0);
        errno = EINVAL;
        if (!step || !words[0] || step->carry_out(words) < 0) {
            (void)printf("failed %d %s %s\n", errno, name, words[0] ? words[0] : "");
            return;
        }
    }
    if (!name || strcmp(name, "run"))
        (void)puts("exited 0"); /* a trial boot */
}

int
main(void)
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
    (void)reboot(RB_POWER_OFF);
    return EXIT_FAILURE; /* the kernel panics */
}
