"""What the supervisor does with a plan: its steps, its end, its reports. Whole views: tests/namespace."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest

from overlaykit import _native
from overlaykit.namespace import outbound
from overlaykit.procfs import children

from ..patience import patience
from . import plans
from .plans import FRONT, Ended, Step

ALONE: Final[tuple[Step, ...]] = (("front", FRONT, ()),)
DEADLINE_SECONDS: Final = patience(60)
GLIBC_SIGNALS: Final = 0b11 << 31
"""32 and 33."""
READY: Final = "echo ready; "
WAITING: Final = READY + "sleep 1000 & wait"


class Hung(BaseException):
    """The test did not end in time."""


def hung(number: int, _frame: object) -> None:
    raise Hung(signal.Signals(number).name)


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(DEADLINE_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pipe(stack: ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for descriptor in ends:
        stack.callback(os.close, descriptor)
    return ends


def pidfd(stack: ExitStack, process: int) -> int:
    descriptor = os.pidfd_open(process)
    stack.callback(os.close, descriptor)
    return descriptor


def described(steps: tuple[Step, ...], **descriptors: int) -> tuple[Step, ...]:
    """The section of the plan with these descriptors, in the slots 0, 1, 2, and so on."""
    slots = enumerate(descriptors.values())
    return (*(("descriptor", slot, number) for slot, number in slots), *steps)


@contextmanager
def running(
    raw: bytes, inherited: tuple[int, ...] = (), **how: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A view whose command has printed "ready"; it is killed at the end."""
    process = plans.start(raw, inherited, **how)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        plans.ended(process)


# ---- alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_the_status_is_the_commands(script: str, status: int) -> None:
    assert plans.run(plans.encoded(*plans.steps("sh", "-c", script))) == (status, "", "")


def failing(*init: Step) -> Ended:
    return plans.run(plans.encoded(*plans.steps("true", init=init)))


FAILURES: Final[dict[str, tuple[Step, ...]]] = {
    f"DIRECTORY|{errno.ENOENT}|/none": (("chdir", "/none", 1),),
    f"SYMLINK|{errno.EEXIST}|/etc": (("symlink", "x", "/etc"),),
    f"PROC|{errno.ENODEV}|/p": (("fresh", 0, "nofs", 0, (), 4, "PROC", "/p"),),
    f"BIND_SOURCE|{errno.ENOENT}|/s": (("clone", 0, "/none", 0, 0, 0, 4, "BIND_SOURCE", "/s"),),
    f"MISMATCH|{errno.ENOTDIR}|/etc/passwd": (
        ("clone", 0, "/etc", 0, 0, 0, 0, "BIND_SOURCE", ""),
        ("attach", 0, "/etc/passwd", 0),
    ),
    f"MISMATCH|{errno.EISDIR}|/etc": (
        ("clone", 0, "/etc/passwd", 0, 0, 0, 0, "BIND_SOURCE", ""),
        ("bind", 0, "/etc"),
        ("attach_binds",),
    ),
    f"MOUNTPOINT|{errno.ENOTDIR}|/etc/passwd/x": (
        ("clone", 0, "/etc/passwd", 0, 0, 0, 0, "BIND_SOURCE", ""),
        ("attach", 0, "/etc/passwd/x", 0),
    ),
    f"TWICE|{errno.EBUSY}|/etc/.\n/etc//": (
        ("clone", 0, "/etc", 0, 0, 0, 0, "BIND_SOURCE", ""),
        ("clone", 1, "/usr", 0, 0, 0, 0, "BIND_SOURCE", ""),
        ("bind", 0, "/etc/."),
        ("bind", 1, "/etc//"),
        ("attach_binds",),
    ),
}


@pytest.mark.parametrize("record", FAILURES)
def test_a_failing_step_names_itself_and_its_object(record: str) -> None:
    assert failing(*FAILURES[record]) == (124, "", f"{record}|before|")


def test_an_optional_step_may_fail() -> None:
    steps: tuple[Step, ...] = (
        ("fresh", 0, "nofs", 0, (), 1, "PROC", ""),
        ("attach", 0, "/none/at/all", 0),
        ("clone", 1, "/none", 0, 0, 0, 8, "PROC", ""),
        ("bind", 1, "/none"),
        ("attach_binds",),
        ("clone", 2, "/none", 0, 0, 0, 1, "PROC", ""),
        ("clone", 2, "/etc", 0, 0, 0, 2, "PROC", ""),
        ("attach", 2, "/none", 1),
        ("chdir", "/none", 0),
    )
    assert failing(*steps) == (0, "", "")
    assert not os.path.lexists("/none")


