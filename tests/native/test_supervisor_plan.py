"""The supervisor refuses a plan whole if it does not understand any part of it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlaykit import _native
from overlaykit.namespace import plan
from overlaykit.namespace.plan import BadPlan

from . import plans
from .plans import COMMAND, END, FRONT, MONITOR, PLAN, Step
from .sandbox import sandboxed

REFUSED: Final = 125
FUZZ: Final = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Effects:
    """What the first steps of a plan leave, if they are carried out."""

    steps: list[Step]
    descriptors: tuple[int, ...]
    reader: int
    marker: str

    def seen(self) -> bool:
        with suppress(BlockingIOError):
            return bool(os.read(self.reader, 1))
        return os.path.lexists(self.marker)


@pytest.fixture
def effects(tmp_path: os.PathLike[str]) -> Iterator[Effects]:
    """A plan that writes a byte as init's first step, and then would make a link."""
    reader, ready = os.pipe()
    written, writer = os.pipe()
    os.write(writer, b".")
    os.set_blocking(reader, False)
    marker = os.path.join(tmp_path, "marker")
    steps = plans.steps(
        "true",
        plan=[
            ("descriptor", 0, ready),
            ("descriptor", 1, written),
            ("front", FRONT, ("A=B",)),
            ("hold", 1),
        ],
        init=[
            ("join_cgroup", 0),
            ("directory", "/", 0o755),
            ("symlink", "target", marker),
            ("fresh", 2, "tmpfs", 0, ("mode", "0700"), 1, "FILE_SYSTEM", "/x"),
            ("clone", 2, "/dev/null", 0, 0, 0, 2, "FILE_SYSTEM", "/x"),
            ("attach", 2, os.fspath(tmp_path), 1),
            ("protect", ("/proc/a",), ("/proc/b",), (), 1),
        ],
        command=[("blocked", 0), ("ignored", 0), ("close_standard", 1)],
        end=[("await", 1)],
    )
    yield Effects(steps, (ready, written), reader, marker)
    for descriptor in reader, ready, written, writer:
        os.close(descriptor)


def refusal(raw: bytes, effects: Effects) -> str:
    """What the program says to a plan that it refuses."""
    status, stdout, stderr = plans.run(raw, effects.descriptors)
    assert not effects.seen()
    assert (status, stdout) == (REFUSED, "")
    start = "supervisor: the plan is not understood: "
    assert stderr.startswith(start)
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1
    return stderr.removeprefix(start).rstrip("\n")


def test_a_good_plan_is_carried_out(effects: Effects) -> None:
    assert plans.run(plans.encoded(*effects.steps), effects.descriptors) == (0, "", "")
    assert effects.seen()
    assert os.readlink(effects.marker) == "target"


def test_a_check_carries_nothing_out(effects: Effects) -> None:
    raw = plans.encoded(*effects.steps)
    assert plans.run(raw, effects.descriptors, "--check") == (0, "", "")
    assert not effects.seen()


HEADERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "it does not begin as a plan": lambda body: b"x" + plans.framed(body)[1:],
    "its version is another one": lambda body: plans.framed(body, version=2),
    "its size is another one": lambda body: plans.framed(body, more=1),
    "it has 0 bytes": lambda _: b"",
    "there is no command": lambda _: plans.framed(b""),
    f"it has {(8 << 20) + 1} bytes": lambda _: bytes((8 << 20) + 1),
}


@pytest.mark.parametrize("said", HEADERS)
def test_a_wrong_header_is_named(effects: Effects, said: str) -> None:
    body = b"".join(map(plans.record, effects.steps))
    assert refusal(HEADERS[said](body), effects) == said


HEAD: Final[tuple[Step, ...]] = (("section", PLAN), ("front", FRONT, ()))
UNSHARE: Final[Step] = ("unshare", _native.CLONE_NEWPID)
EXEC: Final[Step] = ("exec", ("true",), (), ("/bin/true",), 0)
WHOLE: Final[tuple[Step, ...]] = (
    *HEAD,
    ("section", MONITOR),
    UNSHARE,
    ("section", COMMAND),
    EXEC,
)

