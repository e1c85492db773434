"""A daemon that is killed at any step of any operation: the next one carries the operation out, once."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager

import pytest

from overlaykit.overlay import faults

from ..fuse.mounted import Mounted, spec_of, started
from ..overlay.inside import IDENTITIES
from ..overlay.seen import look_through
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.table import Dir, File, Layer, Link
from .operations import OPERATIONS
from .recovered import below, shown
from .scenarios import build, run, trees

DECISIVE = (
    "copyup.published",
    "create.published",
    "link.published",
    "unlink.removed",
    "rmdir.removed",
    "rename.moved",
    "rename.done",
)
"""The steps after which the operation is carried out, but not answered; the proofs run all."""

CASES = [
    (name, step)
    for name, operation in OPERATIONS.items()
    for step in operation.steps
    if not step.startswith(faults.DATA)
    if step in DECISIVE or "OVERLAYKIT_PROOFS" in os.environ
]


@pytest.mark.parametrize("sandbox", IDENTITIES[:1], indirect=True)
@pytest.mark.parametrize(("name", "step"), CASES)
@pytest.mark.one_in(4)
def test_an_operation_is_carried_out_once(stack: Stack, name: str, step: str) -> None:
    stack.metacopy = OPERATIONS[name].metacopy
    _, after = trees(stack, name)[name]
    build(stack, name)
    with _crashing(stack, step) as mount:
        run(name, mount.target)
        mount.unmount()
        assert _ends(mount, "signal 9") == 1
    assert below(name, shown(stack)) == after


@pytest.mark.parametrize("kind", ["lower", "linked lower", "made", "linked"])
@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.one_in(2)
def test_an_open_file_stays_open_if_a_daemon_ends_as_it_loses_a_name(
    stack: Stack, kind: str, replaced: bool
) -> None:
    links: Layer = {"link": Link("f")} if kind == "linked lower" else {}
    stack.add({"f": File(b"content"), "g": File(b"other"), **links})
    with _crashing(stack, "rename.done" if replaced else "unlink.removed") as mount:
        path = mount.path("f")
        if kind in ("made", "linked"):
            with open(path, "wb") as made:
                made.write(b"content")
        with open(path, "rb", buffering=0) as file:
            if kind == "linked":
                os.link(path, mount.path("link"))
            if replaced:
                os.rename(mount.path("g"), path)
            else:
                os.unlink(path)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read() == b"content"
            os.fchmod(file.fileno(), 0o604)
            st = os.fstat(file.fileno())
            assert stat.S_IMODE(st.st_mode) == 0o604
            if "linked" in kind:
                assert os.path.samestat(st, os.stat(mount.path("link")))
            else:
                assert st.st_nlink == 0
        mount.unmount()
        assert _ends(mount, "signal 9") == 1


def test_a_request_with_which_two_daemons_crash_fails_alone(stack: Stack) -> None:
    stack.add({"d": Dir(), "d/f": File(b"x"), "g": File(b"y")})
    with _crashing(stack, "rename.prepared:0") as mount:
        with open(mount.path("g"), "rb") as file:
            with refused(errno.EIO):
                os.rename(mount.path("g"), mount.path("moved"))
            assert file.read() == b"y"
        assert _ends(mount, "signal 6") == 2
        assert sorted(os.listdir(mount.target)) == ["d", "g"]
        os.unlink(mount.path("d/f"))
        mount.unmount()
    with stack.open() as view:
        assert sorted(look_through(view)) == ["", "d", "g"]


def _crashing(stack: Stack, step: str) -> AbstractContextManager[Mounted]:
    os.environ["OVERLAYKIT_FAULT"] = step  # this process and its daemons end with the test
    return started(spec_of(stack, restart=True), stack.directory)


def _ends(mount: Mounted, how: str) -> int:
    with open(mount.log_path, encoding="utf-8") as file:
        return sum(f"was ended by {how}" in line for line in file)
