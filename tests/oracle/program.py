"""Generated programs: a stack of layers, and operations on its view.

There are few names, so that layers and operations meet on them: the same path is a file in one layer, a directory in
the next, a whiteout in a third, and is renamed, removed and opened many times.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ..posix import table
from . import operations as op
from . import slots
from .operations import LONG_AGO, Operation

EXAMPLES: Final = os.environ.get("OVERLAYKIT_ORACLE_EXAMPLES")
"""How many programs, with a new seed; without it a few, with a fixed seed."""


def settings_of(examples: int) -> settings:
    """Hypothesis' settings of a test that runs generated programs, `examples` of them unless more are asked for."""
    return settings(
        max_examples=int(EXAMPLES or examples),
        derandomize=EXAMPLES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True)
class Program:
    """One example."""

    layers: tuple[table.Layer, ...]
    """Top first."""
    operations: tuple[Operation, ...]


NAMES = ("a", "b", "d", "e", "d/a", "d/b", "d/s", "e/a", "e/s", "d/s/a", "d/s/b", "e/s/a")
DIRECTORIES = ("d", "e", "d/s", "e/s")
"""The names that are mostly directories."""
MODES = (0o644, 0o600, 0o755, 0o4711)
TEXTS = ("one", "two2", "three")
XATTRS = ("user.x", "user.y")

_slots = st.integers(0, 1)
_texts = st.sampled_from(TEXTS)
_modes = st.sampled_from(MODES)
_times = st.sampled_from((LONG_AGO + 1, LONG_AGO + 2))
_lengths = st.sampled_from((0, 2, 9))
_xattr_names = st.sampled_from(XATTRS)

_files = st.builds(
    table.File,
    content=_texts.map(str.encode),
    mode=_modes,
    xattrs=st.sampled_from(({}, {"user.x": b"layer"})),
    mtime_ns=st.just(LONG_AGO * 10**9),
)
_directories = st.builds(
    table.Dir,
    mode=st.sampled_from((0o755, 0o700, 0o1777)),
    mtime_ns=st.just(LONG_AGO * 10**9),
    opaque=st.sampled_from((False, False, True)),
)
_symlinks = st.builds(table.Symlink, st.sampled_from(("a", "d", "../a", "missing")))


@st.composite
def _stacks(draw: st.DrawFn, *, links: bool) -> tuple[table.Layer, ...]:
    """One to three layers, top first."""
    layers: tuple[table.Layer, ...] = ()
    for _ in range(draw(st.integers(1, 3))):
        layers = (draw(_layers(table.merged(layers), links=links)), *layers)
    return layers


@st.composite
def _layers(draw: st.DrawFn, below: table.Layer, *, links: bool) -> table.Layer:
    """One layer to put on `below`, parents before children.

    A whiteout is only where it hides something: the kernel lists the others.
    """
    layer: dict[str, table.Entry] = {}
    opaque: set[str] = set()
    for path in NAMES:
        parent, _, _ = path.rpartition("/")
        if parent and not isinstance(layer.get(parent), table.Dir):
            continue
        hides = path in below and parent not in opaque
        entry = draw(_entries(path, layer, whiteout=hides, links=links))
        if entry is not None:
            layer[path] = entry
        if isinstance(entry, table.Dir) and (entry.opaque or not hides):
            opaque.add(path)
    return layer


def _entries(
    path: str, layer: table.Layer, *, whiteout: bool, links: bool
) -> st.SearchStrategy[table.Entry | None]:
    choices: list[st.SearchStrategy[table.Entry | None]] = [_files, _directories, st.none()]
    if whiteout:
        choices.append(st.just(table.Whiteout()))
    if path in DIRECTORIES:
        choices += [_directories] * 5
    else:
        choices += [_files, _files, _symlinks, st.just(table.Fifo())]
        earlier = [name for name, entry in layer.items() if isinstance(entry, table.File)]
        if links and earlier:
            choices += [st.sampled_from(earlier).map(table.Link)] * 2
    return st.one_of(choices)


