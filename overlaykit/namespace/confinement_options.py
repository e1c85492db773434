"""The confinement that `--cap-add`, `--cap-drop`, `--security-opt` and `--privileged` ask for, as podman's do."""

from __future__ import annotations

import fnmatch
import os

from overlaykit.errors import Error
from overlaykit.namespace.capabilities import ALL, NAMES
from overlaykit.namespace.confinement import KEPT, Confinement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

_EVERY: Final = "ALL"
_BOOLEANS: Final = {"": True, "true": True, "1": True, "false": False, "0": False}
_OF_PROC: Final = "/proc/"


class BadCapability(Error):
    message = "{0}: {1}; write a name of capabilities(7), as NET_ADMIN, or ALL"


class BadSecurity(Error):
    message = (
        "--security-opt {0}: {1}; write seccomp=unconfined, seccomp=FILE, no-new-privileges[=false], "
        "mask=PATH[:PATH...], unmask=PATH[:PATH...] or unmask=ALL"
    )


def parse(
    *,
    add: Sequence[str] = (),
    drop: Sequence[str] = (),
    security: Sequence[str] = (),
    privileged: bool = False,
) -> Confinement:
    """The confinement of these options. Raises: BadCapability, BadSecurity."""
    made = Confinement(capabilities=_capabilities(add, drop, all_kept=privileged))
    if privileged:
        made = made.replace(
            no_new_privs=False, seccomp=None, masked=(), read_only=(), machine=False
        )
    for text in security:
        made = _secured(made, text)
    return made


def _capabilities(add: Sequence[str], drop: Sequence[str], *, all_kept: bool) -> frozenset[int]:
    added, dropped = _named("--cap-add", add), _named("--cap-drop", drop)
    if both := added & dropped:
        name = _EVERY if _EVERY in both else min(both)
        raise BadCapability(f"--cap-drop {name}", "it is added as well")
    kept = ALL if all_kept or _EVERY in added else KEPT
    if _EVERY in dropped:
        kept = frozenset()
    return (kept | _numbers(added)) - _numbers(dropped)


def _named(option: str, texts: Sequence[str]) -> set[str]:
    found = set()
    for text in texts:
        for word in text.split(","):
            name = word.upper()
            if name != _EVERY:
                name = f"CAP_{name.removeprefix('CAP_')}"
                if name not in NAMES:
                    raise BadCapability(f"{option} {text}", "there is no such capability")
            found.add(name)
    return found


def _numbers(names: set[str]) -> frozenset[int]:
    return frozenset(NAMES.index(name) for name in names if name != _EVERY)


def _secured(made: Confinement, text: str) -> Confinement:
    key, equals, value = text.partition("=")
    if not equals:
        key, _, value = text.partition(":")
    if key == "no-new-privileges":
        if value not in _BOOLEANS:
            raise BadSecurity(text, f"{value!r} is neither true nor false")
        return made.replace(no_new_privs=_BOOLEANS[value])
    if key not in ("seccomp", "mask", "unmask"):
        raise BadSecurity(text, f"{key!r} is no option")
    if not value:
        raise BadSecurity(text, "a value is missing")
    if key == "seccomp":
        return made.replace(seccomp=None if value == "unconfined" else os.path.abspath(value))
    if key == "unmask" and value.upper() == _EVERY:
        return made.replace(masked=(), read_only=(), machine=False)
    paths = value.split(":")
    for path in paths:
        if not os.path.isabs(path):
            raise BadSecurity(text, f"{path!r} is not an absolute path")
    if key == "mask":
        return made.replace(masked=(*made.masked, *map(os.path.normpath, paths)))
    return _unmasked(made, paths)


def _unmasked(made: Confinement, patterns: Sequence[str]) -> Confinement:
    def left(path: str) -> bool:
        return not any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)

    return made.replace(
        masked=tuple(filter(left, made.masked)),
        read_only=tuple(filter(left, made.read_only)),
        left=(*made.left, *(path for path in patterns if path.startswith(_OF_PROC))),
    )
