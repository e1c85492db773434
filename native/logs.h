/* The log of a detached command (logs.c). */
#ifndef OVERLAYKIT_LOGS_H
#define OVERLAYKIT_LOGS_H

#include "ports.h"

struct logs;

/* Read the two `pipes`, standard output and error, within the event loop `epoll`; append to the
 * file `name` of `directory`, of at most `limit` bytes. With `at_once` what has come is
 * not held back until its line ends. Keeps all these descriptors. Returns NULL with errno set. */
struct logs *logs_new(int epoll, const int *pipes, int directory, const char *name, uint64_t limit,
                      bool at_once);

/* Take what is left in the pipes, whose writers have ended. */
void logs_finish(struct logs *logs);

/* Let the descriptor lead to the log, where the one line that is written next is a record of
 * standard error. Requires: logs_finish. */
void logs_redirect(struct logs *logs, int descriptor);

#endif
