"""The directories that hold state: the registry, scratch uppers, the log.

Each kind of state has a list of candidates, those of the XDG base directory specification first; the first usable one
is taken. The home directory may be missing, not writable, or on a full or read-only disk: then state goes to the
runtime directory or to a directory of the user's own below /tmp. A directory is made when something is put into it.
"""

from __future__ import annotations

import os
import stat

from overlaykit import attributes, privilege
from overlaykit.errors import Error
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_NAME: Final = "overlaykit"
_LOG: Final = "daemon.log"
_OF_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH

_USUAL_DISKS: Final = (0xEF53, 0x58465342, 0x9123683E)
"""ext4, XFS, btrfs (include/uapi/linux/magic.h)."""

_ATTRIBUTES: Final = ("trusted.overlay.probe", "user.overlay.probe")


class PlaceUnsafe(Error):
    message = (
        "{0} belongs to another user or can be written by others: remove it, or set "
        "XDG_RUNTIME_DIR to a directory of your own"
    )


class NoRuntimePlace(Error):
    message = (
        "no directory to register a running view in ({0}): set XDG_RUNTIME_DIR to one that you may "
        "write to"
    )


class NoHome(Error):
    message = "there is no home directory to keep a named view in: set XDG_DATA_HOME"


class NoScratchPlace(Error):
    message = (
        "no directory for what is written in a view ({0}): set XDG_CACHE_HOME to one that takes "
        "extended attributes, or use --upper or --read-only"
    )


def runtime() -> str:
    """The directory of the registry, which exists only while views are running.

    /run/overlaykit for root, else $XDG_RUNTIME_DIR/overlaykit, else one of the user's own in /tmp or /dev/shm.
    Raises: NoRuntimePlace.
    """
    candidates = list(_runtime_candidates())
    for path in candidates:
        # An unsafe directory is taken, too: `private` refuses it, because another user may have made it.
        # The end of another view may remove it, the start of one make it, between two looks.
        if (
            _is_writable(path)
            or (not os.path.lexists(path) and _is_writable(os.path.dirname(path)))
            or _is_writable(path)
        ):
            return path
    raise NoRuntimePlace(", ".join(candidates))


def scratch() -> list[str]:
    """The directories for uppers that end with their view, best first; on disks, because uppers may grow."""
    return [
        *_in_home("XDG_CACHE_HOME", ".cache"),
        f"/var/tmp/{_NAME}-{privilege.outside(os.geteuid())}",  # noqa: S108  # `private` checks it
    ]


def make_scratch(place: str, name: str) -> str | None:
    """Make the directory `name` in one of `scratch()`. Returns: its path, or None if an upper cannot lie there."""
    path = os.path.join(place, name)
    try:
        _make_private_with_parents(place)
        try:
            os.mkdir(path, 0o700)
        except FileNotFoundError:  # the end of another view removed it
            _make_private_with_parents(place)
            os.mkdir(path, 0o700)
        if holds_markers(path):
            return path
        os.rmdir(path)
    except (OSError, PlaceUnsafe):
        pass
    with suppress(OSError):
        if is_private(place):
            os.rmdir(place)
    return None


def private_scratch() -> list[str]:
    """Those of `scratch()` that exist and that only this user may write to."""
    return [place for place in scratch() if os.path.lexists(place) and is_private(place)]


def holds_markers(path: str) -> bool:
    """Whether an upper can lie in this directory: its file system can hold overlay markers.

    The usual file systems need only keep an attribute; the daemon probes the rest again.
    """
    if _is_on_usual_disk(path) and any(_keeps_attribute(path, name) for name in _ATTRIBUTES):
        return True
    from overlaykit.overlay.disk import probe

    try:
        probe(os.fsencode(path), user=False).form(None)
    except OSError:
        return False
    return True


def is_usual_disk(fd: int) -> bool:
    """Whether a descriptor's file system is one of the usual ones, which one machine mounts at a time."""
    return attributes.file_system_of(fd) in _USUAL_DISKS


def _is_on_usual_disk(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return is_usual_disk(fd)
    finally:
        os.close(fd)


def _keeps_attribute(path: str, name: str) -> bool:
    try:
        os.setxattr(path, name, b"y")
        os.removexattr(path, name)
    except OSError:
        return False
    return True


def log() -> str:
    """The file for the warnings of daemons, which make it; empty if no directory can hold it."""
    for directory in (*_in_home("XDG_STATE_HOME", ".local", "state"), *_runtime_candidates()):
        path = os.path.join(directory, _LOG)
        if os.path.lexists(directory):
            usable = is_private(directory) and os.access(
                path if os.path.lexists(path) else directory, os.W_OK
            )
        else:
            usable = _can_be_made(directory)
        if usable:
            return path
    return ""


def views() -> str:
    """The directory of named views, which the first of them makes. Raises: NoHome.

    In a view over the host that of the host is covered, and the home may be read-only: then it is where scratch is.
    """
    found = [
        os.path.join(directory, "views")
        for directory in _in_home("XDG_DATA_HOME", ".local", "share")
    ]
    if not found:
        raise NoHome
    for path in (*found, *(os.path.join(directory, "views") for directory in scratch())):
        if _is_writable(path) if os.path.lexists(path) else _can_be_made(path):
            return path
    return found[0]


def hidden() -> list[str]:
    """The existing directories of uppers and entries, which a view over the host must not show."""
    candidates = [*scratch(), *_runtime_candidates()]
    with suppress(NoHome):
        candidates.append(views())
    return [path for path in candidates if stat.S_ISDIR(_mode(path))]


def private(path: str) -> str:
    """Make a directory that only this user may write to, if it does not exist. Raises: PlaceUnsafe."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not is_private(path):
            raise PlaceUnsafe(path) from None
    return path


def _make_private_with_parents(path: str) -> None:
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    private(path)


def _runtime_candidates() -> Iterator[str]:
    # Also in a view, which has a /run of its own. In `unshare -r`, /run is not writable.
    if os.geteuid() == 0:
        yield f"/run/{_NAME}"
    if os.path.isabs(given := os.environ.get("XDG_RUNTIME_DIR", "")):
        yield os.path.join(given, _NAME)
    # In a view over the host the first of them is covered if the host's is there.
    for directory in ("/tmp", "/dev/shm"):  # noqa: S108  # `private` checks it
        yield f"{directory}/{_NAME}-{privilege.outside(os.geteuid())}"


def _in_home(variable: str, *default: str) -> Iterator[str]:
    """The directory of a kind of state by the specification, which ignores relative paths.

    A missing home is not made.
    """
    if os.path.isabs(given := os.environ.get(variable, "")):
        yield os.path.join(given, _NAME)
    elif os.path.isabs(home := os.path.expanduser("~")) and os.path.isdir(home):
        yield os.path.join(home, *default, _NAME)


def _can_be_made(path: str) -> bool:
    """Whether a directory and its missing parents can be made."""
    parent = os.path.dirname(path)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    return _is_writable(parent)


def _is_writable(path: str) -> bool:
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def is_private(path: str) -> bool:
    """Whether a path is a directory, not a symlink, that belongs to this user and that others cannot write to."""
    st = os.lstat(path)
    return stat.S_ISDIR(st.st_mode) and st.st_uid == os.geteuid() and not st.st_mode & _OF_OTHERS


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0
