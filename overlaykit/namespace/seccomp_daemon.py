"""The rules of the daemon's seccomp filters, as data. `fuse.confinement` installs them once the daemon has mounted.

The lists name every call on files, so that a new path in the daemon, in Python or in the C library loses no bytes. What
no list names fails with EPERM, and is logged by the kernel. It never fails with ENOSYS: the kernel takes that, as the
reply to FSYNC for example, for a file system that needs none (fs/fuse/file.c: fuse_fsync).
"""

from __future__ import annotations

import errno

from overlaykit.namespace.seccomp_rules import (
    ALLOW,
    EQ,
    MASKED_EQ,
    Comparison,
    Profile,
    Rule,
    refuse,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_EPERM: Final = refuse(errno.EPERM)

_FILES: Final = """
_llseek access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
futimesat getcwd getdents getdents64 getxattr getxattrat lchown lchown32 lgetxattr link linkat listxattr listxattrat
llistxattr lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open
open_by_handle_at openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink
readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat
splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range sync_file_range2 syncfs tee truncate
truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev
"""

_MEMORY: Final = """
brk madvise membarrier memfd_create mincore mlock mlock2 mmap mmap2 mprotect mremap msync munlock munmap
"""

_PROCESS: Final = """
alarm arch_prctl capget capset clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
clock_nanosleep_time64 exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
get_robust_list getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpgid
getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid
gettid gettimeofday getuid getuid32 kill nanosleep pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall
rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
sched_getparam sched_getscheduler sched_yield set_robust_list set_tid_address setitimer setrlimit sigaltstack sigreturn
sysinfo tgkill time times tkill ugetrlimit uname vfork wait4 waitid waitpid
"""

_EVENTS: Final = """
_newselect accept accept4 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
getpeername getsockname getsockopt poll ppoll ppoll_time64 pselect6 pselect6_time64 recv recvfrom recvmmsg
recvmmsg_time64 recvmsg select send sendmmsg sendmsg sendto setsockopt shutdown signalfd signalfd4 timerfd_create
timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
"""
"""On descriptors that are there: the daemon makes no socket but pairs."""

_UNMOUNT: Final = ("umount2",)
"""The layers, when the mount has ended."""

_AF_UNIX: Final = 1
_SET_PROJECT_QUOTA: Final = 0x80000802
"""QCMD(Q_SETQUOTA, PRJQUOTA) of include/uapi/linux/quota.h."""
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEW: Final = 0x7E020080
"""All namespaces (include/uapi/linux/sched.h)."""


def _ioctl(request: int) -> Rule:
    # The kernel takes the lower half of the argument.
    return Rule(
        action=ALLOW,
        names=("ioctl",),
        comparisons=(Comparison(1, MASKED_EQ, request, mask=0xFFFFFFFF),),
    )


_IOCTLS: Final = (
    0x5401,  # TCGETS: isatty(3)
    0x541B,  # FIONREAD
    0x5421,  # FIONBIO
    0x5450,  # FIONCLEX
    0x5451,  # FIOCLEX
    0x40049409,  # FICLONE
    0x4020940D,  # FICLONERANGE
    0x80086601,  # FS_IOC_GETFLAGS
    0x40086602,  # FS_IOC_SETFLAGS
    0x801C581F,  # FS_IOC_FSGETXATTR
    0x401C5820,  # FS_IOC_FSSETXATTR
    0xC020660B,  # FS_IOC_FIEMAP
    0xC0046686,  # FS_IOC_MEASURE_VERITY
    0x80111500,  # FS_IOC_GETFSUUID
    0x8008662C,  # EXT4_IOC_GETFSUUID
    0x8004E500,  # FUSE_DEV_IOC_CLONE
    0x4010E501,  # FUSE_DEV_IOC_BACKING_OPEN
    0x4004E502,  # FUSE_DEV_IOC_BACKING_CLOSE
)

_RULES: Final = (
    Rule(
        action=ALLOW,
        names=(*_FILES.split(), *_MEMORY.split(), *_PROCESS.split(), *_EVENTS.split(), *_UNMOUNT),
    ),
    *map(_ioctl, _IOCTLS),
    # A thread, or a child in the same namespaces.
    Rule(
        action=ALLOW,
        names=("clone",),
        comparisons=(Comparison(0, MASKED_EQ, 0, mask=_CLONE_NEW),),
    ),
    Rule(action=ALLOW, names=("clone3",)),  # THREADS refuses it
    # Its own priority (PRIO_PROCESS, 0).
    Rule(
        action=ALLOW,
        names=("setpriority",),
        comparisons=(Comparison(0, EQ, 0), Comparison(1, EQ, 0)),
    ),
    Rule(action=ALLOW, names=("socketpair",), comparisons=(Comparison(0, EQ, _AF_UNIX),)),
)

THREADS: Final = Profile(
    default=ALLOW,
    others={},
    rules=(Rule(action=refuse(errno.ENOSYS), names=("clone3",)),),
)
"""A filter beside the other, which refuses clone3(2) without a line in the kernel's log.

The C library tries it for each thread, and takes clone(2) then, whose flags a filter sees."""

VIEW: Final = Profile(
    default=_EPERM,
    others={},
    rules=(
        *_RULES,
        # To end the limit of an upper (projects.end_limit).
        Rule(
            action=ALLOW,
            names=("quotactl_fd",),
            comparisons=(Comparison(1, MASKED_EQ, _SET_PROJECT_QUOTA, mask=0xFFFFFFFF),),
        ),
    ),
)
"""Of the daemon of a view."""

_STARTS: Final = """
chroot fsconfig fsmount fsopen mount mount_setattr move_mount open_tree pivot_root quotactl_fd
sched_setaffinity sched_setattr sched_setparam sched_setscheduler seccomp setpriority setsid umount2
"""
"""Of a daemon, before it installs its own filter: its mount, its root directory, what it takes over of its client."""

_NAMESPACES: Final = (_CLONE_NEWNS, _CLONE_NEWUSER | _CLONE_NEWNS)
"""Of a daemon's."""

SERVER: Final = Profile(
    default=_EPERM,
    others={},
    rules=(
        *_RULES,
        Rule(action=ALLOW, names=tuple(_STARTS.split())),
        *(
            Rule(action=ALLOW, names=("unshare",), comparisons=(Comparison(0, EQ, flags),))
            for flags in _NAMESPACES
        ),
    ),
)
"""Of the fork server, and of the daemons that it forks until they install `VIEW`."""

MOUNT: Final = Profile(
    default=_EPERM,
    others={},
    rules=(
        *_RULES,
        # To unmount where the mount is (fuse.unmount).
        Rule(action=ALLOW, names=("setns",), comparisons=(Comparison(1, EQ, _CLONE_NEWNS),)),
        # To read past modes without CAP_DAC_OVERRIDE (overlaykit.reader).
        Rule(action=ALLOW, names=("unshare",), comparisons=(Comparison(0, EQ, _CLONE_NEWUSER),)),
    ),
)
"""Of the daemon of an attached mount."""