def test_an_alternative_is_left_out_where_it_is_not_needed() -> None:
    steps: tuple[Step, ...] = (
        ("fresh", 0, "tmpfs", 0, ("mode", "0755"), 1, "PROC", ""),
        ("clone", 0, "/none", 0, 0, 0, 2, "PROC", ""),
        ("attach", 0, "/mnt", 0),
    )
    assert failing(*steps) == (0, "", "")


def test_the_longest_name_fits_into_the_hosts() -> None:
    name = "x" * 64
    raw = plans.encoded(*plans.steps("cat", "/etc/hosts", init=[("hosts", name, "", 0)]))
    with open("/etc/hosts") as file:
        before = file.read()
    assert plans.run(raw) == (0, f"{before}127.0.0.1 {name}\n", "")


def executing(*candidates: str) -> Ended:
    return plans.run(plans.encoded(*plans.steps("name", candidates=candidates)))


def test_a_command_is_looked_up_as_execvp_does(tmp_path: os.PathLike[str]) -> None:
    forbidden, broken = (os.path.join(tmp_path, name) for name in ("forbidden", "broken"))
    with open(forbidden, "w") as file:
        file.write("#!/bin/sh\n")
    with open(broken, "w") as file:
        file.write("#!/none\n")
    os.chmod(broken, 0o755)
    assert executing() == (124, "", f"LOOKUP|{errno.ENOENT}|name|before|")
    assert executing("/none/name", "/etc/passwd/x").stderr == f"LOOKUP|{errno.ENOENT}|name|before|"
    expected = f"EXECUTE|{errno.EACCES}|{forbidden}|before|"
    assert executing("/none/name", forbidden, "/none/x").stderr == expected
    assert executing(broken, "/bin/true").stderr == f"EXECUTE|{errno.ENOENT}|{broken}|before|"
    assert executing(forbidden, "/bin/true") == (0, "", "")


def test_a_failing_front_leaves_one_line() -> None:
    steps = plans.steps("true", plan=[("front", ("/none",), ())], init=[("chdir", "/none", 1)])
    said = "supervisor: DIRECTORY: /none: No such file or directory\n"
    assert plans.run(plans.encoded(*steps)) == (125, "", said)


def shown(stack: ExitStack, *argv: str) -> tuple[str, int]:
    """What a command prints to a redirected stream; the descriptor that it is passed."""
    passed, _ = pipe(stack)
    out, into = pipe(stack)
    unnamed = os.open("/", os.O_RDONLY)
    stack.callback(os.close, unnamed)
    steps = plans.steps(
        *argv,
        plan=described(ALONE, passed=passed, into=into),
        command=[
            ("blocked", 1 << signal.SIGUSR1 - 1),
            ("ignored", 1 << signal.SIGHUP - 1 | 1 << signal.SIGCHLD - 1),
            ("standard", 1, 1),
            ("close_standard", 0b101),
            ("pass", 0),
        ],
        env=("A=1", "LISTEN_PID=x", "B", "LISTEN_PIDFD=x"),
        with_sockets=1,
    )
    assert plans.run(plans.encoded(*steps), (passed, into, unnamed)) == (0, "", "")
    return os.read(out, 65536).decode(), passed


def test_the_command_has_the_descriptors_of_the_plan_only(stack: ExitStack) -> None:
    listed, passed = shown(stack, "ls", "/proc/self/fd")
    # The first free number is the listing's own.
    assert {int(name) for name in listed.split()} == {0, 1, passed}


def test_the_command_has_the_signals_of_the_plan(stack: ExitStack) -> None:
    status, _ = shown(stack, "cat", "/proc/self/status")
    masks = dict(line.split(":\t", 1) for line in status.splitlines())
    assert int(masks["SigBlk"], 16) == 1 << signal.SIGUSR1 - 1
    # make(1) starts tests with glibc's own signals ignored.
    ignored = int(masks["SigIgn"], 16) & ~GLIBC_SIGNALS
    assert ignored == 1 << signal.SIGHUP - 1 | 1 << signal.SIGCHLD - 1


def test_the_command_has_the_environment_of_the_plan(stack: ExitStack) -> None:
    environment, _ = shown(stack, "cat", "/proc/self/environ")
    assert environment == "A=1\0LISTEN_PID=2\0B\0LISTEN_PIDFD=x\0"


