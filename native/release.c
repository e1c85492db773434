/* Answer uname(2) with another release, for the processes of a command with a filter that asks
 * (seccomp_unotify(2)). What else uname(2) tells is that of the caller's own UTS namespace. */
#include "supervisor.h"

#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/utsname.h>

static struct {
    struct source source;
    int listener;
    char release[sizeof((struct utsname *)NULL)->release];
} answers;

static int open_of(uint32_t process, const char *name, int flags)
{
    char path[40];
    (void)snprintf(path, sizeof path, "/proc/%u/%s", process, name);
    return open(path, flags | O_CLOEXEC);
}

/* What uname(2) would tell a process whose machine is that of its execution domain
 * (personality(2)). Returns -1 with errno set. */
static int names_of(uint32_t process, struct utsname *names)
{
    char domain[9] = "";
    int space = open_of(process, "ns/uts", O_RDONLY), told = -1;
    int file = open_of(process, "personality", O_RDONLY);
    if (space >= 0 && file >= 0 && read(file, domain, 8) > 0 && setns(space, CLONE_NEWUTS) == 0) {
        int before = personality((unsigned long)strtoul(domain, NULL, 16));
        told = uname(names);
        (void)personality((unsigned long)before);
    }
    close_keeping_errno(space);
    close_keeping_errno(file);
    return told;
}

/* The errno for the caller. Its memory is opened before its request is known to be still there:
 * another process may get its process id later. */
static int answer(int listener, const struct seccomp_notif *request)
{
    struct utsname names;
    int memory = open_of(request->pid, "mem", O_RDWR);
    if (memory < 0 || names_of(request->pid, &names) < 0 ||
        ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &request->id) < 0) {
        close_keeping_errno(memory);
        return errno;
    }
    (void)snprintf(names.release, sizeof names.release, "%s", answers.release);
    ssize_t written = pwrite(memory, &names, sizeof names, (off_t)request->data.args[0]);
    close(memory);
    return written == sizeof names ? 0 : EFAULT;
}

static void request_ready(struct source *source, uint32_t events)
{
    struct seccomp_notif request = {.id = 0};
    (void)source;
    if (!(events & EPOLLIN)) { /* every process with the filter has ended */
        close(answers.listener);
        return;
    }
    if (ioctl(answers.listener, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0)
        return; /* a signal or its end took the caller away */
    int error = answer(answers.listener, &request);
    struct seccomp_notif_resp response = {.id = request.id, .error = -error};
    /* The memory of a program that this user may not read. */
    if (error == EACCES || error == EPERM)
        response = (struct seccomp_notif_resp){.id = request.id,
                                               .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    (void)ioctl(answers.listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

void release_tell(const char *release)
{
    (void)snprintf(answers.release, sizeof answers.release, "%s", release);
}

bool release_is_told(void) { return *answers.release; }

int release_listen(int listener)
{
    answers.source.ready = request_ready;
    answers.listener = listener;
    return watch(listener, &answers.source, EPOLLIN);
}
