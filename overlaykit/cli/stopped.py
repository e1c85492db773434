"""The files of a named view that is stopped: mounted as its next start would mount them, without a command."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from overlaykit.cli import run, start
from overlaykit.views import View, copying, snapshots
from overlaykit.views.named import NamedView

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def mounted(name: str, path: str) -> Iterator[copying.Enter]:
    """What enters the view, until the end of the block; `path`: the one that is wanted.

    Raises: NoSuchView, ViewRuns, OnlyWhileRunning, Error, OSError.
    """
    view = NamedView(name)
    lock = view.lock()
    name_lock = view.lock_name()
    try:
        definition = view.definition()
        args, _ = run.parse_again(definition)
        here = os.getcwd()
        start.enter_directory(view, definition)
        try:
            parts = run.parts(args)
            shared = [
                *(bind.target for bind in parts["binds"]),
                *(tmpfs.target for tmpfs in parts["tmpfs"]),
                *(target for _, target in (*args.bind_data, *args.ro_bind_data)),
            ]
            copying.require_kept(name, path, shared)
            own = {key: parts[key] for key in ("layers", "upper", "read_only", "driver", "userns")}
            if args.upper is None and not args.read_only:
                own["upper"] = view.upper
                own["frozen"] = snapshots.layers(view, snapshots.chain(view, locked=True))
            opened = View(name=view.name, **own)
            stack = contextlib.ExitStack()
            opened.start()
        finally:
            os.chdir(here)
        with stack:
            stack.callback(opened.close)
            root = opened.root()
            yield root.enter
    finally:
        os.close(name_lock)
        os.close(lock)
