/* In sys/mount.h, which conflicts with linux/mount.h in some versions of glibc. */
#ifndef OVERLAYKIT_MISSING_H
#define OVERLAYKIT_MISSING_H

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>

#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif
#ifndef UMOUNT_NOFOLLOW
#define UMOUNT_NOFOLLOW 8
#endif
#ifndef SYS_listxattrat /* Linux 6.13, glibc 2.41; the same number on all machines */
#define SYS_listxattrat 465
#endif

#endif
