"""Drawn programs: a stack of layers and what is done to the view of it.

Few names, so that what is drawn meets: the same path is a file in one layer, a directory in the next, whited out
in a third, and is renamed, removed and opened over and over.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from ..posix import table
from . import operations as op
from .operations import LONG_AGO, Operation


@dataclass(frozen=True)
class Program:
    """What one example is."""

    layers: tuple[table.Layer, ...]
    """Top first."""
    operations: tuple[Operation, ...]


NAMES = ("a", "b", "d", "e", "d/a", "d/b", "d/s", "e/a", "e/s", "d/s/a", "d/s/b", "e/s/a")
DIRECTORIES = ("d", "e", "s")
"""Names that are mostly directories."""
MODES = (0o644, 0o600, 0o755, 0o4711)
TEXTS = ("one", "two2", "three")
XATTRS = ("user.x", "user.y")

_paths = st.sampled_from(NAMES)
_slots = st.integers(0, 2)
_texts = st.sampled_from(TEXTS)
_modes = st.sampled_from(MODES)
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
def _stacks(draw: st.DrawFn) -> tuple[table.Layer, ...]:
    """One to three layers, top first."""
    layers: tuple[table.Layer, ...] = ()
    for _ in range(draw(st.integers(1, 3))):
        layers = (draw(_layers(table.merged(layers))), *layers)
    return layers


@st.composite
def _layers(draw: st.DrawFn, below: table.Layer) -> table.Layer:
    """One layer to lie over `below`, parents before children.

    A whiteout lies only where it hides something: the kernel lists those it does not expect.
    """
    layer: dict[str, table.Entry] = {}
    opaque: set[str] = set()
    for path in NAMES:
        parent, _, _ = path.rpartition("/")
        if parent and not isinstance(layer.get(parent), table.Dir):
            continue
        hides = path in below and parent not in opaque
        entry = draw(_entries(path, layer, whiteout=hides))
        if entry is not None:
            layer[path] = entry
        if isinstance(entry, table.Dir) and (entry.opaque or not hides):
            opaque.add(path)
    return layer


def _entries(
    path: str, layer: table.Layer, *, whiteout: bool
) -> st.SearchStrategy[table.Entry | None]:
    choices: list[st.SearchStrategy[table.Entry | None]] = [st.none(), _directories, _files]
    if whiteout:
        choices.append(st.just(table.Whiteout()))
    if path.rpartition("/")[2] in DIRECTORIES:
        choices.insert(0, _directories)
    else:
        choices += [_files, _symlinks, st.just(table.Fifo())]
        earlier = [name for name, entry in layer.items() if isinstance(entry, table.File)]
        if earlier:
            choices += [st.sampled_from(earlier).map(table.Link)] * 2
    return st.one_of(choices)


_operations: st.SearchStrategy[Operation] = st.one_of(
    st.builds(op.Create, _paths),
    st.builds(op.Write, _paths, _texts),
    st.builds(op.Append, _paths, _texts),
    st.builds(op.Truncate, _paths, _lengths),
    st.builds(op.Mkdir, _paths),
    st.builds(op.Rmdir, _paths),
    st.builds(op.Unlink, _paths),
    st.builds(op.Unlink, _paths),
    st.builds(op.Rename, _paths, _paths),
    st.builds(op.Rename, _paths, _paths, st.sampled_from((0, 0, 1, 2))),
    st.builds(op.Link, _paths, _paths),
    st.builds(op.Symlink, st.sampled_from(("a", "d", "../b")), _paths),
    st.builds(op.Mkfifo, _paths),
    st.builds(op.Chmod, _paths, _modes),
    st.builds(op.Touch, _paths, st.sampled_from((LONG_AGO + 1, LONG_AGO + 2))),
    st.builds(op.SetXattr, _paths, _xattr_names, _texts),
    st.builds(op.RemoveXattr, _paths, _xattr_names),
    st.builds(op.Read, _paths),
    st.builds(op.Stat, _paths),
    st.builds(op.List, st.sampled_from((".", "d", "e", "d/s"))),
    st.builds(op.Look),
    st.builds(op.Hold, _slots, _paths, st.sampled_from(("<", "<>", ">", ">>"))),
    st.builds(op.Hold, _slots, _paths, st.sampled_from(("<", "<>"))),
    st.builds(op.ReadHeld, _slots),
    st.builds(op.WriteHeld, _slots, _texts),
    st.builds(op.TruncateHeld, _slots, _lengths),
    st.builds(op.ChmodHeld, _slots, _modes),
    st.builds(op.StatHeld, _slots),
    st.builds(op.SameFile, _slots, _paths),
    st.builds(op.Lock, _slots),
    st.builds(op.Release, _slots),
)
_by_root = st.builds(op.Chown, _paths, st.sampled_from((0, 4001)), st.sampled_from((0, 4002)))


def programs(*, unprivileged: bool) -> st.SearchStrategy[Program]:
    """Programs to compare two systems with; `unprivileged`: without a change of owner."""
    steps = _operations if unprivileged else st.one_of(_operations, _by_root)
    return st.builds(
        Program,
        layers=_stacks(),
        operations=st.lists(steps, min_size=1, max_size=25).map(tuple),
    )
