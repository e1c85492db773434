/* A program outside the view's network namespace that connects it, and stays as long as the view.
 *
 *     monitor -- clone --> attendant (PID 1 of a PID namespace) -- fork --> the program
 *
 * The attendant is made before the network namespace is. It gets a descriptor of that, forks the
 * program, at once or at the first packet (tap_await): it costs more than the start of a view,
 * which may never send one, and enters the namespace, so that its
 * /proc/PID/ns/net is a path of it. It says when the program is ready, and ends with it. It dies
 * with the monitor (PR_SET_PDEATHSIG), and every process of its PID
 * namespace with it (pid_namespaces(7)): the program may have changed its user, have gone to the
 * background, or ignore signals. */
#include "supervisor.h"

#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

/* The descriptor that the program has beside the standard ones. */
enum { READY = 3 };

/* What the attendant sends: an errno, 0 if the program is ready, and what the program has
 * printed. */
struct answer {
    int error;
    char said[MOST_SAID + 1];
};

struct attendant {
    int monitor; /* a socket */
    int ready;   /* readable once the program has written to READY */
    int output;  /* of the program */
    pid_t program;
    struct answer answer;
};

/* What the monitor sends. Only the first is there where the program is to be started at once. */
enum { NETWORK, TAP, SENT };

/* The arguments of STEP_HELPER. */
enum { ARGV, ENVIRONMENT, INTERFACE, WAITS };

/* ---- the interface that waits for its first packet ------------------------------------------- */

enum {
    ROOM = 1 << 16,        /* for the longest frame */
    MOST_FRAMES = 32,      /* that are kept */
    SILENCE = 20,          /* milliseconds, after which the first packets are complete */
    CARRIER_INTERVAL = 5,  /* milliseconds between looks at the interface */
    MOST_INTERVALS = 1000, /* then the packets are lost, and sent again by those who need them */
};

static char frames[2 * ROOM];
static size_t sizes[MOST_FRAMES], count;

/* Wait for the first packets, keep them, and close the interface's other side for the program that
 * carries it. */
static void tap_await(int tap)
{
    size_t used = 0;
    while (count < MOST_FRAMES && sizeof frames - used >= ROOM) {
        bool ready = await_input(tap, count ? SILENCE : -1);
        ssize_t size = ready ? read(tap, frames + used, ROOM) : -1;
        if (size < 0)
            break;
        /* The kernel's own: neighbours and routers of IPv6 are asked for as soon as it is up. */
        if (size == 0 || frames[used] & 1)
            continue;
        sizes[count++] = (size_t)size;
        used += (size_t)size;
    }
    close(tap);
}

/* A socket that sends packets of an interface. Made only where it is needed: its end waits for a
 * grace period of the kernel (packet_release). */
static int tap_packets(const char *interface)
{
    struct sockaddr_ll device = {.sll_family = AF_PACKET,
                                 .sll_ifindex = (int)if_nametoindex(interface)};
    int packets = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* receives none */
    if (packets >= 0 && bind(packets, (struct sockaddr *)&device, sizeof device) < 0) {
        close_keeping_errno(packets);
        packets = -1;
    }
    return packets;
}

/* Say whose the source of the first packet is: slirp4netns sends nothing to an address before. */
static void announce_address(int packets)
{
    char frame[42] = {[12] = 8, 6, 0, 1, 8, 0, 6, 4, 0, 1}; /* RFC 826 */
    const char *ethernet = frames + 6, *source = frames + 26;
    memset(frame, '\xff', 6);
    memcpy(frame + 6, ethernet, 6);
    memcpy(frame + 22, ethernet, 6);
    memcpy(frame + 28, source, 4);
    memcpy(frame + 38, source, 4);
    (void)send(packets, frame, sizeof frame, MSG_NOSIGNAL);
}

