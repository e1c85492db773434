/* Shared by the files of the programs overlaykit/_supervisor and overlaykit/_guest_init. A function
 * that returns -1 has recorded the failure, unless it says that errno is set. */
#ifndef OVERLAYKIT_SUPERVISOR_H
#define OVERLAYKIT_SUPERVISOR_H

#include "missing.h"
#include "plan.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAST_SIGNAL = 64 };

/* A set of signals is a mask, as the kernel has it: bit n - 1 is signal n. */
#define MASK(number) (1ULL << ((number) - 1))
#define FORWARDED_SIGNALS                                                                          \
    (MASK(SIGCONT) | MASK(SIGHUP) | MASK(SIGINT) | MASK(SIGQUIT) | MASK(SIGTERM) | MASK(SIGUSR1) | \
     MASK(SIGUSR2) | MASK(SIGWINCH))

/* ---- process.c: events ---------------------------------------------------------------------- */

/* What an event of the epoll instance belongs to: the first member of an object that is registered
 * there. An event calls `ready`, or sets `flag` and calls `act`, if they are not NULL. */
struct source {
    void (*ready)(struct source *source, uint32_t events);
    bool *flag;
    void (*act)(void);
};

/* Make the epoll instance of this process. Returns its descriptor, or -1 with errno set. */
int events_open(void);

/* Report events of a descriptor, from now on no others; or none. Returns -1 with errno set. */
int watch(int descriptor, struct source *source, uint32_t events);
int unwatch(int descriptor);

/* The monotonic clock, in milliseconds. */
int64_t now_milliseconds(void);

enum timer { TIMER_GRACE, TIMER_DRAIN, TIMER_PORTS, TIMER_TERMINAL, TIMERS };

/* Call `act` once, in so many milliseconds; not at all if it is NULL. */
void timer_set(enum timer timer, int64_t milliseconds, void (*act)(void));
bool timer_is_set(enum timer timer);

/* Wait for events and timers, and handle them. Returns -1 with errno set. */
int events_handle(void);

/* ---- failure.c ------------------------------------------------------------------------------ */

enum { LONGEST_RECORD = 4000 }; /* less than PIPE_BUF: a record is written in one piece (pipe(7)) */

/* Record that what `name` stands for in namespace/failure.py failed with errno on `subject`. The
 * first failure counts. Returns -1. */
int fail(const char *name, const char *subject);
int fail_with(const char *name, int error, const char *subject);

bool has_failed(void);

/* Write the record into the status pipe; ignore that the reader may have ended. */
void failure_write(int status);

/* Read a record from the status pipe. Returns false at end of file. */
bool failure_read(int status);

/* The fields of the record: name, errno, subject. Returns false if it is incomplete. */
bool failure_fields(const char *fields[3]);

/* ---- process.c ------------------------------------------------------------------------------ */

/* Close every descriptor except those of `kept`, which is sorted. Descriptors of -1 do not count.
 */
void close_all_but(int *kept, size_t count);

void close_keeping_errno(int descriptor);

/* Wait for input or an end; -1: for ever. Returns the events of poll(2), 0 if none has come. */
int await_input(int descriptor, int milliseconds);

bool is_readable(int descriptor);

/* As sigprocmask(2), also for the signals that glibc keeps to itself. Returns the mask of before.
 */
uint64_t block_signals(int how, uint64_t mask);

/* Ignore the signals of the mask, and no others. */
void ignore_signals(uint64_t mask);

/* Let nothing that this process executes gain another capability than `kept`. Fails with EPERM
 * without CAP_SETPCAP. */
int bound_capabilities(uint64_t kept);

/* Drop every capability except `kept` from this process. Returns -1 with errno set. */
int set_capabilities(uint64_t kept);

/* Both. */
int restrict_capabilities(uint64_t kept);

int pidfd_of(pid_t process);

/* The exit status that wait(2) gave as `ended`, or 128 + N where signal N ended the process. */
int status_of(int ended);

/* ---- call.c --------------------------------------------------------------------------------- */

/* Carry out STEP_CALL; STEP_OFFER, by a socket to the monitor. */
int call(struct plan *plan, const struct argument *arguments);
int offer(struct plan *plan, const struct argument *arguments, int channel);

