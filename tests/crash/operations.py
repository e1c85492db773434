"""The operations that crashes interrupt, with their layers and the steps at which the daemon dies.

Each is one system call, so a crash must leave the tree before or the tree after. The kernel's overlayfs does `prepare`,
so that the operation starts from the kernel's markers and index.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ..posix import syscalls
from ..posix.table import Dir, File, Layer, Link, Symlink, Whiteout

Run: TypeAlias = Callable[[str], object]
"""Takes the root of a mounted tree."""


@dataclass(frozen=True)
class Operation:
    """One way to change a stack of layers."""

    run: Run
    steps: tuple[str, ...]
    """The steps to crash at, as in OVERLAYKIT_FAULT."""
    lowers: tuple[Layer, ...]
    """Top first."""
    upper: Layer = field(default_factory=dict)
    prepare: Run | None = None
    changes: bool = True
    """Without: the tree stays as it is. The kernel's overlayfs moves the time of a file whose data it copies later."""
    metacopy: bool = False
    """It needs that option to reach its steps."""
    root_only: bool = False
    """It needs an index or redirects, which the kernel's overlayfs lacks in a user namespace."""


def _exchange(one: str, other: str) -> Run:
    return lambda root: syscalls.renameat2(
        os.fsencode(f"{root}/{one}"), os.fsencode(f"{root}/{other}"), syscalls.RENAME_EXCHANGE
    )


def _rename(old: str, new: str) -> Run:
    return lambda root: os.rename(f"{root}/{old}", f"{root}/{new}")


def _link(old: str, new: str) -> Run:
    return lambda root: os.link(f"{root}/{old}", f"{root}/{new}")


def _unlink(*names: str) -> Run:
    def run(root: str) -> None:
        for name in names:
            os.unlink(f"{root}/{name}")

    return run


def _after_another(run: Run) -> Run:
    """Where the data plane makes names, and so knows those of the lowers."""

    def after(root: str) -> None:
        os.close(os.open(f"{root}/other", os.O_CREAT | os.O_EXCL))
        os.unlink(f"{root}/other")
        run(root)

    return after


def _chmod(name: str) -> Run:
    return lambda root: os.chmod(f"{root}/{name}", 0o711)


def _open_for_writing(name: str) -> Run:
    return lambda root: os.close(os.open(f"{root}/{name}", os.O_RDWR))


_LONG_AGO: Final = 1_234_567_890_123_456_789
_FILE: Final = File(b"content" * 3000, 0o640, xattrs={"user.k": b"v"}, mtime_ns=_LONG_AGO)
_OTHER: Final = File(b"other", 0o604)
_LINKED: Final[Layer] = {"a": _FILE, "d": Dir(0o750), "d/b": Link("a"), "d/c": Link("a")}
_TREE: Final[Layer] = {
    "d": Dir(0o750),
    "d/e": Dir(0o2711),
    "d/e/f": _FILE,
    "d/g": _OTHER,
    "x": Dir(),
}
_HIDDEN: Final[Layer] = {"w": Dir(), "w/old": _OTHER, "f": _FILE}

_COPY_UP: Final = ("copyup.made", "copyup.data:4096", "copyup.copied", "copyup.synced")
_EXCHANGE: Final = ("rename.prepared", "rename.moved")
_RENAME: Final = (*_EXCHANGE, "rename.done")

