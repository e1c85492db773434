/* Shared by the files of the program overlaykit/_supervisor. A function that returns -1 has
 * recorded the failure, unless it says that errno is set. */
#ifndef OVERLAYKIT_SUPERVISOR_H
#define OVERLAYKIT_SUPERVISOR_H

#include "plan.h"

#include <signal.h>
#include <sys/types.h>

#define FORWARDED_SIGNALS {SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH}

/* ---- failure.c ------------------------------------------------------------------------------ */

enum { LONGEST_RECORD = 4000 }; /* less than PIPE_BUF: a record is written in one piece (pipe(7)) */

/* Record that what `name` stands for in namespace/failure.py failed with errno on `subject`. The
 * first failure counts. Returns -1. */
int fail(const char *name, const char *subject);

/* The same with an errno `error`. */
int fail_with(const char *name, int error, const char *subject);

/* Whether a failure is recorded here. */
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

/* close(2) on a path of failure. */
void close_keeping_errno(int descriptor);

bool is_readable(int descriptor);

/* Set the signal mask to `mask`, in which bit n - 1 is signal n, and `more`. */
void block_signals(uint64_t mask, const sigset_t *more);

sigset_t forwarded_signals(void);

/* Ignore the signals of the mask, and no others. */
void ignore_signals(uint64_t mask);

/* Stop ignoring the signals that glibc keeps to itself: its posix_spawn(3) ignores them. */
void reset_internal_signals(void);

/* Let nothing that this process executes gain another capability than `kept`. Returns -1 with errno
 * set: EPERM without CAP_SETPCAP. */
int bound_capabilities(uint64_t kept);

/* Drop every capability except `kept`, for this process and what it executes. Returns -1 with errno
 * set: EPERM without CAP_SETPCAP. */
int restrict_capabilities(uint64_t kept);

/* Drop every capability except `kept` from this process. */
void drop_capabilities(uint64_t kept);

/* Leave the caller's session keyring for a new one (keyrings(7)). Returns -1 with errno set. */
int join_session_keyring(void);

/* Keep the process and its descendants from abstract sockets of others (Landlock). A kernel without
 * that is no failure. Returns -1 with errno set. */
int scope_sockets(void);

/* Install the seccomp filter in a file. Returns -1 with errno set: EACCES without no_new_privs and
 * CAP_SYS_ADMIN. */
int install_filter(int file);

/* Carry out STEP_LIMIT: setrlimit(2). */
int set_limit(const struct argument *arguments);

int pidfd_of(pid_t process);

/* The exit status that wait(2) gave as `ended`, or 128 + N where signal N ended the process. */
int status_of(int ended);

/* ---- init.c --------------------------------------------------------------------------------- */

/* The descriptors that init inherits from the monitor. */
struct init_descriptors {
    int monitor;  /* a pidfd */
    int status;   /* the write end of the status pipe */
    int gate[2];  /* a pipe without data: end of file lets the command be executed */
    int messages; /* a socket to the monitor */
    int slave;    /* of the pty, opened by init; -1 without one */
};

/* Be the view's init. Requires: a new fork of the monitor, with every signal blocked. */
_Noreturn void init_run(struct plan *plan, struct init_descriptors *descriptors);

/* ---- command.c ------------------------------------------------------------------------------ */

/* Execute the command in this process. execve(2) closes the status pipe. Returns -1. */
int command_execute(const struct plan *plan, const struct init_descriptors *descriptors);

/* ---- passing.c ------------------------------------------------------------------------------ */

enum { MOST_PASSED = 4 };

/* The kinds of messages: of init, and that of the monitor to a helper. */
enum {
    MESSAGE_NAMESPACES = 'n', /* of namespaces_offer */
    MESSAGE_TERMINAL = 't',   /* the master of the pty */
    MESSAGE_STOPPED = 's',    /* the command is */
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
    const char *program, *interface[3];
    char said[MOST_SAID + 200]; /* a line with the program, and what it has printed */
};

/* Carry out STEP_HELPER: fork the attendant, which stays in the present network namespace. */
int helper_start(struct helper *helper, const struct argument *arguments);

/* Whether it starts the program only at the first packet. */
bool helper_waits(const struct helper *helper);

/* Have it start the program, for the present network namespace; `socket` is readable later. Returns
 * -1 with errno set. */