WRONG: Final[dict[str, tuple[Step, ...]]] = {
    "record 1: front: it comes before the first section": (("front", FRONT, ()),),
    "record 2: section: the sections are not in order": (("section", PLAN), ("section", PLAN)),
    "record 3: section: the sections are not in order": (*HEAD, ("section", END + 1)),
    "record 2: descriptor: it is no descriptor from 3 on": (
        ("section", PLAN),
        ("descriptor", 0, 2),
    ),
    "record 2: descriptor: the descriptor is not open": (
        ("section", PLAN),
        ("descriptor", 0, 1 << 20),
    ),
    "record 2: there is no such slot": (("section", PLAN), ("hold", 4096)),
    "record 2: call: there is no such system call": (
        ("section", PLAN),
        ("call", len(plan.CALLS), 0, 0, 0, "NAMESPACES", "", ()),
    ),
    "record 2: it has no words": (
        ("section", PLAN),
        ("call", 0, 0, 0, 0, "NAMESPACES", "", (("u", 0),) * 7),
    ),
    "there is no command": (*HEAD, ("section", MONITOR), UNSHARE),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_record_is_named(effects: Effects, said: str) -> None:
    assert refusal(plans.encoded(*WRONG[said]), effects) == said


RAW: Final = {
    "record 1: the plan ends within it": b"\x01\0\1",
    "record 1: there is no such step": struct.pack("=HH", 0, 0),
    "record 1: the number of arguments is wrong": struct.pack("=HH", 1, 0),
    "record 1: an argument is longer than the plan": struct.pack("=HHIQ", 1, 1, 9, 0),
    "record 1: an integer has not 8 bytes": struct.pack("=HHII", 1, 1, 4, 0),
    "record 1: a slot has not 4 bytes": struct.pack("=HHIQIQ", 2, 2, 8, 0, 8, 0),
    "record 1: a string does not end with its only NUL": struct.pack("=HHI4s", 60, 1, 4, b"a\0b\0"),
    "record 1: it has no words": struct.pack(
        "=HH IQ II IQ IQ I2s I1s I5s", 12, 7, 8, 0, 4, 0, 8, 0, 8, 0, 2, b"A", 1, b"", 5, b"s"
    ),
    "record 1: a list does not end with NUL": struct.pack("=HHI4sI", 4, 2, 4, b"a\0bc", 0),
}


@pytest.mark.parametrize("said", RAW)
def test_wrong_bytes_are_named(effects: Effects, said: str) -> None:
    assert refusal(plans.framed(RAW[said]), effects) == said


def test_a_plan_must_be_a_file(effects: Effects) -> None:
    status, _, stderr = plans.run(plans.encoded(*effects.steps), effects.descriptors, "--other")
    assert (status, stderr[:6]) == (REFUSED, "usage:")


def test_a_truncated_plan_is_refused(effects: Effects) -> None:
    raw = plans.encoded(*effects.steps)
    records = [len(plans.framed(b""))]
    for step in effects.steps:
        records.append(records[-1] + len(plans.record(step)))
    assert records[-1] == len(raw)
    command = next(at for at, step in enumerate(effects.steps) if step[0] == "exec")
    for end in records[:-1]:
        assert refusal(raw[:end], effects)
    for end in records[: command + 1]:
        for cut in (end, end + 1, end + 3, end + 5):
            assert refusal(plans.framed(raw[records[0] : cut]), effects)


EDITS: Final = st.lists(
    st.tuples(
        st.sampled_from(["set", "delete", "insert"]),
        st.integers(0, 4095),
        st.binary(min_size=1, max_size=8) | st.integers(0, 40).map(lambda n: struct.pack("=I", n)),
    ),
    max_size=6,
)


def edited(body: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    raw = bytearray(body)
    for what, at, new in edits:
        place = at % (len(raw) + 1)
        if what == "set":
            raw[place : place + len(new)] = new
        elif what == "delete":
            del raw[place : place + len(new)]
        else:
            raw[place:place] = new
    return bytes(raw)


def check(raw: bytes, effects: Effects) -> None:
    """Check a plan that may be good by chance."""
    status, stdout, stderr = plans.run(raw, effects.descriptors, "--check")
    assert status in (0, REFUSED), stderr
    assert stdout == ""
    assert stderr.count("\n") == bool(status)


def carry_out_no_part(body: bytes, effects: Effects) -> None:
    """Run a plan with records that end with a wrong one, so that no edit makes it a good plan."""
    refusal(plans.framed(body + struct.pack("=HHI", 0xFFFF, 0xFFFF, 0xFFFFFFFF)), effects)


@FUZZ
@given(edits=EDITS)
def test_edited_bytes_are_refused_or_understood(
    effects: Effects, edits: list[tuple[str, int, bytes]]
) -> None:
    body = edited(b"".join(map(plans.record, effects.steps)), edits)
    check(plans.framed(body), effects)
    carry_out_no_part(body, effects)


@FUZZ
@given(data=st.data())
def test_edited_records_are_refused_or_understood(effects: Effects, data: st.DataObject) -> None:
    """Records in another order, missing or twice, with other slots and numbers."""
    records = data.draw(st.lists(st.sampled_from(effects.steps), max_size=30))
    records = effects.steps[: data.draw(st.integers(0, len(effects.steps)))] + records
    changed = [
        (step[0], *(data.draw(st.integers(0, 5)) if type(one) is int else one for one in step[1:]))
        if data.draw(st.integers(0, 9)) == 0
        else step
        for step in records
    ]
    body = b"".join(map(plans.record, changed))
    check(plans.framed(body), effects)
    carry_out_no_part(body, effects)


PATHS: Final = st.one_of(
    st.text("ab/.\n\xe9", max_size=40),
    st.sampled_from(
        ["/mnt", "/mnt/", "/mnt/a/b", "/mnt/file/x", "/mnt/loop/x", "/mnt/up/../mnt", "/"]
    ),
    st.sampled_from([4, 64, 255, 256, 2040, 4095, 4096, 5000]).map(lambda n: "/mnt/" + "x" * n),
    st.sampled_from([100, 1000, 2045, 2046, 2047]).map(lambda n: "/mnt" + "/y" * n),
)
SLOTS: Final = st.integers(10, 14)
STEPS: Final = st.one_of(
    st.tuples(st.just("fresh"), SLOTS, st.sampled_from(["tmpfs", "proc", "nofs"]), st.just(0))
    .map(lambda head: (*head, ("mode", "0700"), 1, "FILE_SYSTEM", "/x"))
    .flatmap(lambda step: st.tuples(*map(st.just, step[:7]), PATHS)),
    st.tuples(st.just("clone"), SLOTS, PATHS, st.sampled_from([0, 1]), st.sampled_from([0, 8])).map(
        lambda head: (*head, 0, 0, "BIND_SOURCE", head[2])
    ),
    st.tuples(st.just("hide"), st.tuples(PATHS)),
    st.tuples(st.just("attach"), SLOTS, PATHS, st.integers(0, 1)),
    st.tuples(st.just("bind"), SLOTS, PATHS),
    st.tuples(st.just("directory"), PATHS, st.integers(0, 0o7777)),
    st.tuples(st.just("symlink"), PATHS, PATHS),
    st.tuples(st.just("hosts"), st.text("ab.#", max_size=64), st.text("ab.#\n"), st.just(0)),
    st.tuples(st.just("hostname"), st.text("ab", max_size=64)),
    st.tuples(
        st.just("protect"),
        st.tuples(PATHS),
        st.tuples(PATHS),
        st.just(()),
        st.integers(0, 3),
    ),
    st.tuples(st.just("chdir"), PATHS, st.integers(0, 1)),
    st.just(("attach_binds",)),
)


@sandboxed
def test_whatever_is_understood_is_carried_out_or_fails_by_name() -> None:
    """In namespaces of the test's own, with nothing of the machine's writable."""
    _native.unshare(_native.CLONE_NEWUTS | _native.CLONE_NEWNET | _native.CLONE_NEWIPC)
    _native.mount_setattr(_native.AT_FDCWD, "/", _native.AT_RECURSIVE, _native.MOUNT_ATTR_RDONLY)
    package = os.path.dirname(plans.SUPERVISOR)
    clone = _native.open_tree(_native.AT_FDCWD, package, _native.OPEN_TREE_CLONE)
    for place in "/mnt", "/tmp", "/run":
        _native.mount("tmpfs", place, "tmpfs", 0)
    os.makedirs(package, exist_ok=True)  # Of a checkout in one of these.
    _native.move_mount(clone, "", _native.AT_FDCWD, package, _native.MOVE_MOUNT_F_EMPTY_PATH)
    os.close(clone)
    os.symlink("loop", "/mnt/loop")
    os.symlink("/mnt/..", "/mnt/up")
    with open("/mnt/file", "wb"):
        pass

    @settings(FUZZ, database=None)
    @given(init=st.lists(STEPS, max_size=8))
    def carry_out(init: list[Step]) -> None:
        steps = plans.steps("true", init=init)
        with suppress(BadPlan):
            plan.check(steps)
            carry_out_checked(steps)

    def carry_out_checked(steps: list[Step]) -> None:
        ended = plans.run(plans.encoded(*steps))
        assert ended.status in (0, 124, REFUSED), ended
        if ended.status == 124:
            assert ended.stderr.endswith("|before|")

    carry_out()


@FUZZ
@given(raw=st.binary(max_size=200))
def test_random_bytes_are_refused(effects: Effects, raw: bytes) -> None:
    assert refusal(raw, effects)
    assert refusal(plans.framed(raw), effects)