def test_signals_of_processes_reach_the_command() -> None:
    script = "trap 'exit 5' USR1; " + WAITING
    with running(plans.encoded(*plans.steps("sh", "-c", script))) as process:
        process.send_signal(signal.SIGUSR1)
        assert process.wait() == 5


def test_it_can_be_stopped_and_continued() -> None:
    # In a process group of its own: the kernel discards SIGTSTP in one that is orphaned, as the tests' may be.
    steps = plans.steps("sh", "-c", WAITING)
    with running(plans.encoded(*steps), process_group=0) as process:
        process.send_signal(signal.SIGTSTP)
        stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert stopped is not None
        assert stopped.si_status == signal.SIGTSTP
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM


def test_its_streams_are_closed_while_the_command_runs(stack: ExitStack) -> None:
    steps = plans.steps("sh", "-c", "exec >&-; " + "sleep 1000")
    process = plans.start(plans.encoded(*steps))
    stack.callback(plans.ended, process)
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.read() == b""
    assert process.poll() is None


# ---- a helper --------------------------------------------------------------------------------


def connected(
    script: str,
    *argv: str,
    monitor: tuple[Step, ...] = (("unshare", _native.CLONE_NEWNET), ("connect", "", b"")),
    **how: Any,
) -> bytes:
    """A view whose network a script connects: $1 is the path of the namespace."""
    program = ("/bin/sh", "-c", script, "helper", "")
    helper: Step = ("helper", program, ("PATH=/usr/sbin:/usr/bin:/sbin:/bin",), "", 0)
    return plans.encoded(*plans.steps(*argv, monitor=(helper, *monitor), **how))


def leave(writer: int) -> None:
    """Close a pipe's write end, and keep its number: the read end is at its end once the helper's copies are closed."""
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, writer)
    os.close(null)


@pytest.mark.parametrize(
    "ready", ["sleep 1000 & exit 0", "echo >&3; exec sleep 1000", "sleep 1000 >&- 2>&- &"]
)
def test_a_helper_connects_the_network_before_the_command_runs(ready: str) -> None:
    # Of the one device that needs no module.
    script = f'set -e; nsenter --net="$1" ip link set lo mtu 1234; {ready}'
    status, stdout, stderr = plans.run(connected(script, "sh", "-c", "/sbin/ip link show lo"))
    assert (status, stderr) == (0, "")
    assert " mtu 1234 " in stdout
    with open("/sys/class/net/lo/mtu") as file:
        assert file.read() != "1234\n"


def failure_to_connect(said: str, error: int = errno.ECANCELED) -> Ended:
    return Ended(124, "", f"CONNECT|{error}|{said}|before|")


def test_a_failing_helper_ends_the_launch_with_what_it_said() -> None:
    raw = connected("echo no; echo route >&2; sleep 1000 & exit 3", "true")
    assert plans.run(raw) == failure_to_connect("/bin/sh\nno\nroute\n")


def test_a_helper_may_say_much() -> None:
    said = plans.run(connected("seq 100000; exit 3", "true")).stderr
    assert said.startswith("CONNECT|125|/bin/sh\n1\n2\n")
    assert len(said) < 3000


def test_a_helper_that_cannot_be_executed_ends_the_launch() -> None:
    steps = plans.steps(
        "true", monitor=[("helper", ("/none", "a"), (), "", 0), ("connect", "", b"")]
    )
    assert plans.run(plans.encoded(*steps)) == failure_to_connect("/none\n")


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGINT, 130),
        (signal.SIGHUP, -signal.SIGHUP),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_signal_before_the_command_ends_the_launch(
    stack: ExitStack, tmp_path: os.PathLike[str], number: signal.Signals, status: int
) -> None:
    """Nothing is left of a helper that has not connected yet, and the end of the plan is carried out."""
    reader, writer = pipe(stack)
    directory = os.open(tmp_path, os.O_PATH)
    stack.callback(os.close, directory)
    os.mkdir(os.path.join(tmp_path, "scratch"))
    path = f"/proc/{os.getpid()}/fd/{writer}"
    raw = connected(
        f"trap '' TERM; exec 9>{path}; echo >&9; sleep 1000",
        "true",
        plan=described(ALONE, directory=directory),
        end=[("remove", 0, "scratch")],
    )
    process = plans.start(raw, (directory,))
    assert os.read(reader, 1) == b"\n"
    process.send_signal(signal.SIGWINCH)
    process.send_signal(number)
    assert plans.ended(process) == (status, "", "")
    assert os.listdir(tmp_path) == ["scratch"] * (number == signal.SIGKILL)
    leave(writer)
    assert os.read(reader, 1) == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("how", ["echo >&3; exec sleep 1000", "setsid sleep 1000 & exit 0"])
