/* The init of a guest: carries out a plan made by Python (machine/plan.py), runs one command and
 * powers off.
 *
 * The plan is the file /plan of the initramfs. It holds words, each with a NUL after it: the name
 * of a step and its arguments, step after step. After the step "run" all words are the command's.
 * The command's output goes to the file of the step "output"; the result goes to that of "status"
 * as one line:
 *
 *     exited STATUS            the command's exit status
 *     killed SIGNAL            the signal that ended it
 *     full                     before it: the file system of the step "disk" has no space left
 *     failed ERRNO STEP WORD   a step failed; WORD is its first argument
 *
 * Before "status" is carried out, the line goes to the console. */
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PLAN "/plan"

enum {
    LONGEST_PLAN = 1 << 20,
    LONGEST_COMMAND = 4096, /* words */
    NOT_STARTED = 127,
    SPARE_BYTES = 1 << 20, /* with less, the disk counts as full */
};

static char plan[LONGEST_PLAN];
static size_t plan_size;

static struct {
    int output, status, disk; /* -1 before their steps */
    char *environment[LONGEST_COMMAND];
    size_t variables;
} guest = {.output = -1, .status = -1, .disk = -1};

/* ---- the end -------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2))) static void
report(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vdprintf(guest.status >= 0 ? guest.status : STDERR_FILENO, format, arguments);
    va_end(arguments);
}

__attribute__((noreturn)) static void
power_off(void)
{
    (void)kill(-1, SIGKILL); /* all but this process */
    sync();
    (void)reboot(RB_POWER_OFF);
    _exit(EXIT_FAILURE); /* the kernel panics */
}

static void
report_full_disk(void)
{
    struct statvfs st;
    if (guest.disk >= 0 && fstatvfs(guest.disk, &st) == 0 &&
        st.f_bavail * st.f_frsize < SPARE_BYTES)
        report("full\n");
}

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
    if (mkdir(words[0], mode) < 0 && errno != EEXIST)
        return -1;
    return chmod(words[0], mode);
}

static int
make_link(char **words)
{
    return symlink(words[1], words[0]) < 0 && errno != EEXIST ? -1 : 0;
}

static int
change_mode(char **words)
{
    return chmod(words[0], (mode_t)strtoul(words[1], NULL, 8));
}

/* mount TARGET SOURCE TYPE FLAGS DATA */
static int
mount_file_system(char **words)
{
    return mount(words[1], words[0], words[2], strtoul(words[3], NULL, 10), words[4]);
}

static int
write_file(char **words)
{
    size_t size = strlen(words[1]);
    int descriptor = open(words[0], O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor < 0)
        return -1;
    ssize_t count = write(descriptor, words[1], size);
    close(descriptor);
    return count == (ssize_t)size ? 0 : -1;
}

static int
raise_loopback(char **words)
{
    struct ifreq request = {.ifr_flags = IFF_UP | IFF_RUNNING};
    (void)words;
    (void)snprintf(request.ifr_name, sizeof request.ifr_name, "lo");
    int network = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (network < 0)
        return -1;
    int result = ioctl(network, SIOCSIFFLAGS, &request);
    close(network);
    return result;
}

