"""The daemon's filter of system calls: what a daemon does goes on, and what it never does is refused."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys

import pytest

from overlaykit.namespace import seccomp_daemon, seccomp_filter
from overlaykit.namespace.confinement import KEPT

from ..namespace.bpf import ALLOW, ERRNO, I386, X32, X86_64, action
from ..overlay.stack import Stack
from ..posix.table import File
from ..processes import thread_statuses
from .mounted import mounted
from .restarts import daemon_of

pytestmark = pytest.mark.as_each_user

if platform.machine() != "x86_64":
    pytest.skip("the numbers below are those of x86_64", allow_module_level=True)

EPERM = ERRNO | errno.EPERM

NEVER = {
    "socket": 41,
    "connect": 42,
    "bind": 49,
    "listen": 50,
    "execve": 59,
    "ptrace": 101,
    "setuid": 105,
    "setgroups": 116,
    "pivot_root": 155,
    "chroot": 161,
    "acct": 163,
    "mount": 165,
    "swapon": 167,
    "reboot": 169,
    "sethostname": 170,
    "iopl": 172,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "settimeofday": 164,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "perf_event_open": 298,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "execveat": 322,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "a call of the future": 999,
}
"""What no daemon does once it has mounted."""


def compiled(profile: str) -> bytes:
    return seccomp_filter.compiled(getattr(seccomp_daemon, profile), KEPT)


@pytest.mark.parametrize("profile", ["VIEW", "MOUNT"])
def test_what_a_daemon_never_does_is_refused_by_every_way_to_ask(profile: str) -> None:
    program = compiled(profile)
    for name, number in NEVER.items():
        assert action(program, number) == EPERM, name
    for architecture, number in ((I386, 11), (X86_64, X32 | 59)):
        assert action(program, number, architecture=architecture) != ALLOW
    new_user, new_net, thread = 0x10000000, 0x40000000, 0x3D0F00
    assert action(program, 56, (thread,)) == ALLOW
    for flag in (new_user, new_net, thread | 0x00020000):
        assert action(program, 56, (flag,)) == EPERM
    assert action(program, 272, (new_net,)) == EPERM
    assert action(program, 16, (0, 0x5412)) == EPERM  # TIOCSTI
    for target, allowed in ((0, ALLOW), (1, EPERM)):
        assert action(program, 141, (0, target, 10)) == allowed  # setpriority
    assert action(program, 53, (2, 1, 0)) == EPERM  # socketpair of AF_INET
    assert action(compiled("THREADS"), 435) == ERRNO | errno.ENOSYS


STARTS = {
    "pivot_root",
    "chroot",
    "mount",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "mount_setattr",
}
"""What a daemon does before it is confined itself."""


def test_the_fork_server_does_only_what_a_daemon_does_and_starts_it() -> None:
    program = compiled("SERVER")
    for name, number in NEVER.items():
        assert action(program, number) == (ALLOW if name in STARTS else EPERM), name
    new_mounts, new_user, new_net = 0x00020000, 0x10000000, 0x40000000
    for flags in (new_mounts, new_mounts | new_user):
        assert action(program, 272, (flags,)) == ALLOW  # unshare
    for flags in (new_net, new_mounts | new_net, new_user):
        assert action(program, 272, (flags,)) == EPERM
    for number in range(500):  # no daemon loses a call by it
        if action(compiled("VIEW"), number) == ALLOW:
            assert action(program, number) == ALLOW


def test_the_daemon_of_a_view_enters_no_namespace_and_that_of_a_mount_only_to_unmount() -> None:
    new_mounts, new_user, new_net = 0x00020000, 0x10000000, 0x40000000
    for profile, allowed in (("VIEW", EPERM), ("MOUNT", ALLOW)):
        program = compiled(profile)
        assert action(program, 308, (3, new_mounts)) == allowed
        assert action(program, 308, (3, new_net)) == EPERM
        assert action(program, 272, (new_user,)) == allowed


def test_all_calls_on_files_are_allowed_by_their_names() -> None:
    """None that fails may be taken for one that the file system does not know (ENOSYS): FSYNC would be lost."""
    program = compiled("VIEW")
    names = {"read": 0, "write": 1, "pwrite64": 18, "fsync": 74, "fdatasync": 75, "ftruncate": 77}
    names |= {"copy_file_range": 326, "renameat2": 316, "fsetxattr": 190, "sync_file_range": 277}
    names |= {"fallocate": 285, "fchmodat2": 452, "openat2": 437, "close_range": 436, "statx": 332}
    for name, number in names.items():
        assert action(program, number) == ALLOW, name
    assert all(action(program, number) in (ALLOW, EPERM) for number in range(500))


def test_every_thread_of_a_daemon_is_confined(stack: Stack) -> None:
    stack.add({"large": File(b"x" * (3 << 20))})
    with mounted(stack, restart=True) as merged:
        # The copy-up and the sync run in threads, which stay for a while.
        with open(merged.path("large"), "r+b") as file:
            file.write(b"new")
            file.flush()
            os.fsync(file.fileno())
        found = thread_statuses(daemon_of(merged.process.pid))
        assert len(found) > 1
        found += thread_statuses(merged.process.pid)
        for status in found:
            assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", "2")
            assert status["NoNewPrivs"] == "1"


CONFINED = """
import ctypes, errno, os, socket, subprocess, sys, threading
from overlaykit.fuse.confinement import confine
ready, seen = threading.Event(), []
def other():
    ready.wait()
    seen.append(refused(lambda: os.execv("/bin/true", ["true"])))
def refused(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
thread = threading.Thread(target=other)
thread.start()
confine(attached=False)
ready.set()
thread.join()
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    libc.syscall(number, *arguments)
    return errno.errorcode[ctypes.get_errno()]
print(*seen, refused(lambda: os.execv("/bin/true", ["true"])), refused(socket.socket), call(101, 0, 0, 0, 0),
      call(165, 0, 0, 0, 0, 0), call(321, 0, 0, 0))
child = os.fork()
if child == 0:
    os._exit(refused(lambda: os.execv("/bin/true", ["true"])) != "EPERM")
print(os.waitpid(child, 0)[1])
new = threading.Thread(target=lambda: print(refused(lambda: os.execv("/bin/true", ["true"]))))
new.start()
new.join()
with open(sys.argv[1], "w") as file:
    file.write("written")
    os.fsync(file.fileno())
"""


def test_a_confined_process_keeps_its_files_and_threads_and_executes_nothing(stack: Stack) -> None:
    path = os.path.join(stack.directory, "file")
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "EPERM EPERM EPERM EPERM EPERM EPERM\n0\nEPERM\n"
    with open(path) as file:
        assert file.read() == "written"
