"""The control socket answers each request with a line (docs/control.md); no client disturbs the mount, or another."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from overlaykit.fuse import control
from overlaykit.overlay.explanation import Explanation

from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.table import File, Symlink
from ..views.user import CHECKOUT
from .mounted import Mounted, mounted

MOST_CLIENTS = 32


@contextlib.contextmanager
def connected(mount: Mounted) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(mount.control_path)
        yield connection


def answers(connection: socket.socket, number: int) -> list[Any]:
    """The next answers, each a line."""
    with connection.makefile("rb") as file:
        return [json.loads(file.readline()) for _ in range(number)]


def explain(mount: Mounted, path: str) -> Explanation:
    return control.ask(mount.control_path, control.Explain(path), Explanation)


def test_explain_names_the_layer_and_the_real_file(stack: Stack) -> None:
    stack.add({"bin": Symlink("usr/bin")})
    lower = stack.add({"usr/bin/python": File(b"x")})
    with mounted(stack) as mount:
        explained = explain(mount, "/bin/python")
        assert explained.path == "/usr/bin/python"
        assert [(hit.path, hit.role) for hit in explained.hits] == [
            (os.path.join(lower, "usr/bin/python"), "answers")
        ]
        with open(mount.path("bin/python"), "wb"):
            pass
        assert [hit.role for hit in explain(mount, "/bin/python").hits] == ["answers", "shadowed"]


def test_the_documentation_names_each_request_and_each_member(stack: Stack) -> None:
    with open(os.path.join(CHECKOUT, "docs/control.md"), encoding="utf-8") as file:
        documented = set(re.findall(r"`(\w+)`", file.read()))
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount, connected(mount) as connection:
        with open(mount.path("f"), "ab") as file:
            file.write(b"y")
        for request in ("version", "stack", "stats", "explain"):
            path = {"path": "/f"} if request == "explain" else {}
            connection.sendall(json.dumps({"request": request, **path}).encode() + b"\n")
        version, *others = (one["answer"] for one in answers(connection, 4))
        *changes, last = differs(connection)
        # What a change is, is documented elsewhere (docs/changes.md).
        others += [*({name: None} for one in changes for name in one), last["answer"]]
    assert {"version", "stack", "stats", "explain"} < set(version["requests"]) <= documented
    for kinds in ("requests", "python", "native"):  # named by the kernel
        others[1][kinds] = next(iter(others[1][kinds].values()), None)
    assert members([version, *others]) <= documented


def members(value: object) -> set[str]:
    """The names of all members, at any depth."""
    if isinstance(value, dict):
        return {*value}.union(*map(members, value.values()))
    return set().union(*map(members, value)) if isinstance(value, list) else set()


def test_a_missing_path_is_an_error_that_names_it(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount:
        with refused(errno.ENOENT):
            explain(mount, "/missing")
        with refused(errno.ENAMETOOLONG):
            explain(mount, "/x" * 2049)
        with refused(errno.EINVAL):
            explain(mount, "/\0")


def test_a_path_through_long_symlinks_does_not_keep_the_daemon_busy(stack: Stack) -> None:
    """Each of them leads through the next one: 54,000 names in all."""
    detour = "d/../" * 700
    links = {f"l{n}": Symlink(f"{detour}l{n + 1}") for n in range(39)}
    stack.add({"d/f": File(b"x"), "l39": File(b"x"), **links})
    with mounted(stack) as mount:
        with refused(errno.ELOOP):
            explain(mount, "/l0/x")
        assert explain(mount, "/l38").target is not None


def test_the_requests_of_a_connection_are_answered_in_their_order(stack: Stack) -> None:
    lower = stack.add({"f": File(b"x")})
    with mounted(stack) as mount, connected(mount) as connection:
        lines = (
            b'{"request":"version"}',
            b'{"request":"stats"}',
            b'{"request":"explain","path":"/missing"}',
            b'{"request":"stack"}',
        )
        connection.sendall(b"\n".join(lines) + b"\n")
        connection.shutdown(socket.SHUT_WR)
        version, stats, missing, directories = answers(connection, 4)
        assert version["answer"]["protocol"] == control.PROTOCOL
        assert version["answer"]["requests"] == [
            "version",
            "explain",
            "diff",
            "stats",
            "stack",
            "freeze",
            "layers",
            "trace",
            "end",
        ]
        assert stats["answer"]["held"]["nodes"] == 1
        assert missing["error"] == {
            "errno": "ENOENT",
            "message": "No such file or directory",
            "path": "/missing",
        }
        assert directories["answer"]["layers"] == [lower]
        assert directories["answer"]["upper"] == stack.upper
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b"", "EINVAL"),
        (b"nonsense", "EINVAL"),
        (b"\xff", "EINVAL"),
        (b"[]", "EINVAL"),
        (b"{}", "EINVAL"),
        (b"[" * 60_000, "EINVAL"),
        (b"9" * 60_000, "EINVAL"),
        (b'{"request":[]}', "ENOSYS"),
        (b'{"request":"later"}', "ENOSYS"),
        (b'{"request":"explain"}', "EINVAL"),
        (b'{"request":"explain","path":7}', "EINVAL"),
        (b'{"request":"stats","path":"/"}', "EINVAL"),
    ],
)
def test_a_line_that_is_no_request_is_refused_and_the_next_one_answered(
    stack: Stack, line: bytes, number: str
) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount, connected(mount) as connection:
        connection.sendall(line + b'\n{"request":"stats"}\n')
        refusal, stats = answers(connection, 2)
        assert refusal["error"]["errno"] == number
        assert "answer" in stats
        assert os.listdir(mount.target) == ["f"]


@pytest.mark.parametrize(
    ("line", "number"), [(b'{"request":"end"}', "EINVAL"), (b"x" * 100_000, "EMSGSIZE")]
)
def test_a_line_that_is_cut_off_or_too_long_ends_its_own_connection_only(
    stack: Stack, line: bytes, number: str
) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount:
        with connected(mount) as connection:
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            (refusal,) = answers(connection, 1)
            assert refusal["error"]["errno"] == number
            with contextlib.suppress(ConnectionResetError):  # too long: the rest was left unread
                assert connection.recv(1) == b""
        assert mount.counted().held["nodes"] == 1
        assert os.listdir(mount.target) == ["f"]


def test_a_silent_client_delays_no_other(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount, connected(mount) as silent:
        assert mount.counted().held["nodes"] == 1
        mount.unmount()
        assert silent.recv(1) == b""


def test_one_client_too_many_ends_the_one_that_was_idle_for_longest(stack: Stack) -> None:
    stack.add({"f": File(b"x")})

    def ask(connection: socket.socket) -> None:
        connection.sendall(b'{"request":"stats"}\n')
        assert answers(connection, 1)

    with mounted(stack) as mount, contextlib.ExitStack() as open_ones:
        clients = [open_ones.enter_context(connected(mount)) for _ in range(MOST_CLIENTS)]
        for one in (*clients, clients[0]):
            ask(one)
        assert mount.counted().held["nodes"] == 1
        assert clients[1].recv(1) == b""
        ask(clients[0])
        assert os.listdir(mount.target) == ["f"]


def test_a_client_that_reads_no_answers_holds_no_request_up(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount, connected(mount) as connection:
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection.send(b'{"request":"stats"}\n' * 1000)
        assert mount.counted().held["nodes"] == 1
        with open(mount.path("f"), "rb") as file:
            assert file.read() == b"x"


def differs(connection: socket.socket, **members: object) -> list[Any]:
    """The lines of a comparison: the last one is no change."""
    connection.sendall(json.dumps({"request": "diff", **members}).encode() + b"\n")
    found = []
    with connection.makefile("rb") as file:
        for line in file:
            found.append(json.loads(line))
            if found[-1].keys() & {"answer", "error"}:
                break
    return found


def test_a_comparison_gives_each_change_on_a_line_and_their_number(stack: Stack) -> None:
    stack.add({"d/gone": File(b"x"), "f": File(b"x"), "touched": File(b"x")})
    with mounted(stack) as mount, connected(mount) as connection:
        os.unlink(mount.path("d/gone"))
        os.utime(mount.path("touched"), (0, 0))
        with open(mount.path("f"), "ab") as file:
            file.write(b"y")
            os.fsync(file.fileno())
        *changes, last = differs(connection)
        assert [(one["change"]["kind"], one["change"]["path"]) for one in changes] == [
            ("deleted", "/d/gone"),
            ("changed", "/f"),
        ]
        assert changes[1]["change"]["what"] == ["content", "size", "times"]
        assert last == {"answer": {"changes": 2}}
        assert differs(connection, path="touched", times=True)[-1] == {"answer": {"changes": 1}}
        assert [one["change"]["path"] for one in differs(connection, path="d/")[:-1]] == ["/d/gone"]
        for path, number in (("/zz", "ENOENT"), ("/x" * 2049, "ENAMETOOLONG"), ("\0", "EINVAL")):
            (refusal,) = differs(connection, path=path)
            assert refusal["error"]["errno"] == number
        connection.sendall(b'{"request":"diff"}\n{"request":"stats"}\n')
        connection.shutdown(socket.SHUT_WR)
        *_, compared, stats = answers(connection, 4)
        assert compared == last
        assert "held" in stats["answer"]


def test_nothing_is_compared_without_an_upper(stack: Stack) -> None:
    stack.add({})
    with mounted(stack, writable=False) as mount, connected(mount) as connection:
        (refusal,) = differs(connection)
        assert refusal["error"]["errno"] == "EROFS"


def add_many(stack: Stack) -> None:
    """Changes whose lines no socket holds."""
    os.makedirs(stack.upper, exist_ok=True)
    for number in range(800):
        with open(os.path.join(stack.upper, f"{number:0255}"), "wb"):
            pass


def has_ended(pidfd: int, seconds: float | None = None) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])


def child_of(mount: Mounted) -> int:
    """The child of the daemon that has started last."""
    with open(f"/proc/{mount.process.pid}/task/{mount.process.pid}/children", "rb") as file:
        return [*map(int, file.read().split())][-1]


def comparing(mount: Mounted, connection: socket.socket) -> int:
    """A pidfd of the daemon's child, which compares for a client that reads no more than the first bytes."""
    connection.sendall(b'{"request":"diff"}\n')
    assert connection.recv(1) == b"{"
    return os.pidfd_open(child_of(mount))


