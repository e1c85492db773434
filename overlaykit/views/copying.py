"""Copy files into views and out of them.

Each side of a copy is a process of its own, and a pipe with an archive lies between them. The side of a view is in the
view's user namespace, and reaches the view by a descriptor of its root. It has the host's mounts, so that no program of
the view becomes a part of it. What it writes goes through the view's mount: into the upper, and never into a lower.
"""

from __future__ import annotations

import os
import posixpath
import traceback
from typing import TYPE_CHECKING

from overlaykit import codec
from overlaykit.errors import Error
from overlaykit.layers.tar import DamagedArchive
from overlaykit.namespace import namespaces_of
from overlaykit.record import Record
from overlaykit.scope import contextmanager, suppress
from overlaykit.signals import signal
from overlaykit.views import archives
from overlaykit.views.archives import Owners, Place, Unpacking
from overlaykit.views.joining import IsMachine
from overlaykit.views.registry import NotRunning, Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Final, TypeAlias

    Enter: TypeAlias = Callable[[], int]

_MOST_NAMES: Final = 10
"""Of files that were left out."""

_OF_RUNNING: Final = ("/dev", "/proc", "/run", "/sys")


class CopyFailed(Error):
    """What one side of a copy says."""


class OnlyWhileRunning(Error):
    message = "{0}:{1}: the view has what is at {2} only while it runs: start it, or copy where the files really are"


class Report(Record, kw_only=True):
    """How a side has ended: what it left out, its own message, or an OSError."""

    left_out: tuple[str, ...] = ()
    message: str = ""
    errno: int = 0
    path: str | None = None
    broken: bool = False
    """Whether the other side has ended first."""


class End(Record, kw_only=True):
    """One side: a path, and the view that it is in.

    `enter`: enters the view's user namespace and returns a descriptor of its root; None: the path is the host's. The
    path "-" of the host is standard input or output. `owner`: of what is written there, in the view's numbers.
    """

    path: str
    enter: Enter | None = None
    owner: tuple[int, int] | None = None

    @property
    def is_stream(self) -> bool:
        return self.enter is None and self.path == "-"

    def place(self) -> Place:
        return Place(None if self.enter is None else self.enter())


@contextmanager
def running(name: str) -> Iterator[Enter]:
    """What enters the view `name`, which runs. Raises: NotRunning, NotAView, IsMachine, NotJoinable."""
    found = Registry().find_view(name)
    if found.about.machine:
        raise IsMachine(name)
    with namespaces_of(found.about.supervisor, name) as namespaces:
        # The process id was the supervisor's if the view has not ended since.
        if not found.is_running():
            raise NotRunning(name)
        yield namespaces.enter_user


def in_view(path: str) -> str:
    """A path of a view, which begins at its root."""
    return "/" + path.lstrip("/")


def require_kept(name: str, path: str, shared: Sequence[str]) -> None:
    """Refuse a path that a view which is stopped has not: `shared` are mounts of its own. Raises: OnlyWhileRunning."""
    clean = posixpath.normpath(path)
    for place in (*_OF_RUNNING, *shared):
        if clean == place or clean.startswith(place.rstrip("/") + "/"):
            raise OnlyWhileRunning(name, path, place)


def copy(source: End, destination: End, *, keep_owners: bool, overwrite: bool) -> list[str]:
    """Copy a file, with all below it. Returns: some of what was left out.

    Requires: one of both is in a view. Raises: CopyFailed, OSError.
    """
    if source.is_stream:
        return _read([_started(lambda: _unpack(destination, 0, None, keep_owners, overwrite), ())])
    contents = source.path.endswith(("/", "/.")) and source.path.strip("/") in ("", ".")
    contents = contents or source.path.endswith("/.") or source.path in (".", "..")
    name = None if contents else posixpath.basename(posixpath.normpath(source.path))
    if destination.is_stream:
        return _read([_started(lambda: _pack(source, 1, name or "."), ())])
    reader, writer = os.pipe()
    sides = []
    try:
        sides.append(_started(lambda: _pack(source, writer, "copy"), (reader,)))
        sides.append(
            _started(
                lambda: _unpack(destination, reader, (name,), keep_owners, overwrite), (writer,)
            )
        )
    finally:
        os.close(reader)
        os.close(writer)
    return _read(sides)


def _pack(source: End, to: int, name: str) -> list[str]:
    with open(to, "wb", closefd=to > 2) as stream:
        left_out = archives.pack(source.place(), source.path, name, stream)
        stream.flush()
        return left_out


def _unpack(
    destination: End,
    reader: int,
    named: tuple[str | None] | None,
    keep_owners: bool,
    overwrite: bool,
) -> list[str]:
    """`named`: the name of the file that is copied, or None for the contents of a directory; None: any archive."""
    how = Unpacking(
        owners=Owners(
            given=None if keep_owners else destination.owner,
            kept=keep_owners,
            special=destination.enter is not None,
        ),
        overwrite=overwrite,
    )
    place = destination.place()
    with open(reader, "rb", closefd=reader > 2) as stream:
        if named is None:
            archives.unpack_into(place, destination.path, stream, how)
        else:
            archives.unpack_as(place, destination.path, stream, how, name=named[0])
    return how.left_out


# ---- processes -----------------------------------------------------------------------------------


def _started(body: Callable[[], list[str]], others: Sequence[int]) -> tuple[int, int]:
    """A child that carries `body` out: its process id, and a descriptor of its report. It closes `others`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for descriptor in (reader, *others):
                os.close(descriptor)
            os.write(writer, codec.encode(_report(body)))
        finally:
            os._exit(0)
    os.close(writer)
    return child, reader


def _report(body: Callable[[], list[str]]) -> Report:
    os.umask(0o022)
    try:
        return Report(left_out=tuple(body()[:_MOST_NAMES]))
    except BrokenPipeError:
        return Report(broken=True)
    except Error as error:
        return Report(message=str(error), broken=isinstance(error, DamagedArchive))
    except OSError as error:
        path = None if error.filename is None else os.fsdecode(error.filename)
        return Report(errno=error.errno or 5, path=path)
    except Exception:
        traceback.print_exc()
        raise


def _read(sides: list[tuple[int, int]]) -> list[str]:
    """Wait for the sides. Returns: what they left out. Raises: CopyFailed, OSError."""
    reports = []
    try:
        for _, reader in sides:
            with open(reader, "rb") as pipe:
                raw = pipe.read()
            reports.append(
                codec.decode(raw, Report) if raw else Report(message="a copy was killed")
            )
    except BaseException:
        for child, _ in sides:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        raise
    finally:
        for child, _ in sides:
            os.waitpid(child, 0)
    # What one side lacks because the other one failed tells less.
    for report in sorted(reports, key=lambda report: report.broken):
        if report.message:
            raise CopyFailed(report.message)
        if report.errno:
            raise OSError(report.errno, os.strerror(report.errno), report.path)
    return [name for report in reports for name in report.left_out]
