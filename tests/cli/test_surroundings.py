"""A command's surroundings are its caller's, to the byte: one program is run plainly and in a view, and compared.

Everything is read from outside, where both are seen alike.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from overlaykit import _native
from overlaykit.procfs import descendants

from ..namespace.harness import line
from ..posix import syscalls
from ..views.user import TestUser, command

PROGRAM = "/usr/bin/cat"

MUST_DIFFER = {
    "status Tgid": "a process of its own",
    "status Pid": "a process of its own",
    "status PPid": "the view's init has started it",
    "status Ngid": "a process of its own",
    "status FDSize": "the size of a table that shrinks never",
    "status NStgid": "a view has a PID namespace",
    "status NSpid": "a view has a PID namespace",
    "status NSpgid": "a view has a PID namespace",
    "status NSsid": "a view has a PID namespace",
    "status CapPrm": "a view's root keeps the usual capabilities of a container",
    "status CapEff": "a view's root keeps the usual capabilities of a container",
    "status CapBnd": "a view's root keeps the usual capabilities of a container",
    "status SigQ": "counted for all processes of the user",
    "status Cpus_allowed_list": "Cpus_allowed says the same",
    "status Seccomp": "a view has a filter of its own",
    "status Seccomp_filters": "Seccomp says the same",
    "status State": "chance",
    "status voluntary_ctxt_switches": "chance",
    "status nonvoluntary_ctxt_switches": "chance",
}

ODD_ENVIRONMENT = [
    b"NOT_UTF_8=\xff\xfe",
    b"TWICE=first",
    b"NO_EQUALS_SIGN",
    b"EMPTY=",
    b"",
    b"=C:=odd",
    b"BASH_FUNC_exported%%=() {  :\n}",
    b"TWICE=second",
]
"""Without LC_ALL, LC_CTYPE and LANG: in the C locale Python sets LC_CTYPE itself (PEP 538)."""

NICE, LIMITS = (
    7,
    {
        resource.RLIMIT_NOFILE: (500, 1000),
        resource.RLIMIT_CORE: (0, 4096),
        resource.RLIMIT_CPU: (1000, 2000),
        resource.RLIMIT_FSIZE: (1 << 30, 1 << 31),
        resource.RLIMIT_STACK: (4 << 20, 16 << 20),
        resource.RLIMIT_DATA: (1 << 38, 1 << 39),
        resource.RLIMIT_MSGQUEUE: (4096, 8192),
        resource.RLIMIT_SIGPENDING: (100, 200),
    },
)

SYS_IOPRIO_SET, SYS_IOPRIO_GET = {"x86_64": (251, 252)}.get(os.uname().machine, (30, 31))
IOPRIO_OF_A_PROCESS, IDLE_CLASS = 1, 3 << 13
PR_SET_TIMERSLACK, PR_SET_NO_NEW_PRIVS, ADDR_NO_RANDOMIZE = 29, 38, 0x0040000

OF_LIBC = 0b11 << 31
"""Signals 32 and 33, as a mask."""

libc = ctypes.CDLL(None, use_errno=True)


def change_attributes(user: TestUser) -> None:
    """Change every attribute of this process that its user may change."""
    os.setsid()
    _, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    os.chdir(user.path("odd \udcff directory"))
    os.umask(0o177)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    for ignored in (signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGTTOU, 40):
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM, signal.SIGUSR2, signal.SIGALRM, 50})
    os.nice(NICE)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.sched_setaffinity(0, {0})
    assert libc.syscall(SYS_IOPRIO_SET, IOPRIO_OF_A_PROCESS, 0, IDLE_CLASS) == 0
    assert libc.personality(ADDR_NO_RANDOMIZE) >= 0
    _native.prctl(PR_SET_TIMERSLACK, 123_456)
    _native.prctl(PR_SET_NO_NEW_PRIVS, 1)
    for name, value in (("oom_score_adj", "321"), ("coredump_filter", "0x11")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(value)
    for limit, values in LIMITS.items():
        resource.setrlimit(limit, values)
    if user.is_root:
        os.setgroups([7, 42, 4711])


def attributes(process: int, caller: int) -> dict[str, object]:
    """The attributes of a process that `caller` has become, or has started, by procfs and system calls."""
    found: dict[str, object] = {}
    for row in read(process, "status").decode().splitlines():
        name, _, value = row.partition(":")
        if not name.startswith(("Vm", "Rss", "Huge")):
            found[f"status {name}"] = value.split()
        if name == "SigIgn":
            # libc's posix_spawn(3) ignores those it keeps to itself: whoever started this test may have used it.
            found[f"status {name}"] = int(value, 16) & ~OF_LIBC
    fields = read(process, "stat").rpartition(b")")[2].split()
    group, session, terminal, foreground = map(int, fields[2:6])
    found["process group, session, foreground group"] = [
        number == caller for number in (group, session, foreground)
    ]
    found["has a terminal"] = terminal != 0
    found["priority, nice, real-time priority, policy"] = [fields[n] for n in (15, 16, 37, 38)]
    for name in (
        *("environ", "limits", "oom_score_adj", "coredump_filter", "personality", "cgroup"),
        *(("timerslack_ns",) if os.geteuid() == 0 else ()),  # takes CAP_SYS_NICE
    ):
        found[name] = read(process, name)
    found["working directory"] = os.readlink(f"/proc/{process}/cwd")
    found["affinity"] = os.sched_getaffinity(process)
    found["I/O priority"] = libc.syscall(SYS_IOPRIO_GET, IOPRIO_OF_A_PROCESS, process)
    found["descriptors"] = sorted(os.listdir(f"/proc/{process}/fd"))
    return found


def read(process: int, name: str) -> bytes:
    with open(f"/proc/{process}/{name}", "rb") as file:
        return file.read()


@contextmanager
def start_program(user: TestUser, *prefix: str) -> Iterator[int]:
    """A process that changes its attributes and then becomes the program, or starts it; the program waits for input."""
    reader, writer = os.pipe()
    printed, output = os.pipe()
    variables = ("HOME", "OVERLAYKIT_SERVER", "PATH", "TMPDIR", "XDG_RUNTIME_DIR")
    environment = [
        *ODD_ENVIRONMENT,
        *(os.fsencode(f"{name}={os.environ[name]}") for name in variables if name in os.environ),
    ]
    arguments = [os.fsencode(word) for word in (*prefix, PROGRAM)]
    child = os.fork()
    if child == 0:
        try:
            os.dup2(reader, 0)
            os.dup2(output, 1)
            for descriptor in (reader, writer, printed, output):
                os.close(descriptor)
            change_attributes(user)
            syscalls.execve(os.fsdecode(arguments[0]), arguments, environment)
        finally:
            os._exit(99)
    os.close(reader)
    os.close(output)
    try:
        os.write(writer, b"running\n")
        assert line(printed) == b"running\n"
        yield child
    finally:
        os.close(writer)
        os.close(printed)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def find_program(ancestor: int) -> int:
    """The process below `ancestor`, or itself, that has become the program."""
    (process,) = filter(is_the_program, (ancestor, *descendants(ancestor)))
    return process


def is_the_program(process: int) -> bool:
    with suppress(PermissionError):  # a view's init cannot be traced
        return os.readlink(f"/proc/{process}/exe") == os.path.realpath(PROGRAM)
    return False


def test_a_commands_surroundings_are_its_callers(user: TestUser) -> None:
    user.directory("odd \udcff directory")
    with start_program(user) as process:
        plain = attributes(find_program(process), process)
    with start_program(user, command(), "run", "--") as process:
        viewed = attributes(find_program(process), process)
    different = {name for name in plain | viewed if plain.get(name) != viewed.get(name)}
    unexpected = different - set(MUST_DIFFER)
    assert {name: (plain.get(name), viewed.get(name)) for name in unexpected} == {}
    assert plain["environ"] == b"\0".join([*ODD_ENVIRONMENT, b""]) + environment_of_the_test()


def environment_of_the_test() -> bytes:
    variables = ("HOME", "OVERLAYKIT_SERVER", "PATH", "TMPDIR", "XDG_RUNTIME_DIR")
    return b"".join(
        os.fsencode(f"{name}={os.environ[name]}\0") for name in variables if name in os.environ
    )


def test_a_command_ignores_the_callers_ignored_signals_except_pythons_own(
    user: TestUser,
) -> None:
    script = "trap '' PIPE XFSZ USR1; exec \"$@\""
    line = ["sh", "-c", script, "sh", command(), "run", "grep", "SigIgn", "/proc/self/status"]
    # libc keeps the signals above for itself. It may ignore them when it spawns a process.
    standard = (1 << 31) - 1
    ignored = int(user.program(line).split()[1], 16) & standard
    assert ignored == 1 << (signal.SIGUSR1 - 1)
