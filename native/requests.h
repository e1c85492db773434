/* Whether requests are as the protocol says: requests.c. */
#ifndef OVERLAYKIT_REQUESTS_H
#define OVERLAYKIT_REQUESTS_H

#include "protocol.h"
#include <stdbool.h>
#include <stddef.h>

/* Whether all that a request of `size` bytes says of itself lies in it: its parts, the ends of its
 * strings, the lengths of its data. Names are such as an entry of a directory may have, and no
 * reply may be asked for that is longer than `most`. */
bool is_well_formed(const struct fuse_in_header *header, size_t size, size_t most);

/* Whether the kernel waits for a reply to a request that fails. */
bool wants_reply(const struct fuse_in_header *header);

#endif
