/* Shared by the three files of copy-up: copyup.c (the call), copyup_data.c, copyup_metadata.c.
 *
 * All but the call itself runs without the GIL. A function returns 0, or -1 with errno set. After a
 * Python signal handler raised, errno is EINTR and the exception is set. */
#ifndef OVERLAYKIT_COPYUP_H
#define OVERLAYKIT_COPYUP_H

#include "native.h"

#include <sys/stat.h>

/* How the bytes are copied, the best method first. The result of a copy is the worst method that it
 * needed. */
enum copyup_method {
    COPYUP_NONE,
    COPYUP_CLONE,
    COPYUP_COPY_FILE_RANGE,
    COPYUP_READ_WRITE,
};

struct copyup_prefix {
    const char *bytes;
    size_t length;
};

struct copyup {
    int src;
    int dst;
    uid_t uid; /* the owner to set; -1: the source's */
    gid_t gid;
    struct stat source; /* before reading changes the atime */
    enum copyup_method method;
    const struct copyup_prefix *skip; /* xattrs to leave out, */
    size_t skip_count;
    const struct copyup_prefix *keep; /* but for these */
    size_t keep_count;
    PyThreadState *thread; /* saved while the GIL is released */
};

/* Run Python's signal handlers. */
int copyup_signals(struct copyup *copy);

/* Between two chunks: let Ctrl-C through. */
int copyup_checkpoint(struct copyup *copy);

/* Copy the bytes and holes of a regular file; sets `method`. */
int copyup_data(struct copyup *copy);

/* Copy owner, xattrs, mode and times, in the order that keeps them all. */
int copyup_metadata(struct copyup *copy);

/* Make a system call, and repeat it after EINTR unless a signal handler raised. */
#define COPYUP_CALL(copy, result, call)                                                            \
    do {                                                                                           \
        (result) = (call);                                                                         \
    } while ((result) < 0 && errno == EINTR && copyup_signals(copy) == 0)

#endif
