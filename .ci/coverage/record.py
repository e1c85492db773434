"""Record which branches of overlaykit a process takes. A .pth file of .venv starts this in each Python.

coverage.py's own start-up does not fit: a daemon leaves the mount namespace, init lives in the view, and both end by
os._exit() where the data file has no path. Here each process maps a window of one shared file at its start. Forks
inherit the window, and at the end the arcs go into a free slot of it. The process shows one other trace: a descriptor,
which mmap keeps. There is no variable in its environment, and coverage itself is not imported.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.machinery
import importlib.util
import marshal
import mmap
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any

SLOT = 64 << 10
"""Bytes: a length, then compressed arcs; a daemon has 25,000 to 33,000."""
WINDOW = 2048
"""Slots that one program and its forks share, used where the directory has no path. Tests fork most daemons."""
WINDOWS = 32


def start(directory: str, identity: tuple[int, int], package: str, extension: str) -> None:
    """Trace the modules below `package` with coverage.py's tracer, `extension`.

    Does nothing without the directory, or in a view, which has it with another `identity` (device, inode number): what
    is written there is lost, and to open the window would copy all that others have written into it.
    """
    # site reads .pth files of lib and of lib64, its other name.
    if hasattr(sys, "_overlaykit_coverage"):
        return
    try:
        if _identity(directory) != identity:
            return
        recorder = Recorder(directory, identity)
    except OSError:
        return
    vars(sys)["_overlaykit_coverage"] = recorder
    tracing = _load(extension)

    def should_trace(name: str, frame: FrameType) -> Any:
        found = tracing.CFileDisposition()
        found.original_filename = found.canonical_filename = found.source_filename = name
        found.trace = name.startswith(package)
        found.reason = ""
        found.file_tracer = None
        found.has_dynamic_filename = False
        return found

    cache: dict[str, Any] = {}

    def trace() -> Any:
        """Trace this thread; the attributes are those that coverage.collector sets."""
        tracer = tracing.CTracer()
        tracer.data = recorder.arcs
        tracer.lock_data = tracer.unlock_data = lambda: None
        tracer.trace_arcs = True
        tracer.should_trace = should_trace
        tracer.should_trace_cache = cache
        tracer.warn = lambda *_, **__: None
        tracer.concur_id_func = None
        tracer.file_tracers = {}
        tracer.should_start_context = None
        tracer.switch_context = None
        tracer.disable_plugin = lambda *_: None
        return tracer.start()

    def trace_thread(frame: FrameType, event: str, arg: object) -> Any:
        function = trace()
        return function(frame, event, arg) if function else None

    recorder.save_at_every_end()
    threading.settrace(trace_thread)
    trace()


class Recorder:
    """The arcs of this process by file, and where they are saved."""

    def __init__(self, directory: str, identity: tuple[int, int]) -> None:
        """Raises: OSError without the directory."""
        self.arcs: dict[str, set[int]] = {}
        self._directory = directory
        self._identity = identity
        with _standard_filled(), open(os.path.join(directory, "window"), "r+b") as file:
            number = int.from_bytes(os.urandom(2), "little") % WINDOWS
            self._window = mmap.mmap(file.fileno(), WINDOW * SLOT, offset=number * WINDOW * SLOT)

    def save_at_every_end(self) -> None:
        atexit.register(self._save)
        os.register_at_fork(after_in_child=self._clear)
        for name in ("_exit", "execv", "execve"):
            setattr(os, name, self._saving(getattr(os, name)))

    def _saving(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with contextlib.suppress(Exception):
                self._save()
            return function(*args, **kwargs)

        return call

    def _save(self) -> None:
        taken = {name: list(arcs) for name, arcs in self.arcs.items() if arcs}
        if taken:
            packed = zlib.compress(marshal.dumps(taken), 1)
            if not self._write_file(packed):
                self._write_slot(packed)
            self._clear()

    def _clear(self) -> None:
        """Empty the sets in place: the tracer holds on to them."""
        for arcs in self.arcs.values():
            arcs.clear()

    def _write_file(self, packed: bytes) -> bool:
        """Add a file to the directory, unless its path leads into a view: the upper would keep it."""
        try:
            if _identity(self._directory) != self._identity:
                return False
            path = os.path.join(self._directory, os.urandom(8).hex())
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
                file.write(packed)
        except OSError:
            return False
        return True

    def _write_slot(self, packed: bytes) -> None:
        """Fill a free slot. A race for it is improbable, as the search begins at random, and costs one record."""
        first = int.from_bytes(os.urandom(2), "little")
        for number in range(WINDOW):
            at = (first + number) % WINDOW * SLOT
            if self._window[at : at + 4] == bytes(4) and len(packed) <= SLOT - 4:
                self._window[at : at + 4 + len(packed)] = len(packed).to_bytes(4, "little") + packed
                return


@contextlib.contextmanager
def _standard_filled() -> Iterator[None]:
    """Open descriptors from 3 on in the block: a map holds one, which must not stand for a closed standard one."""
    taken: list[int] = []
    try:
        while not taken or taken[-1] < 3:
            taken.append(os.open("/", os.O_PATH | os.O_CLOEXEC))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)


def _identity(directory: str) -> tuple[int, int]:
    found = os.stat(directory)
    return found.st_dev, found.st_ino


def _load(extension: str) -> ModuleType:
    """The tracer's module, without the package around it."""
    loader = importlib.machinery.ExtensionFileLoader("coverage.tracer", extension)
    spec = importlib.util.spec_from_loader("coverage.tracer", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
