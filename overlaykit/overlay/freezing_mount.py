"""The mount's side of a freeze (`freezing`): the parts of a stack go on with another upper and work directory."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from overlaykit import inodes
from overlaykit.beneath import NEW_FILE
from overlaykit.overlay import freezing
from overlaykit.overlay.failure import fail
from overlaykit.overlay.features import Features
from overlaykit.overlay.layer import Layer, LayerDir
from overlaykit.overlay.nodes import File

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from overlaykit.overlay.copyup import CopyUp
    from overlaykit.overlay.freezing import Places
    from overlaykit.overlay.nodes import Table
    from overlaykit.overlay.stack import Stack

_LOCKED: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def prepare(
    stack: Stack, places: Places, path: str, undo: contextlib.ExitStack
) -> Callable[[], Stack]:
    """Make the new upper. Returns: what goes on in it, once the directories have changed their places.

    `undo` removes it again. Raises: OSError.
    """
    tree = stack.tree
    copyup, markers, layers = tree.copyup, tree.markers, tree.layers
    whiteouts, work = tree.whiteouts, copyup.work
    frozen, above = layers[0], stack.work
    assert above is not None
    for directory, known, layer in (
        (places.above_upper, places.upper, frozen),
        (places.above_work, places.work, above),
    ):
        found = os.stat(known, dir_fd=directory, follow_symlinks=False)
        if not os.path.samestat(found, layer.root.stat()):
            fail(errno.ESTALE, os.fsencode(known))

    def copy(source: int, target: int) -> None:
        copyup.inodes.copy(source, target, os.fstat(source), frozen, data=False)

    prefix = markers.prefix if markers.attributes else None
    new = freezing.make_next(places, copy, prefix)
    undo.callback(freezing.remove_next, places.frozen)
    undo.callback(new.close)
    lock = os.open(".", _LOCKED, dir_fd=new.upper)
    undo.callback(os.close, lock)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    kept = os.dup(work.index.fd())
    undo.callback(os.close, kept)
    upper = Layer(
        new.upper,
        0,
        path=frozen.path,
        writable=True,
        descriptors=frozen.descriptors,
        mounted_in=frozenset(),
    )
    upper.override, upper.names_disk = frozen.override, frozen.names_disk
    upper.number = max(layer.number for layer in layers) + 1
    new_work = Layer(new.work, -1, path=above.path, writable=True, descriptors=frozen.descriptors)
    new_work.override = upper.override
    recorded = None
    if prefix is not None and markers.recorded is not None:
        recorded = Features(upper.root.proc_path, prefix, is_new=False)
    for name in (b"work", b"index"):
        os.mkdir(name, 0o700, dir_fd=new.work)

    def switch() -> Stack:
        index = LayerDir(frozen, None, b"", kept)
        tree.table.freeze(index)
        tree.root.mark_copied_up(upper.root)
        before = work.layer_dir, work.index
        work.move_to(new_work, upper.root)
        for one in before:
            one.close()
        frozen.freeze(index)
        frozen.path = os.path.join(path, freezing.UPPER)
        frozen.reader = layers[-1].reader
        layers.insert(0, upper)
        for number, layer in enumerate(layers):
            layer.index = number
        given = [os.fstat(fd) for fd in (new.upper, new.work)]
        tree.merge.traps |= {(st.st_dev, st.st_ino) for st in given}
        markers.record_in(recorded)
        whiteouts.begin_again()
        copyup.begin_again(layers[1:], new.originals)
        tree.origins = copyup.origins
        if tree.quota is not None:
            tree.quota.go_on_in((upper.root, work.index))
        above.close()
        for fd in (stack.lock, stack.originals):
            if fd >= 0:
                os.close(fd)
        return replace(stack, work=new_work, lock=lock, originals=new.originals)

    return switch


def part_nameless(table: Table, copyup: CopyUp) -> None:
    """Copy nameless files whose inodes have other names, which are not known: those are the frozen layer's.

    Raises: OSError.
    """
    for node in list(table.by_nodeid.values()):
        if (
            isinstance(node, File)
            and node.orphan >= 0
            and not node.is_in_layer
            and node.kind == stat.S_IFREG
            and os.fstat(node.orphan).st_nlink
        ):
            _part(table, copyup, node)


def _part(table: Table, copyup: CopyUp, node: File) -> None:
    work = copyup.work
    name = work.new_name()
    target = os.open(name, NEW_FILE, 0o600, dir_fd=work.layer_dir.fd())
    try:
        source = os.open(f"/proc/self/fd/{node.orphan}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            inodes.copy(source, target)
        finally:
            os.close(source)
        if node.opened is not None:
            node.opened.swap(os.dup(target))
        table.unhash(node)
        node.part()
        node.release_inode()
        node.keep_inode(target)
    except BaseException:
        os.close(target)
        raise
    finally:
        work.remove(name)