/* Send the kept packets again, once the program carries the interface. */
static void tap_resume(int packets, const char *interface)
{
    struct ifreq request = {.ifr_flags = 0};
    const char *frame = frames;
    (void)snprintf(request.ifr_name, IFNAMSIZ, "%s", interface);
    for (int at = 0; at < MOST_INTERVALS; at++) {
        if (ioctl(packets, SIOCGIFFLAGS, &request) < 0 || request.ifr_flags & IFF_RUNNING)
            break;
        (void)poll(NULL, 0, CARRIER_INTERVAL);
    }
    if (count)
        announce_address(packets);
    for (size_t at = 0; at < count; frame += sizes[at++])
        (void)send(packets, frame, sizes[at], MSG_NOSIGNAL);
}

/* ---- the attendant ----------------------------------------------------------------------------*/

static _Noreturn void answer_and_exit(struct attendant *self, int error)
{
    self->answer.error = error;
    (void)send(self->monitor, &self->answer, sizeof self->answer, MSG_NOSIGNAL);
    _exit(EXIT_FAILURE);
}

/* Put the path of this process's network namespace in the place of empty arguments. The mounted
 * procfs may be that of an outer PID namespace. */
static void set_paths(char **argv)
{
    static char path[64];
    char self[16];
    ssize_t length = readlink("/proc/self", self, sizeof self - 1);
    self[length < 0 ? 0 : length] = '\0';
    (void)snprintf(path, sizeof path, "/proc/%s/ns/net", self);
    for (; *argv; argv++)
        if (!**argv)
            *argv = path;
}

/* Execute the program once `gate` is at its end. `descriptors`: see `taken`. */
static _Noreturn void execute(char **argv, char **environment, const int *descriptors, int gate)
{
    int taken[] = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, READY};
    char byte;
    while (read(gate, &byte, 1) < 0)
        continue;
    for (size_t at = 0; at < sizeof taken / sizeof *taken; at++)
        if (dup2(descriptors[at], taken[at]) < 0)
            _exit(errno);
    close_all_but(taken, sizeof taken / sizeof *taken);
    ignore_signals(0);
    block_signals(SIG_SETMASK, 0);
    (void)execve(argv[0], argv, environment);
    _exit(errno);
}

/* A copy of a descriptor above those of the program; close-on-exec. */
static int moved(int descriptor) { return fcntl(descriptor, F_DUPFD_CLOEXEC, READY + 1); }

/* Fork the program, and enter the network namespace. Returns a socket for packets of `interface`,
 * -1 for an empty one. */
static int start_program(struct attendant *self, char **argv, char **environment, int network,
                         const char *interface)
{
    int ready[2], output[2], gate[2], null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0 || pipe2(ready, O_CLOEXEC) < 0 || pipe2(output, O_CLOEXEC) < 0 ||
        pipe2(gate, O_CLOEXEC) < 0)
        answer_and_exit(self, errno);
    int descriptors[] = {moved(null), moved(output[1]), moved(output[1]), moved(ready[1])};
    set_paths(argv);
    self->program = fork();
    if (self->program < 0)
        answer_and_exit(self, errno);
    if (self->program == 0) {
        close(gate[1]);
        execute(argv, environment, descriptors, gate[0]);
    }
    /* The program may look at this process (ptrace(2)). */
    int packets = -1;
    if (setns(network, CLONE_NEWNET) < 0 ||
        (*interface && (packets = tap_packets(interface)) < 0) ||
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0)
        answer_and_exit(self, errno);
    (void)set_capabilities(0);
    self->ready = ready[0];
    self->output = output[0];
    int kept[] = {self->monitor, self->ready, self->output, packets};
    close_all_but(kept, sizeof kept / sizeof *kept); /* opens the gate */
    return packets;
}

/* Read what the program prints. Returns false at its end. What exceeds the answer is dropped. */
static bool read_output(struct attendant *self)
{
    char text[MOST_SAID];
    size_t used = strlen(self->answer.said);
    ssize_t count = read(self->output, text, sizeof text);
    if (count < 0 && errno == EINTR)
        return true;
    for (ssize_t at = 0; at < count && used < MOST_SAID; at++)
        if (text[at])
            self->answer.said[used++] = text[at];
    return count > 0;
}

/* Wait until the program has written to READY, or has ended with the status 0: it may go on in the
 * background. */
