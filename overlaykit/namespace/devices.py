"""Device nodes of the host that a view has (`--device`, `--gpus`).

The node itself is bound: a view has no CAP_MKNOD, and its own nodes open nothing. The kernel checks the node's mode; a
bind cannot hold a program to reading.
"""

from __future__ import annotations

import glob
import os
import stat

from overlaykit.errors import Error
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_KINDS: Final = {
    "nvidia.com/gpu": ("nvidia*", "nvidia-caps/*", "dri/*"),
    "amd.com/gpu": ("kfd", "dri/*"),
    "intel.com/gpu": ("dri/*",),
}
"""By the names of the Container Device Interface: the nodes of a vendor's GPUs."""
_ANY_GPU: Final = ("nvidia*", "nvidia-caps/*", "kfd", "dri/*", "dxg")


class BadDevice(Error):
    message = "--device {0}: {1}; write SRC[:DST][:rwm] with absolute paths"


class NoDevice(Error):
    message = "--device {0}: {1}; name a device that exists (see ls /dev)"


class NoGpu(Error):
    message = "{0}: this machine has no such GPU ({1}); load its driver, or leave the option out"


class Device(Record, kw_only=True):
    """A device node of the host, and its path in the view."""

    source: str
    target: str


def parse_device(text: str) -> tuple[Device, ...]:
    """Parse `SRC[:DST][:rwm]`, or a GPU as `VENDOR/gpu=all`; of a directory all devices in it.

    Raises: BadDevice, NoDevice, NoGpu.
    """
    kind, equals, which = text.partition("=")
    if equals and kind in _KINDS:
        if which != "all":
            raise BadDevice(text, f"{which!r} cannot be told apart from others: write all")
        return _gpus(f"--device {text}", _KINDS[kind])
    source, *rest = text.split(":")
    access = rest.pop() if rest and not rest[-1].startswith("/") else "rwm"
    target = rest.pop() if rest else source
    if rest or not source.startswith("/") or not target.startswith("/"):
        raise BadDevice(text, "no absolute path, or too many")
    if not access or set(access) - set("rwm"):
        raise BadDevice(text, f"{access!r} is no access")
    if not set("rw") <= set(access):
        raise BadDevice(text, "a program cannot be held to one of reading and writing: write rw")
    return _nodes(text, source, "/" + os.path.normpath(target).lstrip("/"))


def parse_gpus(text: str) -> tuple[Device, ...]:
    """The devices of `--gpus all`. Raises: NoGpu, BadDevice."""
    if text != "all":
        raise NoGpu(f"--gpus {text}", "only all can be had")
    return _gpus("--gpus all", _ANY_GPU)


def _gpus(option: str, patterns: tuple[str, ...]) -> tuple[Device, ...]:
    found = sorted({path for pattern in patterns for path in glob.glob(f"/dev/{pattern}")})
    nodes = tuple(Device(source=path, target=path) for path in found if _is_device(path))
    if not nodes:
        raise NoGpu(option, "none of " + ", ".join(f"/dev/{pattern}" for pattern in patterns))
    return nodes


def _nodes(text: str, source: str, target: str) -> tuple[Device, ...]:
    if os.path.isdir(source):
        found = []
        for directory, _, names in os.walk(source):
            paths = (os.path.join(directory, name) for name in sorted(names))
            found += [path for path in paths if _is_device(path)]
        if not found:
            raise NoDevice(text, f"no device in {source}")
        return tuple(
            Device(source=path, target=target + path.removeprefix(source.rstrip("/")))
            for path in found
        )
    try:
        is_device = _is_device(os.path.realpath(source, strict=True))
    except OSError as error:
        raise NoDevice(text, error.strerror or "missing") from None
    if not is_device:
        raise NoDevice(text, "no device")
    return (Device(source=source, target=target),)


def _is_device(path: str) -> bool:
    mode = os.lstat(path).st_mode
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
