"""Empty file systems in memory that a view has at a path: `--tmpfs`, `--mount type=tmpfs`, `--shm-size`."""

from __future__ import annotations

import os

from overlaykit import _native
from overlaykit.errors import Error
from overlaykit.namespace.binds import covers_processes
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_ATTRIBUTES: Final = {
    "ro": (_native.MOUNT_ATTR_RDONLY, True),
    "rw": (_native.MOUNT_ATTR_RDONLY, False),
    "noexec": (_native.MOUNT_ATTR_NOEXEC, True),
    "exec": (_native.MOUNT_ATTR_NOEXEC, False),
    "nosuid": (_native.MOUNT_ATTR_NOSUID, True),
    "suid": (_native.MOUNT_ATTR_NOSUID, False),
    "nodev": (_native.MOUNT_ATTR_NODEV, True),
    "dev": (_native.MOUNT_ATTR_NODEV, False),
}
_DEFAULT: Final = _native.MOUNT_ATTR_NOEXEC | _native.MOUNT_ATTR_NOSUID | _native.MOUNT_ATTR_NODEV
"""As podman's."""
_IGNORED: Final = ("notmpcopyup", "private", "rprivate", "z", "Z")
_TARGETS: Final = ("target", "destination", "dst", "dest")


class BadTmpfs(Error):
    message = (
        "{0}: {1}; write --tmpfs DST[:size=64m,mode=1777,ro,exec], or --mount "
        "type=tmpfs,dst=DST[,tmpfs-size=64m][,tmpfs-mode=1777][,ro]"
    )


class BadSize(Error):
    message = "--shm-size {0}: no size; write a number with k, m or g, as in 64m"


class Tmpfs(Record, kw_only=True):
    """An empty file system at an absolute path of the view, with MOUNT_ATTR_* and options of tmpfs(5)."""

    target: str
    attributes: int = _DEFAULT
    options: tuple[str, ...] = ("mode", "1777")
    """Key, value and so on."""


def parse_tmpfs(text: str, **more: str) -> Tmpfs:
    """Parse `DST[:OPTION,...]`; `more` are options, too. Raises: BadTmpfs."""
    target, _, options = text.partition(":")
    others = [f"{key}={value}" for key, value in more.items()]
    return _tmpfs(f"--tmpfs {text}", target, [*others, *(options.split(",") if options else [])])


def is_tmpfs(mount: str) -> bool:
    """Whether the argument of `--mount` is for a tmpfs."""
    return "type=tmpfs" in mount.split(",")


def parse_tmpfs_mount(text: str) -> Tmpfs:
    """Parse `type=tmpfs,dst=DST[,OPTION...]`, with podman's keys. Raises: BadTmpfs."""
    target, options = "", []
    for field in text.split(","):
        key, _, value = field.partition("=")
        if key in _TARGETS:
            target = value
        elif key in ("ro", "readonly") and value in ("", "true"):
            options.append("ro")
        elif field != "type=tmpfs":
            options.append(field.removeprefix("tmpfs-"))
    return _tmpfs(f"--mount {text}", target, options)


def parse_size(text: str) -> str:
    """The size of /dev/shm as tmpfs(5) takes it. Raises: BadSize."""
    size = _size(text)
    if size is None:
        raise BadSize(text)
    return size


def _tmpfs(text: str, target: str, options: list[str]) -> Tmpfs:
    if not target.startswith("/"):
        raise BadTmpfs(text, f"the target {target!r} is not absolute")
    target = "/" + os.path.normpath(target).lstrip("/")
    if target == "/" or covers_processes(target):
        raise BadTmpfs(text, f"{target} cannot be covered")
    attributes = _DEFAULT
    values = {"mode": "1777"}
    for option in options:
        key, _, value = option.partition("=")
        if option in _ATTRIBUTES:
            flag, is_set = _ATTRIBUTES[option]
            attributes = attributes | flag if is_set else attributes & ~flag
        elif key == "size" and (size := _size(value)) is not None:
            values["size"] = size
        elif key == "mode" and value and not set(value) - set("01234567") and len(value) <= 5:
            values["mode"] = value
        elif key == "nr_inodes" and value.isascii() and value.isdecimal():
            values["nr_inodes"] = value
        elif option not in _IGNORED:
            raise BadTmpfs(text, f"{option!r} is nothing that can be done here")
    pairs = (part for pair in values.items() for part in pair)
    return Tmpfs(target=target, attributes=attributes, options=tuple(pairs))


def _size(text: str) -> str | None:
    number = text.lower().removesuffix("b")
    unit = number[-1:] if number[-1:] in ("k", "m", "g", "%") else ""
    digits = number.removesuffix(unit)
    return number if digits.isascii() and digits.isdecimal() else None
