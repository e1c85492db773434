"""A plan that makes no sense is refused before its bytes are made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from overlaykit import _native
from overlaykit.namespace.plan import BadPlan, check

if TYPE_CHECKING:
    from overlaykit.namespace.plan import Step

PLAN, MONITOR, INIT, COMMAND, END = range(5)
FRONT: Final = ("/bin/false",)
HEAD: Final[tuple[Step, ...]] = (("section", PLAN), ("front", FRONT, ()))
UNSHARE: Final[Step] = ("unshare", _native.CLONE_NEWPID)
EXEC: Final[Step] = ("exec", ("true",), (), ("/bin/true",), 0)
FRESH: Final[Step] = ("fresh", 3, "tmpfs", 0, (), 0, "FILE_SYSTEM", "/")
WHOLE: Final[tuple[Step, ...]] = (
    *HEAD,
    ("section", MONITOR),
    UNSHARE,
    ("section", COMMAND),
    EXEC,
)

WRONG: Final[dict[str, tuple[Step, ...]]] = {
    "record 1: front: the step has no place in this section": (("front", FRONT, ()),),
    "record 1: section: the plan does not begin with the section of the plan": (
        ("section", MONITOR),
    ),
    "record 2: section: the sections are not in order": (("section", PLAN), ("section", PLAN)),
    "record 2: section: there is no such section": (("section", PLAN), ("section", END + 1)),
    "record 3: front: the step occurs twice": (*HEAD, ("front", FRONT, ())),
    "record 3: descriptor: the descriptor has two slots": (
        ("section", PLAN),
        ("descriptor", 0, 3),
        ("descriptor", 1, 3),
    ),
    "record 2: hold: the slot is not filled": (("section", PLAN), ("hold", 9)),
    "record 2: front: there is no program": (("section", PLAN), ("front", (), ())),
    "record 4: unshare: there are no such namespaces": (
        *HEAD,
        ("section", MONITOR),
        ("unshare", 1),
    ),
    "record 4: fresh: the slot is no alternative's": (
        *HEAD,
        ("section", INIT),
        ("fresh", 3, "tmpfs", 0, (), 2, "FILE_SYSTEM", "/"),
    ),
    "record 5: fresh: the slot is filled already": (*HEAD, ("section", INIT), FRESH, FRESH),
    "record 4: fresh: an option has no value": (
        *HEAD,
        ("section", INIT),
        ("fresh", 3, "tmpfs", 0, ("mode",), 0, "FILE_SYSTEM", "/"),
    ),
    "record 4: fresh: there are no such flags": (
        *HEAD,
        ("section", INIT),
        ("fresh", 3, "tmpfs", 0, (), 8, "FILE_SYSTEM", "/"),
    ),
    "record 4: clone: there are no such attributes": (
        *HEAD,
        ("section", INIT),
        ("clone", 3, "/", 1 << 32, 0, 0, 0, "FILE_SYSTEM", "/"),
    ),
    "record 4: clone: the name of the failure is none": (
        *HEAD,
        ("section", INIT),
        ("clone", 3, "/", 0, 0, 0, 0, "A" * 33, "/"),
    ),
    "record 4: clone: there is no such propagation": (
        *HEAD,
        ("section", INIT),
        ("clone", 3, "/", 0, 0, 3, 0, "FILE_SYSTEM", "/"),
    ),
    "record 4: hide: a path is not absolute": (*HEAD, ("section", INIT), ("hide", ("a",))),
    "record 6: attach: the slot is not filled": (
        *HEAD,
        ("section", INIT),
        FRESH,
        ("attach", 3, "/x", 0),
        ("attach", 3, "/y", 0),
    ),
    "record 7: root: the slot may be empty": (
        *HEAD,
        ("section", INIT),
        FRESH,
        ("fresh", 4, "tmpfs", 0, (), 0, "FILE_SYSTEM", "/"),
        ("fresh", 5, "tmpfs", 0, (), 1, "FILE_SYSTEM", "/"),
        ("root", 3, 4, 5, 5),
    ),
    "record 6: pass: the slot holds no inherited descriptor": (
        *HEAD,
        ("section", INIT),
        FRESH,
        ("section", COMMAND),
        ("pass", 3),
    ),
    "record 4: release: the filter is no sequence of instructions": (
        *HEAD,
        ("section", COMMAND),
        ("release", "6.1", b"\6"),
    ),
    "record 4: umask: it is no umask": (*HEAD, ("section", INIT), ("umask", 0o1000)),
    "record 4: hosts: the name is too long": (*HEAD, ("section", INIT), ("hosts", "x" * 65, "", 0)),
    "record 6: bind: it comes after attach_binds": (
        *HEAD,
        ("section", INIT),
        FRESH,
        ("attach_binds",),
        ("bind", 3, "/mnt"),
    ),
    "it attaches no binds": (
        *HEAD,
        ("section", MONITOR),
        UNSHARE,
        ("section", INIT),
        FRESH,
        ("bind", 3, "/mnt"),
        ("section", COMMAND),
        EXEC,
    ),
    "record 5: close_standard: it comes after exec": (
        *HEAD,
        ("section", COMMAND),
        EXEC,
        ("close_standard", 1),
    ),
    "record 4: hostname: the name is too long": (*HEAD, ("section", INIT), ("hostname", "x" * 65)),
    "record 4: protect: a path is not absolute": (
        *HEAD,
        ("section", INIT),
        ("protect", ("/a",), ("/b",), ("a/b",), 0),
    ),
    "record 4: protect: there are no such flags": (
        *HEAD,
        ("section", INIT),
        ("protect", (), (), (), 4),
    ),
    "record 4: no_new_privs: the step has no place in this section": (
        *HEAD,
        ("section", INIT),
        ("no_new_privs",),
    ),
    "record 4: chdir: there are no such flags": (*HEAD, ("section", INIT), ("chdir", "/", 2)),
    "record 4: standard: it is no standard descriptor": (
        *HEAD,
        ("section", COMMAND),
        ("standard", 3, 0),
    ),
    "record 4: exec: there is no program": (
        *HEAD,
        ("section", COMMAND),
        ("exec", (), (), ("/bin/true",), 0),
    ),
    "record 4: pty: there is no terminal": (*HEAD, ("section", INIT), ("pty", 0, 0)),
    "record 3: terminal: there are no such flags": (*HEAD, ("terminal", 2)),
    "record 5: pty: it is no user or group": (
        *HEAD,
        ("terminal", 0),
        ("section", INIT),
        ("pty", (1 << 32) - 1, 0),
    ),
    "record 4: session: there is no terminal": (*HEAD, ("section", COMMAND), ("session", 1)),
    "record 4: session: there are no such flags": (*HEAD, ("section", COMMAND), ("session", 2)),
    "record 4: limit: there is no such limit": (
        *HEAD,
        ("section", COMMAND),
        ("limit", 16, 1, 1, "x"),
    ),
    "record 4: limit: it is above the hard limit": (
        *HEAD,
        ("section", COMMAND),
        ("limit", 7, 2, 1, "x"),
    ),
    "record 5: data: the slot is filled already": (
        *HEAD,
        ("section", INIT),
        FRESH,
        ("data", 3, 3, 0, 0, "/x", 0o600),
    ),
    "record 4: directory: it is no mode": (
        *HEAD,
        ("section", INIT),
        ("directory", "/x", 0o10000),
    ),
    "record 5: data: it is no user or group": (
        *HEAD,
        ("descriptor", 0, 3),
        ("section", INIT),
        ("data", 3, 0, (1 << 32) - 1, 0, "/x", 0o600),
    ),
    "record 5: data: there are no such attributes": (
        *HEAD,
        ("descriptor", 0, 3),
        ("section", INIT),
        ("data", 3, 0, 0, 1 << 32, "/x", 0o600),
    ),
    "record 4: connect: there is no helper, or a request has another size": (
        *HEAD,
        ("section", MONITOR),
        ("connect", "eth0", b""),
    ),
    "record 4: helper: there is no program": (
        *HEAD,
        ("section", MONITOR),
        ("helper", (), (), "", 0),
    ),
    "record 3: grace: it is too long": (*HEAD, ("grace", 1 << 31)),
    "record 4: seccomp: the filter is no sequence of instructions": (
        *HEAD,
        ("section", COMMAND),
        ("seccomp", bytes(12)),
    ),
    "record 4: seccomp: the filter has too many instructions": (
        *HEAD,
        ("section", COMMAND),
        ("seccomp", bytes(4097 * 8)),
    ),
    "record 5: connect: there is no helper, or a request has another size": (
        *HEAD,
        ("section", MONITOR),
        ("helper", ("/a",), (), "eth0", 1),
        ("connect", "eth0", b"request"),
    ),
    "record 4: user: it is no user or group": (
        *HEAD,
        ("section", COMMAND),
        ("user", 0, 1 << 32, 0, 0, b""),
    ),
    "record 4: user: there are no such flags": (
        *HEAD,
        ("section", COMMAND),
        ("user", 0, 0, 3, 0, b""),
    ),
    "its terminal has no front or no pty": (
        *HEAD,
        ("terminal", 1),
        ("section", MONITOR),
        UNSHARE,
        ("section", COMMAND),
        EXEC,
    ),
    "it has neither report nor front, or both": (
        ("section", PLAN),
        ("section", MONITOR),
        UNSHARE,
        ("section", COMMAND),
        EXEC,
    ),
    "it makes and joins no PID namespace": (*HEAD, ("section", COMMAND), EXEC),
    "there is no command": (*HEAD, ("section", MONITOR), UNSHARE),
}


def test_a_good_plan_is_none_of_them() -> None:
    check(WHOLE)


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_record_is_named(said: str) -> None:
    with pytest.raises(BadPlan, match=f"^{re.escape(said)}$"):
        check(WRONG[said])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a"])
def test_only_what_lies_in_the_directory_is_removed(name: str) -> None:
    steps = (HEAD[0], ("descriptor", 0, 3), *WHOLE[1:], ("section", END), ("remove", 0, name))
    with pytest.raises(BadPlan, match=r"^record 9: remove: the name is none$"):
        check(steps)
