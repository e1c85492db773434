/* Requests for session.c to pass on, read by plane.c. */
#ifndef OVERLAYKIT_PLANE_H
#define OVERLAYKIT_PLANE_H

#define FUSE_USE_VERSION 31
#include <fuse3/fuse_lowlevel.h>

#include "protocol.h"
#include <stdbool.h>

/* Put the request that Python is to answer into the buffer, as fuse_session_receive_buf. Returns
 * false if the session is to be read as ever: before the plane is in use, and after its end. Tests
 * call it as well. */
__attribute__((visibility("default"))) bool plane_receive(struct fuse_buf *buffer, int *result);

/* Fill in a reply's entry: a node with the attributes `st`, for as long as the mount has it. */
void plane_fill_entry(struct fuse_entry_out *to, uint64_t id, uint64_t generation,
                      const struct stat *st);

#define MOST_WRITTEN (1 << 20) /* by one request */

/* Copy the INIT, which is answered, for libfuse. Returns its size; 0: there was none. */
size_t session_init(char *block);

/* The size of the part of a SETXATTR before the name: session.c. */
size_t setxattr_bytes(void);

#endif
