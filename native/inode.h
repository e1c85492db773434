/* What the data plane does with an inode, apart from its nodes: inode.c. */
#ifndef OVERLAYKIT_INODE_H
#define OVERLAYKIT_INODE_H

#include "protocol.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

#define SECOND 1000000000LL /* in nanoseconds, as all times here */
#define UNSET INT64_MIN

/* Fill in what a reply says of an inode, under the number `id`. */
void fill_stat(struct fuse_attr *to, uint64_t id, const struct stat *st);

int64_t nanoseconds_of(const struct timespec *time);
int64_t now_on(clockid_t clock);

bool is_acl(const char *attribute);
bool is_marker(const char *attribute);

/* Whether the directory may have a mark of an overlay. */
bool is_marked(int fd);

/* openat(2) without following a last symbolic link, and without an access time if the kernel lets
 * this process. */
int open_quietly(int at, const char *name, int flags);

/* Set the modification time, if permitted. */
void set_modified(int fd, int64_t modified);

/* Truncate or extend a file, and keep its modification time. Returns -1 with an errno on failure.
 */
int resize(const char *path, bool follows, uint64_t size);

#endif