/* ---- init.c --------------------------------------------------------------------------------- */

/* The descriptors that init inherits from the monitor. */
struct init_descriptors {
    int monitor;  /* a pidfd */
    int status;   /* the write end of the status pipe */
    int gate[2];  /* a pipe without data: end of file lets the command be executed */
    int messages; /* a socket to the monitor */
};

/* Be the view's init. Requires: a new fork of the monitor, with every signal blocked. */
_Noreturn void init_run(struct plan *plan, struct init_descriptors *descriptors);

/* ---- command.c ------------------------------------------------------------------------------ */

/* Execute the command in this process. execve(2) closes the status pipe. `messages`: a socket to
 * the monitor, which a filter may need. Returns -1. */
int command_execute(struct plan *plan, int messages);

/* ---- guest_session.c ------------------------------------------------------------------------ */

/* guest_init.c: carry out the plan in a file. Returns 0, or -1 with the failure recorded. */
int guest_carry_out(int file);

/* Wait until a path is there, by the events of its directory. Returns -1. */
int guest_await_node(int events, const char *path);

/* Say the failure that is recorded, if there is one, on standard output. */
void guest_say_failure(void);

/* Carry out STEP_GUEST_SESSION. Returns 0 once the host has taken the result. */
int guest_session(struct plan *plan, const struct argument *arguments);

/* ---- passing.c ------------------------------------------------------------------------------ */

enum { MOST_PASSED = 4 };

/* The kinds of messages that no step names: of init, and that of the monitor to a helper. */
enum {
    MESSAGE_STOPPED = 's', /* the command is */
    MESSAGE_CONTINUED = 'c',
    MESSAGE_NETWORK = 'w',
};

/* Send a message with 1 to MOST_PASSED descriptors. Returns -1 with errno set. */
int message_send(int channel, char kind, const int *descriptors, size_t count);

/* Take a message. Returns its kind, 0 if none has come; descriptors that it has not are -1. */
char message_take(int channel, int descriptors[MOST_PASSED]);

/* ---- helper.c ------------------------------------------------------------------------------- */

enum { MOST_SAID = 2000 }; /* bytes that are told of a helper's output */

/* A program outside the view's network namespace that connects it. */
struct helper {
    pid_t process; /* the attendant; 0 without one */
    int socket;    /* to the attendant */
    const char *program;
    bool waits;                 /* for the first packet of an interface that is there before */
    char said[MOST_SAID + 200]; /* a line with the program, and what it has printed */
};

/* Carry out STEP_HELPER: fork the attendant, which stays in the present network namespace. */
int helper_start(struct helper *helper, const struct argument *arguments);

/* Have it start the program, for the present network namespace; `socket` is readable later. Takes
 * over `tap`, the interface's other side, -1 if it could not be made. Returns -1 with errno set. */
int helper_connect(const struct helper *helper, int tap);

/* Take its answer into `said`. Returns 0 if the program is ready, or an errno: ECHILD if it has
 * ended since. Requires: `socket` is readable. */
int helper_answer(struct helper *helper);

/* Kill the program, whatever became of it, and wait for its end. */
void helper_end(struct helper *helper);

/* ---- mounts.c ------------------------------------------------------------------------------- */

struct mount_attr;

/* A detached clone of the mount at `path` and of all mounts below it, with changed attributes
 * unless they are NULL. Returns -1 with errno set. */
int mount_clone(const char *path, const struct mount_attr *attributes);

bool is_directory(const char *path);

/* O_PATH, through symbolic links: a path; or a place for a mount, which is made if it is missing.
 * Returns -1 with errno set. */
int open_path(const char *path, int flags);
int open_place(const char *target, bool directory);

/* Attach a detached mount at such a place and close its descriptor. */
int mount_attach(int mount, const char *target);

/* Make a directory after those above it that are missing, or a symbolic link. One with the same
 * target may be there. */
int make_directory(const char *path, mode_t mode);
int make_symlink(const char *target, const char *path);

/* Attach the mounts of the steps STEP_BIND, parents before the paths below them. */
int attach_binds(struct plan *plan);