def _operations(
    paths: st.SearchStrategy[str], names: st.SearchStrategy[str], *, unprivileged: bool, links: bool
) -> st.SearchStrategy[Operation]:
    hold = st.builds(slots.Hold, _slots, paths, st.sampled_from(("<", "<>", "<>", ">", ">>")))
    choices: list[st.SearchStrategy[Operation]] = [
        st.builds(op.Create, names),
        st.builds(op.Write, paths, _texts),
        st.builds(op.Append, paths, _texts),
        st.builds(op.Truncate, paths, _lengths),
        st.builds(op.Mkdir, names),
        st.builds(op.Rmdir, paths),
        st.builds(op.Unlink, paths),
        st.builds(op.Unlink, paths),
        st.builds(op.Rename, paths, names),
        st.builds(op.Rename, paths, paths),
        st.builds(op.Rename, st.sampled_from(DIRECTORIES), names),
        st.builds(op.Rename, paths, paths, st.sampled_from((1, 2))),
        st.builds(op.Symlink, st.sampled_from(("a", "d", "../b")), names),
        st.builds(op.Mkfifo, names),
        st.builds(op.Chmod, paths, _modes),
        st.builds(op.Touch, paths, _times),
        st.builds(op.SetXattr, paths, _xattr_names, _texts),
        st.builds(op.RemoveXattr, paths, _xattr_names),
        st.builds(op.Read, paths),
        st.builds(op.Stat, paths),
        st.builds(op.List, st.sampled_from((".", *DIRECTORIES))),
        st.builds(op.ListInParts, st.sampled_from((".", *DIRECTORIES))),
        st.builds(op.Look),
        hold,
        hold,
        st.builds(slots.ReadHeld, _slots),
        st.builds(slots.ReadMapped, _slots),
        st.builds(slots.WriteHeld, _slots, _texts),
        st.builds(slots.TruncateHeld, _slots, _lengths),
        st.builds(slots.ChmodHeld, _slots, _modes),
        st.builds(slots.TouchHeld, _slots, _times),
        st.builds(slots.SetXattrHeld, _slots, _xattr_names, _texts),
        st.builds(slots.RemoveXattrHeld, _slots, _xattr_names),
        st.builds(slots.SyncHeld, _slots),
        st.builds(slots.StatHeld, _slots),
        st.builds(slots.SameFile, _slots, paths),
        st.builds(slots.Lock, _slots),
        st.builds(slots.Release, _slots),
    ]
    if links:
        choices += [
            st.builds(op.WriteMapped, paths, st.just(ord("!"))),
            st.builds(op.Link, paths, names),
        ]
    if not unprivileged:
        owners = st.sampled_from((0, 4001)), st.sampled_from((0, 4002))
        choices += [
            st.builds(op.Chown, paths, *owners),
            st.builds(slots.ChownHeld, _slots, *owners),
        ]
    acl_users = st.just(0 if unprivileged else 4001)
    rare: list[st.SearchStrategy[Operation]] = [
        st.builds(op.SetAcl, paths, acl_users, st.sampled_from((4, 7)), st.booleans())
    ]
    if not unprivileged:
        rare.append(st.builds(op.Mknod, names))
    return st.one_of(*choices, st.one_of(rare))


@st.composite
def programs(draw: st.DrawFn, *, unprivileged: bool, comparable: bool = True) -> Program:
    """Programs to run on two systems.

    `unprivileged`: without chown and devices. If their results are to be `comparable`, also without hard links, which
    the kernel breaks and renumbers without an index (ours keeps them: `tests/posix`), and without writing through a
    mapping, which clears set-ID bits on ours (`tests/fuse/test_instead.py`).
    """
    links = not (unprivileged and comparable)
    layers = draw(_stacks(links=links))
    visible = table.merged(layers)
    anywhere = st.sampled_from(NAMES)
    paths = st.one_of(st.sampled_from(sorted(visible)), anywhere) if visible else anywhere
    files = sorted(path for path, entry in visible.items() if isinstance(entry, table.File))
    held: list[Operation] = []
    if files:
        how = st.sampled_from(("<", "<", "<>"))
        held = draw(
            st.lists(st.builds(slots.Hold, _slots, st.sampled_from(files), how), max_size=2)
        )
    # The length first: hypothesis prefers short lists.
    length = draw(st.integers(1, 20))
    steps = st.lists(
        _operations(paths, anywhere, unprivileged=unprivileged, links=links),
        min_size=length,
        max_size=length,
    )
    return Program(layers, (*held, *draw(steps)))
