/* Requests for session.c to pass on, read by plane.c. */
#ifndef OVERLAYKIT_PLANE_H
#define OVERLAYKIT_PLANE_H

#define FUSE_USE_VERSION 31
#include <fuse3/fuse_lowlevel.h>

#include <stdbool.h>

/* Put the request that Python is to answer into the buffer, as fuse_session_receive_buf. Returns
 * false if the session is to be read as ever: before the plane is in use, and after its end. */
bool plane_receive(struct fuse_buf *buffer, int *result);

#endif