static void await_program(struct attendant *self)
{
    struct pollfd watched[] = {{.fd = self->output, .events = POLLIN},
                               {.fd = self->ready, .events = POLLIN},
                               {.fd = pidfd_of(self->program), .events = POLLIN}};
    int ended;
    char byte;
    if (watched[2].fd < 0)
        answer_and_exit(self, errno);
    for (;;) {
        if (poll(watched, 3, -1) < 0)
            continue;
        if (watched[1].revents && read(self->ready, &byte, 1) == 1)
            break;
        if (watched[1].revents)
            watched[1].fd = -1; /* closed */
        if (watched[0].revents && !read_output(self))
            watched[0].fd = -1;
        else if (!watched[0].revents && watched[2].revents) {
            if (waitpid(self->program, &ended, 0) > 0 && status_of(ended))
                answer_and_exit(self, ECANCELED);
            break;
        }
    }
    close(watched[2].fd);
    close(self->ready);
}

static _Noreturn void attend(const struct argument *arguments, int monitor, int monitors_end)
{
    struct attendant self = {.monitor = monitor};
    bool at_once = !arguments[WAITS].number;
    int sent[MOST_PASSED], kept[] = {monitor};
    char **argv = list_vector(&arguments[ARGV], 0);
    char **environment = list_vector(&arguments[ENVIRONMENT], 0);
    (void)prctl(PR_SET_NAME, "helper", 0, 0, 0); /* by which others know that it is not init */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    (void)!chdir("/"); /* keeps no mount busy */
    (void)setsid();    /* signals of the terminal are for the command */
    close(monitors_end);
    close_all_but(kept, 1);
    (void)await_input(monitor, -1);
    (void)message_take(monitor, sent);
    /* The monitor may have died before the prctl(2). */
    if (sent[NETWORK] < 0 || !argv || !environment || await_input(monitor, 0) & POLLHUP)
        _exit(EXIT_FAILURE);
    if (!at_once)
        tap_await(sent[TAP]);
    int packets = start_program(&self, argv, environment, sent[NETWORK],
                                at_once ? "" : arguments[INTERFACE].bytes);
    await_program(&self);
    if (!at_once)
        tap_resume(packets, arguments[INTERFACE].bytes);
    (void)send(self.monitor, &self.answer, sizeof self.answer, MSG_NOSIGNAL);
    while (read_output(&self))
        continue;
    for (int ended; waitpid(-1, &ended, 0) > 0 || errno == EINTR;)
        continue;
    _exit(EXIT_SUCCESS);
}

int helper_start(struct helper *helper, const struct argument *arguments)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return fail("CONNECT", arguments[ARGV].bytes);
    /* fork(2) in a new PID namespace, without which later children would be in it as well. */
    helper->process = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, 0L);
    if (helper->process == 0)
        attend(arguments, ends[1], ends[0]);
    helper->socket = ends[0];
    helper->program = arguments[ARGV].bytes;
    helper->waits = arguments[WAITS].number;
    close(ends[1]);
    return helper->process < 0 ? fail("CONNECT", helper->program) : 0;
}

int helper_connect(const struct helper *helper, int tap)
{
    int sent[SENT] = {open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), tap};
    size_t sends = helper->waits ? SENT : 1;
    bool works = sent[NETWORK] >= 0 && sent[sends - 1] >= 0 &&
                 message_send(helper->socket, MESSAGE_NETWORK, sent, sends) == 0;
    for (size_t at = 0; at < SENT; at++)
        close_keeping_errno(sent[at]);
    return works ? 0 : -1;
}

int helper_answer(struct helper *helper)
{
    struct answer answer = {.error = 0};
    ssize_t count = recv(helper->socket, &answer, sizeof answer, 0);
    (void)snprintf(helper->said, sizeof helper->said, "%s\n%s", helper->program, answer.said);
    return count == (ssize_t)sizeof answer ? answer.error : ECHILD;
}

void helper_end(struct helper *helper)
{
    if (helper->process <= 0)
        return;
    close(helper->socket);
    helper->socket = -1;
    kill(helper->process, SIGKILL);
    while (waitpid(helper->process, NULL, 0) < 0 && errno == EINTR)
        continue;
    helper->process = 0;
}
