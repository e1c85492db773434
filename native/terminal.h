/* The outer side of a view's terminal: relays between the caller's streams and the master of the
 * view's pty, in the monitor's event loop. There is one at most. */
#ifndef OVERLAYKIT_TERMINAL_H
#define OVERLAYKIT_TERMINAL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/* The descriptors that the relay needs beside the standard ones. */
enum { TERMINAL_DESCRIPTORS = 2 };

/* Prepare the relay between descriptors 0 (if `interactive`) and 1 and a pty, and start the process
 * that restores the caller's terminal if this one is killed. Returns 0, or -1 with errno set.
 * Requires: no namespace is entered yet. */
int terminal_prepare(int epoll, bool interactive);

/* Relay from now on. Takes the master of the pty over. Returns 0, or -1 with errno set. */
int terminal_open(int master);

/* Whether `terminal_open` was called. */
bool terminal_is_open(void);

/* Put the descriptors that the relay needs into `kept`. */
void terminal_descriptors(int kept[TERMINAL_DESCRIPTORS]);

/* Whether a signal is for the relay, as that of a changed window size: do what it means. */
bool terminal_takes_signal(int number);

/* Set the size of the view's terminal. */
void terminal_resize(unsigned rows, unsigned columns);

/* The view has ended: what it has written is still delivered. */
void terminal_drain(void);

/* Whether all is delivered, or cannot be. */
bool terminal_is_drained(void);

/* The errno of a write to the caller's standard output that failed for another reason than that its
 * reader has gone; 0 if none did. */
int terminal_error(void);

/* Milliseconds until `terminal_expire` has work, -1 for none. */
int terminal_timeout(void);
void terminal_expire(void);

/* Hang up the pty: the foreground processes of the view get SIGHUP. */
void terminal_hang_up(void);

/* Restore the caller's terminal for good. */
void terminal_end(void);

#endif