def test_a_comparison_that_is_not_read_holds_no_request_up_and_ends_with_its_client(
    stack: Stack,
) -> None:
    stack.add({"f": File(b"x")})
    add_many(stack)
    with mounted(stack) as mount:
        with connected(mount) as connection:
            child = comparing(mount, connection)
            assert mount.counted().held["nodes"] == 1
            with open(mount.path("f"), "ab") as file:
                file.write(b"y")
            assert not has_ended(child, 0)
        assert has_ended(child)
        os.close(child)


def test_a_comparison_does_not_outlive_the_mount(stack: Stack) -> None:
    stack.add({})
    add_many(stack)
    with mounted(stack) as mount, connected(mount) as connection:
        child = comparing(mount, connection)
        mount.unmount()
        assert has_ended(child, 0)
        os.close(child)


def test_a_comparison_keeps_no_descriptor_of_the_daemon_but_those_of_the_layers(
    stack: Stack,
) -> None:
    """The kernel ends the mount with the last one of its device, and the lock with that of the upper."""
    stack.add({})
    add_many(stack)
    with mounted(stack) as mount, connected(mount) as connection:
        os.close(comparing(mount, connection))
        held = f"/proc/{child_of(mount)}/fd"
        open_files = [os.readlink(os.path.join(held, fd)) for fd in os.listdir(held)]
        assert not [one for one in open_files if one == "/dev/fuse" or one.startswith("anon_inode")]
        assert sum(one.startswith("socket:") for one in open_files) == 1


def test_so_many_comparisons_run_at_once(stack: Stack) -> None:
    stack.add({})
    add_many(stack)
    with mounted(stack) as mount, contextlib.ExitStack() as open_ones:
        for _ in range(8):
            os.close(comparing(mount, open_ones.enter_context(connected(mount))))
        with connected(mount) as one_more:
            (refusal,) = differs(one_more)
            assert refusal["error"]["errno"] == "EBUSY"
            assert mount.counted().held["nodes"] == 1


def test_a_comparison_that_is_killed_ends_its_connection_and_is_logged(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    add_many(stack)
    with mounted(stack) as mount:
        with connected(mount) as connection:
            child = comparing(mount, connection)
            signal.pidfd_send_signal(child, signal.SIGKILL)
            while connection.recv(1 << 16):
                pass
            os.close(child)
        assert os.path.exists(mount.path("f"))
        with open(mount.log_path, encoding="utf-8") as log:
            assert "a comparison ended with status -9" in log.read()
        os.unlink(mount.log_path)
