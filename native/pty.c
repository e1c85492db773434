/* The inner side of a view's terminal: a pty of the view's own devpts. */
#include "supervisor.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const char PTMX[] = "/dev/pts/ptmx", CONSOLE[] = "/dev/console";

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
    return mount < 0 ? fail("TERMINAL", path) : mount_attach(mount, CONSOLE);
}

int
pty_open(const struct record *step, int channel, int *slave)
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

int
pty_take(int slave)
{
    if (ioctl(slave, TIOCSCTTY, 0) < 0)
        return fail("TERMINAL", CONSOLE);
    for (int descriptor = 0; descriptor < 3; descriptor++)
        if (dup2(slave, descriptor) < 0)
            return fail("TERMINAL", CONSOLE);
    return 0;
}
