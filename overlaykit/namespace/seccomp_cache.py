"""Seccomp filters that are made at their first use, and kept in the user's cache.

A filter's name there is a hash of its rules, the machine, the version of libseccomp and the view's capabilities.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat

from overlaykit.namespace import seccomp_filter, seccomp_profile
from overlaykit.namespace.confinement import DEFAULT_FILTER, MACHINE_FILTER
from overlaykit.namespace.seccomp_rules import DEFAULT, MACHINE, TERMINAL
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.namespace.confinement import Confinement
    from overlaykit.namespace.seccomp_rules import Profile

_NAME: Final = "overlaykit-seccomp"
_BY_NAME: Final = {DEFAULT_FILTER: [DEFAULT, TERMINAL], MACHINE_FILTER: [DEFAULT, MACHINE]}


def open_filters(confinement: Confinement) -> list[int]:
    """As `seccomp.open_filters`, for a confinement with a filter."""
    assert confinement.seccomp is not None
    profiles = _BY_NAME.get(confinement.seccomp) or [seccomp_profile.read(confinement.seccomp)]
    opened: list[int] = []
    try:
        for profile in profiles:
            opened.append(_open(profile, confinement))
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return opened


def directory() -> str:
    """Where filters are kept."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    cache = given if os.path.isabs(given) else os.path.expanduser("~/.cache")
    return os.path.join(cache, _NAME)


def _open(profile: Profile, confinement: Confinement) -> int:
    rules = seccomp_filter.selected(profile, confinement.capabilities)
    key = repr((profile.default, profile.others, rules, os.uname().machine, _version()))
    name = hashlib.sha256(key.encode()).hexdigest()
    with suppress(OSError):
        return _kept(name)
    program = _compiled(profile, confinement)
    with suppress(OSError):
        _keep(name, program)
    return _in_memory(program)


def _compiled(profile: Profile, confinement: Confinement) -> bytes:
    try:
        return seccomp_filter.compiled(profile, confinement.capabilities)
    except OSError as error:
        raise seccomp_profile.BadProfile(
            confinement.seccomp, f"libseccomp says {os.strerror(error.errno or 0)}"
        ) from None


def _version() -> tuple[int, ...]:
    """libseccomp's (struct scmp_version in seccomp.h); another one may know more system calls."""
    try:
        function = ctypes.CDLL("libseccomp.so.2").seccomp_version
    except OSError as error:
        raise seccomp_filter.LibseccompMissing(error) from None
    function.restype = ctypes.POINTER(ctypes.c_uint)
    found = function()
    return found[0], found[1], found[2]


def _kept(name: str) -> int:
    """Open a kept filter. Raises: OSError: there is none, or another user may have written it."""
    descriptor = os.open(
        os.path.join(directory(), name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    )
    of_directory, of_file = os.stat(directory()), os.fstat(descriptor)
    others = stat.S_IWGRP | stat.S_IWOTH
    if all(st.st_uid == os.geteuid() and not st.st_mode & others for st in (of_directory, of_file)):
        return descriptor
    os.close(descriptor)
    raise PermissionError


def _keep(name: str, program: bytes) -> None:
    place = directory()
    os.makedirs(os.path.dirname(place), 0o700, exist_ok=True)
    with suppress(FileExistsError):
        os.mkdir(place, 0o700)
    draft = os.path.join(place, f".{name}.{os.getpid()}")
    try:
        with open(draft, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(program)
        os.rename(draft, os.path.join(place, name))
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise


def _in_memory(program: bytes) -> int:
    descriptor = os.memfd_create("overlaykit-seccomp", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(program)
    return descriptor