/* ---- protect.c ------------------------------------------------------------------------------ */

/* Carry out STEP_PROTECT_PATHS: cover paths of procfs and sysfs by read-only clones. */
int protect(const struct argument *arguments);

/* Carry out STEP_MASK: cover paths that exist, directories by empty ones and others by a file. */
int mask(const struct argument *arguments);

/* ---- cover.c -------------------------------------------------------------------------------- */

/* Carry out STEP_COPY. */
int copy_all(const struct plan *plan, const struct argument *arguments);

int cover_file(const struct argument *arguments);

/* What a kept view needs to write changes of /etc/hosts back. */
struct covered_hosts {
    int cover;      /* the file that covers /etc/hosts; -1 if none does */
    int below;      /* O_PATH: the covered file */
    char *contents; /* the first contents of the cover */
    size_t size;
    size_t lines_size; /* of added lines at the beginning of `contents` */
    size_t line_size;  /* of the line with the view's name at their end; 0 without one */
};

/* Cover the view's /etc/hosts by a copy that also has `lines` and, unless it is empty, `hostname`.
 */
int hosts_cover(struct covered_hosts *hosts, const char *hostname, const char *lines, bool keep);

/* Write changes of the cover, without the added lines, into the covered file. */
void hosts_write_back(const struct covered_hosts *hosts);

/* ---- ports.c -------------------------------------------------------------------------------- */

/* Forward a listening TCP socket or a bound UDP socket, with options as namespace/network.py sets
 * them, to `port` of this network namespace. Takes `listener` over. Returns 0, or -1 with errno
 * set.
 */
int ports_add(int listener, uint16_t port);

/* Accept nothing more and read nothing more from clients. What the view has sent is still
 * delivered. */
void ports_drain(void);

/* Free the connections that closed. Call it after the events of one epoll_wait were handled. */
void ports_collect(void);

bool ports_busy(void);

/* ---- logs.c --------------------------------------------------------------------------------- */

/* Read the two `pipes`, standard output and error; append to the file `name` of `directory`, of at
 * most `limit` bytes. With `at_once` what has come is not held back until its line ends. Keeps all
 * these descriptors. Returns -1 with errno set. */
int logs_open(const int *pipes, int directory, const char *name, uint64_t limit, bool at_once);

/* Take what is left in the pipes, whose writers have ended. */
void logs_finish(void);

/* Let the descriptor lead to the log, where the one line that is written next is a record of
 * standard error. Requires: logs_finish. */
void logs_redirect(int descriptor);

/* ---- terminal.c ------------------------------------------------------------------------------ */

/* Prepare the relay between descriptors 0 (if `interactive`) and 1 and a pty, and start the process
 * that restores the caller's terminal if this one is killed. Returns 0, or -1 with errno set.
 * Requires: no namespace is entered yet. */
int terminal_prepare(bool interactive);

/* Relay from now on. Takes the master of the pty over. Returns 0, or -1 with errno set. */
int terminal_open(int master);

bool terminal_is_open(void);

/* Whether a signal is for the relay, as that of a changed window size: do what it means. */
bool terminal_takes_signal(int number);

void terminal_resize(unsigned rows, unsigned columns);

/* The view has ended: what it has written is still delivered. */
void terminal_drain(void);

/* Whether all is delivered, or cannot be. */
bool terminal_is_drained(void);

/* The errno of a write to the caller's standard output that failed for another reason than that its
 * reader has gone; 0 if none did. */
int terminal_error(void);

/* Restore the caller's terminal for good. */
void terminal_end(void);

/* ---- release.c ------------------------------------------------------------------------------ */

/* Have uname(2) tell this release, from `release_listen` on. */
void release_tell(const char *release);
bool release_is_told(void);

/* Take over the listener of a filter that asks about uname(2). Returns -1 with errno set. */
int release_listen(int listener);

/* ---- remove.c ------------------------------------------------------------------------------- */

/* Remove `name` in a directory, and everything below it. Returns -1 with errno set. */
int remove_tree(int directory, const char *name);

/* Remove an open directory, whatever its name is by now, and everything below it. */
void remove_opened(int directory);

#endif