def test_a_helper_ends_with_the_view(stack: ExitStack, how: str, number: signal.Signals) -> None:
    reader, writer = pipe(stack)
    script = f"trap '' TERM; exec 9>/proc/{os.getpid()}/fd/{writer}; {how}"
    with running(connected(script, "sh", "-c", WAITING)) as process:
        leave(writer)
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        os.set_blocking(reader, True)
        process.send_signal(number)
        assert os.read(reader, 1) == b""


REACHES: Final = b"overlaykit: the view reaches nothing outside any more: "


def test_the_end_of_a_helper_alone_is_told_and_the_view_goes_on(stack: ExitStack) -> None:
    reader, writer = pipe(stack)
    script = f"exec 9</proc/{os.getpid()}/fd/{reader}; echo >&3; read _ <&9"
    with running(connected(script, "sh", "-c", WAITING)) as process:
        os.write(writer, b"\n")
        assert process.stderr is not None
        assert process.stderr.readline() == REACHES + b"its network program has ended\n"
        assert process.poll() is None


def waiting(script: str, *argv: str) -> bytes:
    """A view whose interface waits for a packet, for which a script is started."""
    program = ("/bin/sh", "-c", script, "helper", "")
    made = outbound.Program(argv=program, name="eth0", on_use=True)
    helper: Step = ("helper", program, (), made.name, 1)
    connect: Step = ("connect", made.name, b"".join(made.requests()))
    monitor = (helper, ("unshare", _native.CLONE_NEWNET), connect)
    return plans.encoded(*plans.steps(*argv, monitor=monitor))


SEND: Final = """
import socket, time
socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9))
print("ready", flush=True)
time.sleep(1000)
"""


def test_a_helper_that_waits_starts_for_the_first_packet_alone(tmp_path: os.PathLike[str]) -> None:
    made = os.path.join(tmp_path, "made")
    script = f"echo >{made}; echo no way; exit 3"
    assert plans.run(waiting(script, "true")) == (0, "", "")
    assert not os.path.exists(made)
    with running(waiting(script, "python3", "-c", SEND)) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == REACHES + b"no way\n"
    assert os.path.exists(made)


def test_a_helper_that_is_not_to_connect_ends_as_well() -> None:
    raw = connected("exit 1", "sh", "-c", "exit 4", monitor=())
    assert plans.run(raw) == (4, "", "")


# ---- the end ---------------------------------------------------------------------------------


