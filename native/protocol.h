/* The protocol of /dev/fuse: linux/fuse.h, and what its older versions lack. */
#ifndef OVERLAYKIT_PROTOCOL_H
#define OVERLAYKIT_PROTOCOL_H

#include <linux/fuse.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#ifndef FUSE_NO_EXPORT_SUPPORT /* all: Linux 6.9 */
#define FUSE_PASSTHROUGH (1ULL << 37)
#define FUSE_NO_EXPORT_SUPPORT (1ULL << 38)
#define FUSE_UNIQUE_RESEND (1ULL << 63)
#define FUSE_NOTIFY_RESEND 7
#define FOPEN_PASSTHROUGH (1 << 7)
#define FUSE_DEV_IOC_BACKING_OPEN _IOW(FUSE_DEV_IOC_MAGIC, 1, uint64_t[2])
#define FUSE_DEV_IOC_BACKING_CLOSE _IOW(FUSE_DEV_IOC_MAGIC, 2, uint32_t)
#endif

/* Of a struct fuse_init_out: `max_stack_depth` (Linux 6.9). */
#define STACK_DEPTH_OFFSET (offsetof(struct fuse_init_out, flags2) + sizeof(uint32_t))

#endif