int helper_connect(const struct helper *helper);

/* Take its answer into `said`. Returns 0 if the program is ready, or an errno: ECHILD if it has
 * ended since. Requires: `socket` is readable. */
int helper_answer(struct helper *helper);

/* Kill the program, whatever became of it, and wait for its end. */
void helper_end(struct helper *helper);

/* ---- tap.c ---------------------------------------------------------------------------------- */

/* Make an interface in this network namespace, from its name, its address and its gateway's.
 * Returns its other side, or -1 with errno set. */
int tap_make(const char *const interface[3]);

/* A socket that sends packets of an interface. Returns -1 with errno set. */
int tap_packets(const char *interface);

/* Wait for the first packets, keep them, and close the interface's other side for the program that
 * carries it. */
void tap_await(int tap);

/* Send the kept packets again, once the program carries the interface. */
void tap_resume(int packets, const char *interface);

/* ---- namespaces.c --------------------------------------------------------------------------- */

enum { OFFERED_NAMESPACES = MOST_PASSED };

/* Send the namespaces of this process that init makes into the socket `channel`. */
int namespaces_offer(int channel);

/* ---- pty.c ---------------------------------------------------------------------------------- */

/* Carry out STEP_PTY: make a pty of the view's devpts, send its master over `channel`, put its
 * slave into `*slave`, and leave the caller's session. */
int pty_open(const struct record *step, int channel, int *slave);

/* Make the slave the controlling terminal and the standard streams of this session's leader. */
int pty_take(int slave);

/* ---- mounts.c ------------------------------------------------------------------------------- */

/* A detached mount of a fresh file system, with MOUNT_ATTR_* `attributes` and the keys and values
 * of `options`. Returns -1 with errno set. */
int mount_fresh(const char *fstype, unsigned attributes, const struct argument *options);

struct mount_attr;

/* A detached clone of the mount at `path` and of all mounts below it, with changed attributes
 * unless they are NULL. Returns -1 with errno set. */
int mount_clone(const char *path, const struct mount_attr *attributes);

/* Put `first`, a slash unless `first` ends with one, and `second` into `path`, of PATH_MAX bytes.
 * Returns -1 with errno set. */
int join_paths(char *path, const char *first, const char *second);

bool is_directory(const char *path);

/* Attach a detached mount at `target` and close its descriptor; make the mountpoint if it is
 * missing. */
int mount_attach(int mount, const char *target);

/* Make a symbolic link, after the directories above it that are missing. One with the same target
 * may be there. Returns -1 with errno set. */
int make_directory(const char *path, mode_t mode);
int make_symlink(const char *target, const char *path);

/* Make the detached `mount` the root directory, and unmount the old root. Returns -1 with errno
 * set. */
int mount_root(int mount, int whole_proc, int whole_sys, int below);

/* ---- protect.c ------------------------------------------------------------------------------ */

/* Carry out STEP_PROTECT: cover paths of procfs and sysfs. */
int protect(const struct argument *arguments);

/* Cover paths that exist by empty read-only places. */
int hide(const struct argument *paths);

/* The path without symbolic links, in PATH_MAX bytes; names that are missing stay. Returns -1 with
 * errno set. */
int real_path(const char *path, char *real);

/* ---- binds.c -------------------------------------------------------------------------------- */

/* Attach the mounts of the steps STEP_BIND, parents before the paths below them. */
int attach_binds(struct plan *plan);

/* ---- memory.c ------------------------------------------------------------------------------- */

/* Make a file in memory, to be written to. Returns -1 with errno set. Requires: the root is that of
 * the view. */
int memory_file(void);

/* Its detached mount, with the MOUNT_ATTR_* `attributes`; another file can be made now. Returns -1
 * with errno set. */
int memory_mount(uint64_t attributes);

/* Write into a file from its beginning. Returns -1 with errno set. */
int write_whole(int file, const char *text, size_t size);

/* Carry out STEP_DATA. Returns the mount, or -1. */
int data_mount(const struct plan *plan, const struct argument *arguments);

/* ---- cover.c -------------------------------------------------------------------------------- */

/* Carry out STEP_COVER. */
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

/* ---- remove.c ------------------------------------------------------------------------------- */

/* Remove `name` in a directory, and everything below it. Returns -1 with errno set. */
int remove_tree(int directory, const char *name);

#endif
