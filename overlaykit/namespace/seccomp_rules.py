"""The rules of the default seccomp filter, as data.

Source of the list: common/pkg/seccomp/seccomp.json of podman's container-libs (containers/common), read in November
2026. A test compares the two in effect where a copy of that file is installed.
"""

from __future__ import annotations

import errno

from overlaykit.namespace.capabilities import NAMES
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Actions (linux/seccomp.h).
ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
KILL_THREAD: Final = 0
TRAP: Final = 0x00030000
LOG: Final = 0x7FFC0000

# Comparisons (enum scmp_compare in seccomp.h).
NE: Final = 1
LT: Final = 2
LE: Final = 3
EQ: Final = 4
GE: Final = 5
GT: Final = 6
MASKED_EQ: Final = 7


def refuse(number: int) -> int:
    """The action by which a call fails with an errno."""
    return 0x00050000 | number


def trace(number: int) -> int:
    """The action that tells a tracer (SECCOMP_RET_TRACE)."""
    return 0x7FF00000 | number


class Comparison(Record):
    """Of an argument of a system call, by its index; `mask` is that of MASKED_EQ."""

    argument: int
    operator: int
    value: int
    mask: int = 0


class Rule(Record, kw_only=True):
    """Of a system call for which several rules hold, libseccomp takes the first without comparisons."""

    action: int
    names: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()
    """All of them."""
    with_capabilities: frozenset[int] = frozenset()
    """The rule holds where the view keeps all of them."""
    without_capabilities: frozenset[int] = frozenset()
    """The rule holds where the view keeps none of them."""
    machines: tuple[str, ...] = ()
    """The native architectures, as Go names them, for which the rule holds; empty: for all."""


class Profile(Record, kw_only=True):
    """`others`: the architectures that a process can change to, by each native one; names of libseccomp."""

    default: int
    rules: tuple[Rule, ...]
    others: dict[str, tuple[str, ...]]


OTHERS: Final = {"x86_64": ("x86", "x32"), "aarch64": ("arm",)}
"""With a native kernel, a process can use these system calls as well."""

_EPERM: Final = refuse(errno.EPERM)


def _capability(name: str) -> int:
    return NAMES.index(f"CAP_{name}")


def _by_capability(names: str, *any_of: str, refused: str | None = None) -> tuple[Rule, ...]:
    """Calls that are allowed with one of the capabilities, and else refused with EPERM (`refused`: only these)."""
    numbers = [_capability(name) for name in any_of]
    allowed = (
        Rule(action=ALLOW, names=tuple(names.split()), with_capabilities=frozenset({number}))
        for number in numbers
    )
    return (
        *allowed,
        Rule(
            action=_EPERM,
            names=tuple((names if refused is None else refused).split()),
            without_capabilities=frozenset(numbers),
        ),
    )


_REFUSED: Final = """
bdflush cachestat io_pgetevents io_pgetevents_time64 kexec_file_load kexec_load map_shadow_stack migrate_pages
move_pages nfsservctl nice oldfstat oldlstat oldolduname oldstat olduname pciconfig_iobase pciconfig_read
pciconfig_write sgetmask ssetmask swapoff swapon syscall sysfs uselib userfaultfd ustat vm86 vm86old vmsplice
"""
"""With EPERM. What no rule names fails with ENOSYS, so that programs take what is older: io_uring, for example."""

_ALLOWED: Final = """
_llseek _newselect accept accept4 access adjtimex alarm bind brk capget capset chdir chmod chown chown32 clock_adjtime
clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
clone clone3 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group
faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_init fanotify_mark fchdir fchmod fchmodat fchmodat2
fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsconfig fsetxattr
fsmount fsopen fspick fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue
futex_time64 futex_wait futex_waitv futex_wake futimesat get_mempolicy get_robust_list get_thread_area getcpu getcwd
getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername
getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage
getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_setup io_submit ioctl ioprio_get ioprio_set ipc
keyctl kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat
listen listxattr llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise mbind membarrier memfd_create
memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mount mount_setattr move_mount
mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat
open open_tree openat openat2 pause pidfd_getfd pidfd_open pidfd_send_signal pipe pipe2 pivot_root pkey_alloc
pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease
process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink
readlinkat readv reboot recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat
renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_mempolicy set_robust_list
set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
setitimer setns setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack signal
signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statx symlink
symlinkat sync sync_file_range syncfs sysinfo syslog tee tgkill time timer_create timer_delete timer_getoverrun
timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask umount umount2 uname unlink
unlinkat unshare utime utimensat utimensat_time64 utimes vfork wait4 waitid waitpid write writev
"""

