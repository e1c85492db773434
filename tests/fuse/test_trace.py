"""A trace says what programs do with files, also what the kernel would answer; it holds no program up."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from overlaykit.fuse import control, tracing
from overlaykit.fuse.spec import MountOptions

from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.files import read_file
from ..posix.table import File, Symlink
from .mounted import Mounted, mounted

_END = "end-of-the-test"


class Traced:
    """A client of a trace. `opens`: what the daemon says of it."""

    def __init__(self, mount: Mounted) -> None:
        self._mount = mount
        self._connection = control.Connection(mount.control_path, 60)
        self.opens = self._connection.trace().opens
        self.lost = 0

    def events(self) -> list[dict[str, Any]]:
        """All so far."""
        assert not os.path.exists(self._mount.path(_END))
        found: list[dict[str, Any]] = []
        while True:
            event = self.next()
            if event.get("path") == f"/{_END}":
                return found
            if "kind" in event:
                found.append(event)

    def next(self) -> dict[str, Any]:
        """The next line."""
        event: dict[str, Any] = json.loads(self._connection.line())
        self.lost += event.get("lost", 0)
        return event

    def close(self) -> None:
        self._connection.close()


@contextmanager
def traced(mount: Mounted) -> Iterator[Traced]:
    trace = Traced(mount)
    try:
        yield trace
    finally:
        trace.close()


def is_traced(mount: Mounted) -> bool:
    try:
        Traced(mount).close()
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def kinds(events: list[dict[str, Any]], path: str) -> list[str]:
    return [event["kind"] for event in events if event["path"] == path]


@pytest.mark.parametrize("data_plane", [True, False])
def test_each_thing_done_to_a_file_is_an_event(stack: Stack, data_plane: bool) -> None:
    stack.add({"d/f": File(b"x"), "d/g": File(b"x"), "s": Symlink("d/f"), "old/f": File(b"y")})
    options = MountOptions(userxattr=stack.unprivileged, data_plane=data_plane, no_open="off")
    with mounted(stack, options=options) as mount, traced(mount) as trace:
        assert read_file(mount.path("s")) == b"x"
        os.listdir(mount.path("d"))
        with refused(errno.ENOENT):
            read_file(mount.path("d/missing"))
        with open(mount.path("d/g"), "wb", buffering=0) as file:
            file.write(b"y")
            os.fsync(file)
        with open(mount.path("d/new"), "wb"):
            pass
        os.rename(mount.path("d/new"), mount.path("d/newer"))
        os.link(mount.path("d/newer"), mount.path("d/newest"))
        os.chmod(mount.path("d/newer"), 0o600)
        os.unlink(mount.path("d/newer"))
        events = trace.events()
        assert trace.opens
    assert kinds(events, "/s") == ["found", "followed"]
    assert kinds(events, "/d/f") == ["found", "opened", "read"]
    assert kinds(events, "/d") == ["found", "listed"]
    assert kinds(events, "/d/missing") == ["missed"]
    # Its name came with the listing, a moment before.
    assert {"opened", "changed", "written"} <= set(kinds(events, "/d/g"))
    assert [one.get("for") for one in events if one["kind"] == "opened"] == [None, "writing"]
    assert {"missed", "made", "renamed"} <= set(kinds(events, "/d/new"))
    assert [one["to"] for one in events if one["kind"] == "renamed"] == ["/d/newer"]
    assert {"linked", "changed", "removed"} < set(kinds(events, "/d/newer"))
    assert "made" in kinds(events, "/d/newest")
    assert {one["pid"] for one in events} == {os.getpid()}


def test_a_program_is_named_and_what_it_executes_is_an_event(stack: Stack) -> None:
    with open("/bin/true", "rb") as file:
        stack.add({"bin/nothing": File(file.read(), mode=0o755), "read": File(b"x")})
    options = MountOptions(userxattr=stack.unprivileged, no_open="off")
    with mounted(stack, options=options) as mount, traced(mount) as trace:
        subprocess.run([mount.path("bin/nothing")], check=True)
        program = "import sys; open(sys.argv[1]).read(); open(sys.argv[1]).read()"
        child = subprocess.Popen([sys.executable, "-c", program, mount.path("read")])
        assert child.wait() == 0
        events = trace.events()
    assert "executed" in kinds(events, "/bin/nothing")
    reads = [one for one in events if one["path"] == "/read"]
    assert {one["pid"] for one in reads} == {child.pid}
    assert all(one["program"].startswith("python") for one in reads)


def test_what_the_kernel_would_answer_is_an_event_of_each_program(stack: Stack) -> None:
    stack.add({"d/f": File(b"x")})
    options = MountOptions(userxattr=stack.unprivileged, no_open="off")
    with mounted(stack, options=options) as mount, traced(mount) as trace:
        pids = set()
        for _ in range(2):
            child = subprocess.Popen(["/bin/cat", mount.path("d/f")], stdout=subprocess.DEVNULL)
            assert child.wait() == 0
            pids.add(child.pid)
            time.sleep(5 * tracing.KEPT_SECONDS)  # the kernel counts whole ticks
        events = trace.events()
    for kind in ("found", "opened"):
        seen = {one["pid"] for one in events if (one["kind"], one["path"]) == (kind, "/d/f")}
        assert seen == pids


def test_a_burst_on_one_path_is_one_request(stack: Stack) -> None:
    stack.add({"d/f": File(b"x")})
    with mounted(stack) as mount, traced(mount):
        names = (mount.path("d/f"), mount.path("d/missing"))
        for _ in range(100):  # the time may end in the middle
            before = mount.counted().answered
            for _ in range(10):
                for name in names:
                    os.path.lexists(name)
            if 0 < mount.counted().answered - before <= len(names):
                return
    raise AssertionError("the kernel asks for each name each time")


def test_the_kernel_keeps_names_again_after_a_trace(stack: Stack) -> None:
    stack.add({"d/f": File(b"x")})
    with mounted(stack) as mount:
        with traced(mount) as trace:
            os.stat(mount.path("d/f"))
            trace.events()
        while is_traced(mount):  # until the daemon has heard of the end
            pass
        for _ in range(100):
            os.stat(mount.path("d/f"))
            with mount.requests() as requests:
                before = mount.counted().answered
                os.stat(mount.path("d/f"))
                if not requests and mount.counted().answered == before:
                    return
    raise AssertionError("the kernel still asks for each name")


def test_a_second_trace_is_refused(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount, traced(mount), refused(errno.EBUSY):
        Traced(mount)


def test_events_that_the_client_does_not_take_are_counted_and_hold_nothing_up(stack: Stack) -> None:
    number = tracing.MOST_EVENTS + 4096
    stack.add({"d/f": File(b"x")})
    with mounted(stack) as mount, traced(mount) as trace:
        prefix = "n" * 200
        for one in range(number):
            assert not os.path.lexists(mount.path(f"d/{prefix}{one}"))
        taken = 0
        while taken + trace.lost < number:
            event = trace.next()
            taken += prefix in event.get("path", "")
        assert trace.lost > 0
        assert taken + trace.lost == number
