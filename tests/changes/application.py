"""Pictures of trees, and applications to them, also such that are killed."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from overlaykit.changes import applying
from overlaykit.changes.applying import Outcome
from overlaykit.changes.model import STATE
from overlaykit.changes.opening import open_directory
from overlaykit.changes.read import Comparison
from overlaykit.changes.run import Request
from overlaykit.overlay.faults import STEPS

from .. import forked
from .workspace import Workspace


@dataclass(frozen=True)
class Shown:
    """What a user sees of a file. `data`: its bytes or their digest, or a symlink's target."""

    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    device: int
    size: int
    data: object
    xattrs: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Picture:
    """A tree. `links`: the paths of each file that has several."""

    files: dict[str, Shown]
    links: tuple[tuple[str, ...], ...]

    def without_links(self) -> Picture:
        """The same of files each with a name: the kernel's overlayfs parts names of a lower's file as they change."""
        return Picture(self.files, ())

    def lines(self) -> list[str]:
        """A line for each file, for a comparison that says what differs."""
        return [
            *(f"{path}: {shown}" for path, shown in sorted(self.files.items())),
            str(self.links),
        ]


_LONG = 100

BACKWARD = ("apply.unstep", "apply.undone")
FORWARD = tuple(step for step in STEPS if step.startswith("apply.") and step not in BACKWARD)
"""The steps of `faults`."""

Kill: TypeAlias = Callable[[], None]


def picture(top: str) -> Picture:
    """All that is in a directory, but for its state of applications and the times and the owner of its root."""
    files: dict[str, Shown] = {}
    names: dict[tuple[int, int], list[str]] = {}
    for path in _paths(top):
        full = os.path.join(top, path)
        st = os.lstat(full)
        directory = stat.S_ISDIR(st.st_mode)
        if not directory:
            names.setdefault((st.st_dev, st.st_ino), []).append(path)
        files[path] = Shown(
            mode=st.st_mode,
            owner=(st.st_uid, st.st_gid) if path else (0, 0),
            mtime_ns=st.st_mtime_ns if path else 0,
            device=st.st_rdev if stat.S_ISCHR(st.st_mode) else 0,
            size=0 if directory else st.st_size,
            data=_data(full, st),
            xattrs=tuple(
                (name, os.getxattr(full, name, follow_symlinks=False))
                for name in sorted(os.listxattr(full, follow_symlinks=False))
                if ".overlay." not in name
            ),
        )
    return Picture(files, tuple(sorted(tuple(sorted(one)) for one in names.values() if one[1:])))


def _paths(top: str) -> list[str]:
    found = [""]
    for above in found:
        with os.scandir(os.path.join(top, above)) as entries:
            found += [
                os.path.join(above, one.name)
                for one in entries
                if one.is_dir(follow_symlinks=False) and os.fsencode(one.name) != STATE
            ]
    files = []
    for above in found:
        with os.scandir(os.path.join(top, above)) as entries:
            files += [
                os.path.join(above, one.name)
                for one in entries
                if not one.is_dir(follow_symlinks=False)
            ]
    return sorted(found + files)


def _data(path: str, st: os.stat_result) -> object:
    if stat.S_ISLNK(st.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(st.st_mode):
        return None
    with open(path, "rb") as file:
        return file.read() if st.st_size < _LONG else hashlib.sha256(file.read()).hexdigest()


def request(
    workspace: Workspace,
    *paths: str,
    choice: str = "",
    merges: bool = False,
    consumes: bool = True,
) -> Request:
    return Request(
        upper=workspace.upper,
        lowers=tuple(workspace.lowers),
        paths=paths,
        choice=choice,
        merges=merges,
        consumes=consumes,
    )


def apply(target: str, asked: Request, *, dry_run: bool = False) -> Outcome:
    lowers = list(map(open_directory, asked.lowers))
    upper = open_directory(asked.upper)
    with Comparison.of_upper(upper, lowers, os.fsencode(asked.within)) as comparison:
        return applying.apply(comparison, target, asked, dry_run=dry_run)


def resume(target: str) -> Outcome:
    return applying.resume(target, lambda asked: apply(target, asked))


def copy(source: str, target: str) -> None:
    subprocess.run(["cp", "-a", "--sparse=auto", source, target], check=True)


def killed(body: Callable[[], object], by: Kill) -> bool:
    """Run `body` in a child that `by` prepares its end for. Returns: whether that was reached."""
    child = os.fork()
    if not child:
        status = 1
        try:
            by()
            body()
            status = 0
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            sys.stderr.flush()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGALRM)
        return True
    assert status == 0
    return False


def at_step(step: str) -> Kill:
    """Kill the process at a step of `faults`, as `OVERLAYKIT_FAULT` says it."""

    return lambda: forked.arm(step)


def after(seconds: float) -> Kill:
    """Have the kernel kill the process after a time."""

    def arm() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    return arm