_PERSONALITIES: Final = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, both with UNAME26, and the question (personality(2))."""

_AF_NETLINK: Final = 16
_AF_ALG: Final = 38
_AF_VSOCK: Final = 40
_NETLINK_AUDIT: Final = 9
_AUDIT: Final = frozenset({_capability("AUDIT_WRITE")})

_SOCKETS: Final = (
    *(
        Rule(action=_EPERM, names=("socket",), comparisons=(Comparison(0, EQ, family),))
        for family in (_AF_VSOCK, _AF_ALG)
    ),
    Rule(
        action=refuse(errno.EINVAL),
        names=("socket",),
        comparisons=(Comparison(0, EQ, _AF_NETLINK), Comparison(2, EQ, _NETLINK_AUDIT)),
        without_capabilities=_AUDIT,
    ),
    Rule(
        action=ALLOW,
        names=("socket",),
        comparisons=(Comparison(0, EQ, _AF_NETLINK), Comparison(2, NE, _NETLINK_AUDIT)),
        without_capabilities=_AUDIT,
    ),
    Rule(
        action=ALLOW,
        names=("socket",),
        comparisons=(Comparison(0, NE, _AF_NETLINK),),
        without_capabilities=_AUDIT,
    ),
    Rule(
        action=ALLOW,
        names=("socket",),
        comparisons=(Comparison(0, NE, _AF_VSOCK),),
        with_capabilities=_AUDIT,
    ),
)

DEFAULT: Final = Profile(
    default=refuse(errno.ENOSYS),
    others=OTHERS,
    rules=(
        Rule(action=_EPERM, names=tuple(_REFUSED.split())),
        Rule(action=ALLOW, names=tuple(_ALLOWED.split())),
        *(
            Rule(action=ALLOW, names=("personality",), comparisons=(Comparison(0, EQ, value),))
            for value in _PERSONALITIES
        ),
        Rule(
            action=ALLOW,
            names=(
                "arm_fadvise64_64",
                "arm_sync_file_range",
                "breakpoint",
                "cacheflush",
                "set_tls",
                "sync_file_range2",
            ),
            machines=("arm", "arm64"),
        ),
        Rule(action=ALLOW, names=("arch_prctl", "modify_ldt"), machines=("amd64",)),
        *_by_capability("open_by_handle_at", "DAC_READ_SEARCH"),
        *_by_capability(
            "bpf lookup_dcookie perf_event_open quotactl quotactl_fd setdomainname sethostname setns",
            "SYS_ADMIN",
            refused="lookup_dcookie quotactl quotactl_fd setdomainname sethostname setns",
        ),
        *_by_capability("chroot", "SYS_CHROOT"),
        *_by_capability("delete_module finit_module init_module query_module", "SYS_MODULE"),
        *_by_capability("acct", "SYS_PACCT"),
        *_by_capability("kcmp process_madvise", "SYS_PTRACE"),
        *_by_capability("ioperm iopl", "SYS_RAWIO"),
        *_by_capability("clock_settime clock_settime64 settimeofday stime", "SYS_TIME"),
        *_by_capability("vhangup", "SYS_TTY_CONFIG"),
        *_SOCKETS,
        *_by_capability("bpf", "SYS_ADMIN", "BPF"),
        *_by_capability("perf_event_open", "SYS_ADMIN", "PERFMON"),
    ),
)

_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C

TERMINAL: Final = Profile(
    default=ALLOW,
    others=OTHERS,
    rules=tuple(
        Rule(
            action=_EPERM,
            names=("ioctl",),
            # The kernel takes the lower half of the argument.
            comparisons=(Comparison(1, MASKED_EQ, request, mask=0xFFFFFFFF),),
        )
        for request in (_TIOCSTI, _TIOCLINUX)
    ),
)
"""A second filter, which is not podman's: no input is pushed into a terminal (CVE-2017-5226)."""

_NAMESPACES: Final = (
    *(0x00020000, 0x02000000, 0x04000000, 0x08000000),  # mnt, cgroup, uts, ipc
    *(0x10000000, 0x20000000, 0x40000000, 0x00000080),  # user, pid, net, time
)
"""CLONE_NEW... of linux/sched.h; the last one is a signal's bit in clone(2)."""

_NOT_OF_MACHINES: Final = """
acct add_key bpf delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick init_module io_uring_enter
io_uring_register io_uring_setup kcmp kexec_file_load kexec_load keyctl lookup_dcookie memfd_secret mount
mount_setattr move_mount mq_open msgget name_to_handle_at open_by_handle_at open_tree perf_event_open personality
pidfd_getfd pivot_root process_madvise process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot
remap_file_pages request_key semget setdomainname sethostname setns shmget swapoff swapon syslog umount umount2
userfaultfd vhangup
"""

MACHINE: Final = Profile(
    default=ALLOW,
    others=OTHERS,
    rules=(
        Rule(action=refuse(errno.ENOSYS), names=("clone3",)),  # whose flags are in memory
        Rule(action=_EPERM, names=tuple(_NOT_OF_MACHINES.split())),
        *(
            Rule(
                action=_EPERM,
                names=(name,),
                comparisons=(Comparison(0, MASKED_EQ, flag, mask=flag),),
            )
            for name in ("unshare", "clone")
            for flag in _NAMESPACES[: None if name == "unshare" else -1]
        ),
    ),
)
"""A second filter for QEMU and virtiofsd, in place of the terminal's: nothing that they do not do themselves."""