def make_tree(top: str) -> None:
    """A tree that is hard to remove: deep, unreadable, with a link out of it."""
    os.mkdir(top)
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("x" * 20, dir_fd=descriptor)
        os.symlink("/etc", "link", dir_fd=descriptor)
        below = os.open("x" * 20, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.mknod("device", 0o600 | 0o020000, 0, dir_fd=descriptor)
    os.close(descriptor)
    os.mkdir(os.path.join(top, "locked"))
    os.mkdir(os.path.join(top, "locked", "below"))
    os.chmod(os.path.join(top, "locked"), 0)
    os.mkdir(os.path.join(top, ".removed-0"))


@pytest.mark.parametrize("status", [0, 3])
def test_the_end_removes_what_the_plan_names(
    stack: ExitStack, tmp_path: os.PathLike[str], status: int
) -> None:
    for name in "empty", "full", "other":
        os.mkdir(os.path.join(tmp_path, name))
    os.mkdir(os.path.join(tmp_path, "full", "x"))
    os.symlink("other", os.path.join(tmp_path, "link"))
    make_tree(os.path.join(tmp_path, "tree"))
    directory = os.open(tmp_path, os.O_PATH)
    stack.callback(os.close, directory)
    steps = plans.steps(
        "sh",
        "-c",
        f"exit {status}",
        plan=described(ALONE, directory=directory),
        end=[
            ("restrict_capabilities", 1 << 40),  # none that there is
            ("remove", 0, "tree"),
            ("remove", 0, "link"),
            ("remove", 0, "none"),
            ("remove_if_empty", 0, "empty"),
            ("remove_if_empty", 0, "full"),
            ("remove_if_empty", 0, "none"),
        ],
    )
    assert plans.run(plans.encoded(*steps), (directory,)) == (status, "", "")
    assert sorted(os.listdir(tmp_path)) == ["full", "other"]


def test_the_end_removes_an_open_directory_and_none_that_has_its_earlier_name(
    stack: ExitStack, tmp_path: os.PathLike[str]
) -> None:
    path = os.path.join(tmp_path, "tree")
    make_tree(path)
    directory = os.open(path, os.O_RDONLY)
    stack.callback(os.close, directory)
    steps = plans.steps(
        "sh",
        "-c",
        'cd "$0" && mv tree renamed && mkdir tree && echo kept > tree/file',
        os.fspath(tmp_path),
        plan=described(ALONE, directory=directory),
        end=[("remove_opened", 0)],
    )
    assert plans.run(plans.encoded(*steps), (directory,)) == (0, "", "")
    assert os.listdir(tmp_path) == ["tree"]
    with open(os.path.join(path, "file")) as file:
        assert file.read() == "kept\n"


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_the_end_waits_for_the_daemon(stack: ExitStack, script: str, status: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        plan = described(ALONE, channel=theirs.fileno())
        steps = plans.steps("sh", "-c", READY + script, plan=plan, end=[("await", 0)])
        process = plans.start(plans.encoded(*steps), (theirs.fileno(),))
    assert process.stdout is not None
    assert process.stdout.read() == b"ready\n"
    ours.send(b"\n")
    assert plans.ended(process).status == status
    ours.close()


def test_a_daemon_that_ends_without_a_word_has_failed(stack: ExitStack) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        plan = described(ALONE, channel=theirs.fileno())
        steps = plans.steps("true", plan=plan, end=[("await", 0)])
        process = plans.start(plans.encoded(*steps), (theirs.fileno(),))
    ours.close()
    assert plans.ended(process) == (124, "", "DAEMON|0||after|")


def test_a_signal_ends_the_wait_for_the_daemon(stack: ExitStack) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        plan = described(ALONE, channel=theirs.fileno())
        steps = plans.steps("sh", "-c", READY, plan=plan, end=[("await", 0)])
        process = plans.start(plans.encoded(*steps), (theirs.fileno(),))
        assert process.stdout is not None
        assert process.stdout.read() == b"ready\n"
        # Signals of the time before are discarded once.
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
    assert plans.ended(process).status in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_a_view_ends_with_what_it_depends_on(stack: ExitStack) -> None:
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    plan = described((*ALONE, ("abort_on", 0)), reader=reader)
    process = plans.start(plans.encoded(*plans.steps("sh", "-c", WAITING, plan=plan)), (reader,))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.close(writer)
    assert plans.ended(process) == (124, "", "DAEMON|0||after|")


def test_a_lock_is_held_until_the_end(stack: ExitStack, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "lock")
    held = os.open(path, os.O_RDONLY | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    other = os.open(path, os.O_RDONLY)
    stack.callback(os.close, other)
    plan = described((*ALONE, ("hold", 0)), held=held)
    with running(plans.encoded(*plans.steps("sh", "-c", WAITING, plan=plan)), (held,)) as process:
        os.close(held)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.kill()
        fcntl.flock(other, fcntl.LOCK_EX)


# ---- with a parent ---------------------------------------------------------------------------


class Reporting:
    """A view that reports to this process, or that watches another one as its parent."""

    def __init__(self, stack: ExitStack, *steps: Step, script: str = "", watched: int = 0) -> None:
        self.stack = stack
        self.status, status_write = os.pipe()
        reap_read, self.reap = os.pipe()
        parent = os.pidfd_open(watched or os.getpid())
        plan = described(
            (("report", 0, 1), ("parent", 2)), status=status_write, reap=reap_read, parent=parent
        )
        raw = plans.encoded(*plans.steps("sh", "-c", script, plan=plan, init=steps))
        self.process = plans.start(raw, (status_write, reap_read, parent))
        for descriptor in status_write, reap_read, parent:
            os.close(descriptor)
        self.messages = b"".join(iter(lambda: os.read(self.status, 4096), b"")).split(b"\0\0\n")
        os.close(self.status)

    def init(self) -> int:
        return int(self.messages[0])


def state_of(process: int) -> str:
    with open(f"/proc/{process}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def test_a_parent_is_told_of_init_and_of_the_execution(stack: ExitStack) -> None:
    view = Reporting(stack, script="exit 4")
    assert view.messages[1:] == [b""]
    init = pidfd(stack, view.init())
    select.select([init], [], [])
    # Its process id is not given to another one before the parent has a pidfd.
    assert state_of(view.init()) == "Z"
    os.write(view.reap, b"\n")
    os.close(view.reap)
    assert plans.ended(view.process) == (4, "", "")


def test_a_parent_is_told_of_a_failure(stack: ExitStack) -> None:
    view = Reporting(stack, ("chdir", "/" + "x" * 4000, 1))
    os.close(view.reap)
    # Either comes first: init's process id, or the record.
    _, record, rest = sorted(view.messages[:2], key=len) + view.messages[2:]
    name, number, subject = record.split(b"\0")
    assert (name, int(number), rest) == (b"DIRECTORY", errno.ENAMETOOLONG, b"")
    assert subject.startswith(b"/xxx")
    assert len(record) < 4000
    assert plans.ended(view.process) == (1, "", "")


def test_a_view_ends_with_its_parent(stack: ExitStack) -> None:
    with subprocess.Popen(["sleep", "1000"]) as parent:
        view = Reporting(stack, script="sleep 1000", watched=parent.pid)
        init = pidfd(stack, view.init())
        parent.kill()
    select.select([init], [], [])
    assert plans.ended(view.process).status == 137
    os.close(view.reap)


# ---- death -----------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["monitor", "init", "command"])
def test_when_one_is_killed_the_others_end(stack: ExitStack, victim: str) -> None:
    with running(plans.encoded(*plans.steps("sh", "-c", WAITING))) as process:
        (init,) = children(process.pid)
        (command,) = children(init)
        everything = [pidfd(stack, one) for one in (init, command, *children(command))]
        os.kill({"monitor": process.pid, "init": init, "command": command}[victim], signal.SIGKILL)
        for one in everything:
            select.select([one], [], [])
        # The front reports what has died; the command's status is its own.
        if victim == "init":
            assert plans.ended(process) == (124, "", "INIT|0||after|")
        else:
            assert process.wait() == (-signal.SIGKILL if victim == "monitor" else 137)


def test_a_kill_at_any_moment_leaves_nothing(stack: ExitStack) -> None:
    """Each process of a view holds the pipe until it has ended."""
    before = os.listdir("/proc/self/fd")
    began = time.monotonic()
    assert plans.run(plans.encoded(*plans.steps("true"))).status == 0
    whole = time.monotonic() - began
    for moment in range(60):
        reader, writer = os.pipe()
        steps = plans.steps(
            "sh",
            "-c",
            WAITING,
            plan=described(ALONE, writer=writer),
            command=[("blocked", 0), ("pass", 0)],
        )
        process = plans.start(plans.encoded(*steps), (writer,))
        os.close(writer)
        time.sleep(whole * moment / 40)
        process.kill()
        assert os.read(reader, 1) == b""
        os.close(reader)
        assert plans.ended(process).status == -signal.SIGKILL
    assert os.listdir("/proc/self/fd") == before


# ---- ports -----------------------------------------------------------------------------------

SERVER: Final = """
import socket
with socket.create_server(("127.0.0.1", 80)) as server:
    print("ready", flush=True)
    client, _ = server.accept()
    client.sendall(client.recv(100) * 100000)
"""


def test_a_published_port_is_served_and_drained(stack: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        listener.setblocking(False)
        steps = plans.steps(
            "python",
            "-c",
            SERVER,
            plan=described(ALONE, listener=listener.fileno()),
            monitor=[("unshare", _native.CLONE_NEWNET), ("publish", 0, 80)],
            init=[("loopback",)],
            candidates=(sys.executable,),
        )
        process = plans.start(plans.encoded(*steps), (listener.fileno(),))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    with socket.create_connection(address) as client:
        client.sendall(b"0123456789")
        client.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received == b"0123456789" * 100000
    assert plans.ended(process) == (0, "", "")


# ---- memory ----------------------------------------------------------------------------------


def proportional_kib(process: int) -> int:
    with open(f"/proc/{process}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


def test_monitor_and_init_together_need_less_than_a_mebibyte() -> None:
    env = ("PATH=/usr/bin:/bin", "X=" + "x" * 100_000)
    with running(plans.encoded(*plans.steps("sh", "-c", WAITING, env=env))) as process:
        (init,) = children(process.pid)
        assert proportional_kib(process.pid) + proportional_kib(init) < 1024