OPERATIONS: Final[Mapping[str, Operation]] = {
    "chmod of a file two directories deep": Operation(
        _chmod("d/e/f"),
        (
            "copyup.directory.made",
            "copyup.directory.copied",
            "copyup.directory.published",
            "copyup.directory.made:2",
            "copyup.directory.published:2",
            *_COPY_UP,
            "copyup.published",
        ),
        ({"d": Dir(0o705, xattrs={"user.top": b"1"})}, _TREE),
    ),
    "truncation": Operation(
        lambda root: os.truncate(f"{root}/g", 0),
        ("copyup.copied", "copyup.published"),
        ({"g": _OTHER},),
    ),
    "chmod of a hard-linked file": Operation(
        _chmod("a"),
        ("copyup.synced", "copyup.indexed", "linkup.prepared", "linkup.linked", "linkup.counted"),
        (_LINKED,),
        root_only=True,
    ),
    "unlink of a name that was not copied up yet": Operation(
        _unlink("d/b"),
        ("linkup.prepared", "linkup.linked", "linkup.counted", "unlink.counted", "unlink.removed"),
        (_LINKED,),
        prepare=_chmod("a"),
        root_only=True,
    ),
    "unlink of a lower name after another one was moved": Operation(
        _unlink("d/b"),
        ("linkup.prepared", "linkup.linked", "linkup.counted"),
        (_LINKED,),
        prepare=lambda root: (_chmod("a")(root), _rename("a", "m")(root)),
        root_only=True,
    ),
    "rename of a name that was not copied up yet": Operation(
        _rename("d/b", "n"),
        ("linkup.prepared", "linkup.linked", "linkup.counted", *_RENAME),
        (_LINKED,),
        prepare=_chmod("a"),
        root_only=True,
    ),
    "unlink of the last name but one, then of the last": Operation(
        _unlink("d/c"),
        ("linkup.counted", "unlink.counted", "unlink.removed", "index.dropped"),
        (_LINKED,),
        prepare=_unlink("a", "d/b"),
        root_only=True,
    ),
    "one more name for a hard-linked file": Operation(
        _link("a", "n"),
        ("link.counted", "link.published"),
        (_LINKED,),
        prepare=_chmod("a"),
        root_only=True,
    ),
    "one more name where a lower's is hidden": Operation(
        _link("f", "w"),
        ("copyup.published", "link.counted", "link.made", "link.published"),
        (_HIDDEN,),
        upper={"w": Whiteout()},
    ),
    "unlink of a lower file": Operation(
        _unlink("f"), ("unlink.counted", "unlink.removed"), ({"f": _FILE},)
    ),
    "unlink of a lower file in a changed directory": Operation(
        _after_another(_unlink("f")),
        ("unlink.counted", "unlink.removed"),
        ({"f": _FILE},),
        upper={"n": _OTHER},
    ),
    "unlink of a changed file": Operation(
        _unlink("f"), ("unlink.counted", "unlink.removed"), ({"f": _FILE},), upper={"f": _OTHER}
    ),
    "unlink of a new file": Operation(
        _unlink("n"), ("unlink.counted", "unlink.removed"), ({},), upper={"n": _OTHER}
    ),
    "rmdir of a lower directory": Operation(
        lambda root: os.rmdir(f"{root}/x"), ("rmdir.covered",), (_TREE,)
    ),
    "rmdir of a directory that holds whiteouts": Operation(
        lambda root: os.rmdir(f"{root}/w"),
        ("rmdir.covered", "rmdir.removed"),
        (_HIDDEN,),
        upper={"w": Dir(), "w/old": Whiteout()},
    ),
    "rmdir of a new directory": Operation(
        lambda root: os.rmdir(f"{root}/n"), ("rmdir.removed",), ({},), upper={"n": Dir()}
    ),
    "mkdir where a lower's is hidden": Operation(
        lambda root: os.mkdir(f"{root}/w", 0o2750),
        ("create.made", "create.opaque", "create.published"),
        (_HIDDEN,),
        upper={"w": Whiteout()},
    ),
    "symlink where a lower's name is hidden": Operation(
        lambda root: os.symlink("f", f"{root}/w"),
        ("create.made", "create.published"),
        (_HIDDEN,),
        upper={"w": Whiteout()},
    ),
    "rename of a lower file": Operation(
        _rename("d/g", "x/n"), ("copyup.published", "rename.covered", *_RENAME), (_TREE,)
    ),
    "rename of a lower file in a changed directory": Operation(
        _after_another(_rename("g", "m")),
        ("copyup.made", "copyup.published", "rename.covered", *_RENAME),
        ({"g": _OTHER},),
        upper={"n": _OTHER},
    ),
    "rename of a lower symlink": Operation(
        _rename("s", "n"),
        ("copyup.made", "copyup.published", "rename.covered", *_RENAME),
        ({"s": Symlink("f")},),
    ),
    "rename onto a lower file": Operation(
        _rename("n", "f"), _RENAME, ({"f": _FILE},), upper={"n": _OTHER}
    ),
    "rename onto the last name of a hard-linked file": Operation(
        _rename("n", "a"),
        (*_RENAME, "index.dropped"),
        (_LINKED,),
        upper={"n": _OTHER},
        prepare=_unlink("d/b", "d/c"),
        root_only=True,
    ),
    "rename of a lower directory": Operation(
        _rename("d/e", "d/n"),
        ("copyup.directory.published:2", *_RENAME),
        ({"d/e/more": _OTHER}, _TREE),
        root_only=True,
    ),
    "rename of a lower directory into another": Operation(
        _rename("d/e", "x/n"), _RENAME, (_TREE,), root_only=True
    ),
    "rename of a new directory onto an emptied one": Operation(
        _rename("n", "w"),
        ("rename.cleared", *_RENAME),
        (_HIDDEN,),
        upper={"n": Dir(0o711), "n/in": _OTHER, "w": Dir(), "w/old": Whiteout()},
    ),
    "rename of a new directory to a hidden name": Operation(
        _rename("n", "w"),
        _RENAME,
        (_HIDDEN,),
        upper={"n": Dir(0o711), "n/in": _OTHER, "w": Whiteout()},
    ),
    "exchange of two lower files": Operation(
        _exchange("d/g", "d/e/f"), ("copyup.published:2", *_EXCHANGE), (_TREE,)
    ),
    "chown of a lower file without its data": Operation(
        lambda root: os.chown(f"{root}/f", 12, 34),
        ("copyup.made", "copyup.copied", "copyup.published"),
        ({"f": _FILE},),
        metacopy=True,
        root_only=True,
    ),
    "chmod of a hard-linked file without its data": Operation(
        _chmod("a"),
        ("copyup.copied", "copyup.indexed", "linkup.prepared", "linkup.linked", "linkup.counted"),
        (_LINKED,),
        metacopy=True,
        root_only=True,
    ),
    "rename of a lower file without its data": Operation(
        _rename("d/g", "x/n"),
        ("copyup.published", "redirect.set", *_RENAME),
        (_TREE,),
        metacopy=True,
        root_only=True,
    ),
    "exchange of two lower files without their data": Operation(
        _exchange("d/g", "d/e/f"),
        ("copyup.published:2", "redirect.set", "redirect.set:2", *_EXCHANGE),
        (_TREE,),
        metacopy=True,
        root_only=True,
    ),
    "one more name for a lower file without its data": Operation(
        _link("f", "n"),
        ("copyup.published", "redirect.set", "link.published"),
        ({"f": _FILE},),
        metacopy=True,
        root_only=True,
    ),
    "rename of a metacopy": Operation(
        _rename("x/n", "m"),
        _RENAME,
        (_TREE,),
        prepare=_rename("d/g", "x/n"),
        metacopy=True,
        root_only=True,
    ),
    "open of a metacopy for writing": Operation(
        _open_for_writing("f"),
        ("copyup.data:4096", "datacopy.copied", "datacopy.synced", "datacopy.unmarked"),
        ({"f": _FILE},),
        changes=False,
        prepare=_chmod("f"),
        metacopy=True,
        root_only=True,
    ),
    "open of a moved metacopy for writing": Operation(
        _open_for_writing("x/n"),
        ("copyup.data:4096", "datacopy.copied", "datacopy.synced", "datacopy.unmarked"),
        (_TREE,),
        changes=False,
        prepare=_rename("d/e/f", "x/n"),
        metacopy=True,
        root_only=True,
    ),
    "truncation of a metacopy": Operation(
        lambda root: os.truncate(f"{root}/f", 0),
        ("datacopy.emptied", "datacopy.unmarked"),
        ({"f": _FILE},),
        prepare=_chmod("f"),
        metacopy=True,
        root_only=True,
    ),
    "exchange of a lower directory and a file": Operation(
        _exchange("d/e", "n"), _EXCHANGE, (_TREE,), upper={"n": _OTHER}, root_only=True
    ),
}
