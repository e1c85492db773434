"""A mount alone, attached to a directory: what `mount -t overlay` does, by our own daemon."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Final

from overlaykit.errors import Error
from overlaykit.fuse import daemon
from overlaykit.fuse import mount as fuse_mount
from overlaykit.fuse.spec import LayerSpec, MountSpec
from overlaykit.views import places
from overlaykit.views.registry import About, Registry, now


class OptionUnknown(Error):
    """mount option {0}: not one of {1}"""


class OptionInvalid(Error):
    """mount option {0}: {1}"""


@dataclass(frozen=True, slots=True)
class Options:
    """Mount options under the kernel's names (Documentation/filesystems/overlayfs.rst)."""

    lowerdir: tuple[str, ...]
    upperdir: str | None = None
    workdir: str | None = None
    volatile: bool = False
    userxattr: bool = False
    redirect_dir: bool = True


_FLAGS: Final = ("volatile", "userxattr", "ro", "rw")
_WRITABLE: Final = ("upperdir", "workdir")
_SWITCHES: Final = {"on": True, "off": False}
_KNOWN: Final = ("lowerdir=", "upperdir=", "workdir=", "redirect_dir=", *_FLAGS)


def parse_options(text: str) -> Options:
    """Read what `-o` takes: options separated by commas, lowers by colons; `\\` escapes either.

    Raises Error: OptionUnknown, OptionInvalid.
    """
    values: dict[str, str] = {}
    for option in _split(text, ","):
        key, equals, value = option.partition("=")
        if f"{key}=" in _KNOWN and equals and value:
            values[key] = value
        elif option in _FLAGS:
            values[key] = key
        elif option:
            raise OptionUnknown(option, ", ".join(_KNOWN))
    if "lowerdir" not in values:
        raise OptionInvalid(
            "lowerdir", "missing: name the directories to be merged, top first, as lowerdir=A:B"
        )
    writable = [key for key in _WRITABLE if key in values]
    if len(writable) == 1:
        raise OptionInvalid(writable[0], "upperdir and workdir go together: give both or neither")
    redirect = values.get("redirect_dir", "on")
    if redirect not in _SWITCHES:
        raise OptionInvalid(f"redirect_dir={redirect}", "give on or off")
    lowers = tuple(map(os.path.abspath, filter(None, _split(values["lowerdir"], ":"))))
    upper, work = (os.path.abspath(values[key]) if key in values else None for key in _WRITABLE)
    if upper is not None and "ro" in values:
        lowers, upper, work = (upper, *lowers), None, None
    return Options(
        lowerdir=lowers,
        upperdir=upper,
        workdir=work,
        volatile="volatile" in values,
        userxattr="userxattr" in values,
        redirect_dir=_SWITCHES[redirect],
    )


def mount(options: Options, target: str, *, name: str | None = None) -> None:
    """Mount, and return once the mount answers; a daemon of its own serves it until it is unmounted.

    Raises Error for what the user can mend, OSError for the rest; nothing is left behind.
    """
    target = os.path.abspath(target)
    fuse_mount.check_mountpoint(target)
    target = os.path.realpath(target)
    with contextlib.ExitStack() as undo:
        entry = undo.enter_context(contextlib.closing(Registry().enter(name)))
        spec = MountSpec(
            source="overlaykit",
            layers=tuple(LayerSpec(path=path) for path in options.lowerdir),
            upper=options.upperdir,
            work=options.workdir,
            target=target,
            volatile=options.volatile,
            userxattr=options.userxattr,
            redirect_dir=options.redirect_dir,
            remove=entry.remove_with_daemon,
            log_path=places.log(),
        )
        started = daemon.Daemon()
        with entry.listen() as listener:
            started.serve(spec, listener, keep=[entry.lock])
        entry.publish(
            About(
                name=entry.name,
                pid=started.process.pid,
                daemon=started.process.pid,
                started=now(),
                layers=options.lowerdir,
                upper=options.upperdir,
                target=target,
            )
        )
        started.process.returncode = 0  # it outlives us: not ours to reap


def umount(target: str) -> None:
    """Unmount, and return once its daemon has ended. Raises Error: NotMounted, Busy."""
    path = os.path.realpath(target)
    registry = Registry()
    running = [one for one in registry.running() if one.about.target == path]
    fuse_mount.detach(path)
    for one in running:
        registry.await_end(one)


def _split(text: str, separator: str) -> list[str]:
    """Split at a separator that no backslash escapes; backslashes before other characters stay."""
    parts = [""]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            following = next(characters, "")
            parts[-1] += following if following == separator else character + following
        elif character == separator:
            parts.append("")
        else:
            parts[-1] += character
    return parts