static int
set_hostname(char **words)
{
    return sethostname(words[0], strlen(words[0]));
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
enter_directory(char **words)
{
    return chdir(words[0]);
}

static int
set_variable(char **words)
{
    if (guest.variables + 1 == LONGEST_COMMAND) {
        errno = E2BIG;
        return -1;
    }
    guest.environment[guest.variables++] = words[0];
    return 0;
}

static int
open_output(char **words)
{
    guest.output = open(words[0], O_WRONLY | O_CLOEXEC);
    return guest.output < 0 ? -1 : 0;
}

static int
open_status(char **words)
{
    guest.status = open(words[0], O_WRONLY | O_CLOEXEC);
    return guest.status < 0 ? -1 : 0;
}

/* Its path ends with the step "root". */
static int
open_disk(char **words)
{
    guest.disk = open(words[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return guest.disk < 0 ? -1 : 0;
}

static const struct step {
    const char *name;
    int words;
    int (*carry_out)(char **words);
} STEPS[] = {
    {"module", 1, load_module}, {"wait", 1, wait_for_node},      {"directory", 2, make_directory},
    {"link", 2, make_link},     {"mode", 2, change_mode},        {"mount", 5, mount_file_system},
    {"write", 2, write_file},   {"loopback", 0, raise_loopback}, {"hostname", 1, set_hostname},
    {"root", 1, switch_root},   {"enter", 1, enter_directory},   {"environment", 1, set_variable},
    {"output", 1, open_output}, {"status", 1, open_status},      {"disk", 1, open_disk},
};

/* ---- the command ---------------------------------------------------------------------------- */

static void
become_command(char **words, int output)
{
    int nothing = open("/dev/null", O_RDONLY);
    if (setpgid(0, 0) < 0 || nothing < 0 || dup2(nothing, STDIN_FILENO) < 0 ||
        dup2(output, STDOUT_FILENO) < 0 || dup2(output, STDERR_FILENO) < 0)
        _exit(NOT_STARTED);
    close(nothing);
    environ = guest.environment;
    (void)execvp(words[0], words);
    (void)dprintf(STDERR_FILENO, "%s: %s\n", words[0], strerror(errno));
    _exit(NOT_STARTED);
}

static void
write_output(const char *bytes, ssize_t count)
{
    while (count > 0) {
        ssize_t written = guest.output < 0 ? count : write(guest.output, bytes, (size_t)count);
        if (written < 0 && errno != EINTR)
            return;
        if (written > 0) {
            bytes += written;
            count -= written;
        }
    }
}

/* Reap all children. Returns true once the command has ended, with its status in *status. */
static bool
reap(pid_t command, int *status)
{
    pid_t ended;
    int how;
    bool found = false;
    while ((ended = waitpid(-1, &how, WNOHANG)) > 0)
        if (ended == command) {
            *status = how;
            found = true;
        }
    return found;
}

static void
ignore_nothing(int number)
{
    (void)number; /* ppoll(2) returns */
}

/* A virtio port can be opened once only, so the command writes into a pipe. Processes that outlive
 * the command may hold the pipe: what the command wrote is read, then the guest ends. */
static int
run(char **words, int *status)
{
    static char bytes[1 << 16];
    struct sigaction action = {.sa_handler = ignore_nothing};
    sigset_t child, before;
    int output[2];
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    if (pipe2(output, O_CLOEXEC | O_NONBLOCK) < 0 || sigaction(SIGCHLD, &action, NULL) < 0 ||
        sigprocmask(SIG_BLOCK, &child, &before) < 0)
        return -1;
    pid_t command = fork();
    if (command < 0)
        return -1;
    if (command == 0) {
        (void)sigprocmask(SIG_SETMASK, &before, NULL);
        (void)fcntl(output[1], F_SETFL, 0);
        become_command(words, output[1]);
    }
    (void)fcntl(output[0], F_SETFL, O_NONBLOCK);
    close(output[1]);
    for (bool ended = false;;) {
        struct pollfd readable = {.fd = output[0], .events = POLLIN};
        ended = ended || reap(command, status);
        ssize_t count = read(output[0], bytes, sizeof bytes);
        if (count > 0)
            write_output(bytes, count);
        else if (ended)
            return 0;
        else if (count == 0) /* every holder of the pipe has closed it */
            (void)ppoll(NULL, 0, NULL, &before);
        else
            (void)ppoll(&readable, 1, NULL, &before);
    }
}

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

/* The word after `word`; NULL at the end of the plan. */
static char *
next_word(char *word)
{
    word += strlen(word) + 1;
    return word < plan + plan_size ? word : NULL;
}

static const struct step *
find_step(const char *name)
{
    for (size_t at = 0; at < sizeof STEPS / sizeof *STEPS; at++)
        if (!strcmp(STEPS[at].name, name))
            return &STEPS[at];
    return NULL;
}

/* Take `count` words after *word, which becomes the last of them. */
static int
take_words(char **word, char **words, int count)
{
    for (int at = 0; at < count; at++) {
        words[at] = next_word(*word);
        if (!words[at]) {
            errno = EINVAL;
            return -1;
        }
        *word = words[at];
    }
    return 0;
}

static void
run_and_report(char *word)
{
    static char *words[LONGEST_COMMAND];
    int count = 0, status = 0;
    for (word = next_word(word); word && count + 1 < LONGEST_COMMAND; word = next_word(word))
        words[count++] = word;
    if (!count || run(words, &status) < 0) {
        report("failed %d run %s\n", count ? errno : EINVAL, count ? words[0] : "");
        return;
    }
    report_full_disk();
    if (WIFSIGNALED(status))
        report("killed %d\n", WTERMSIG(status));
    else
        report("exited %d\n", WEXITSTATUS(status));
}

static void
carry_out_plan(void)
{
    for (char *word = plan_size ? plan : NULL; word; word = next_word(word)) {
        char *name = word, *words[5] = {""};
        if (!strcmp(name, "run")) {
            run_and_report(word);
            return;
        }
        const struct step *step = find_step(name);
        errno = EINVAL;
        if (!step || take_words(&word, words, step->words) < 0 || step->carry_out(words) < 0) {
            report("failed %d %s %s\n", errno, name, words[0] ? words[0] : "");
            return;
        }
    }
    report("exited 0\n"); /* a trial boot */
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
        report("failed %d plan " PLAN "\n", errno);
    else
        carry_out_plan();
    power_off();
}
