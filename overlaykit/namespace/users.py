"""Enter a user namespace, where an ordinary user is root; the capabilities that views need."""

from __future__ import annotations

import errno
import os

from overlaykit import _native, privilege
from overlaykit.namespace.confinement import KEPT
from overlaykit.scope import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

    from overlaykit.namespace.identities import Identities

_MAP: Final = "/proc/self/uid_map"

NEEDED: Final = frozenset(
    {
        *KEPT,
        privilege.CAP_SYS_ADMIN,
        privilege.CAP_NET_ADMIN,
        privilege.CAP_MKNOD,
    }
)
"""The capabilities with which root needs no new user namespace. Root of a container or of a view lacks some."""


def is_privileged() -> bool:
    """Whether this process is root with the capabilities for namespaces, mounts and devices."""
    return os.geteuid() == 0 and privilege.capabilities() >= NEEDED


def enter(mapped: Identities | None = None) -> None:
    """Become root of a new user namespace, with a mount namespace whose mounts are private.

    The namespace maps `mapped` (`identities.available()`, called before; by default the caller only), or the caller
    only if that is refused and not required. To map its own group, an ordinary user has to give up setgroups(2)
    (user_namespaces(7)).

    Requires: a new single-threaded child, for example in `preexec_fn`: it cannot return to the old namespace.

    Raises:
      OSError: as unshare(2), open(2) and write(2) of the maps; `diagnosis.diagnose` finds the reason.
    """
    from overlaykit.namespace import identities

    # The caller has the overflow id in the new namespace until its maps are written.
    by_itself = mapped is not None and mapped.writer == "self"
    caller = mapped if mapped is not None and by_itself else identities.caller_only()
    with _mapped_from_outside(mapped or caller):
        _native.unshare(_native.CLONE_NEWUSER | _native.CLONE_NEWNS)
    unmapped = not (privilege.extents("uid") and privilege.extents("gid"))
    if mapped is not None and mapped.required and unmapped:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), _MAP)
    if not privilege.extents("uid"):
        identities.write(_procfs_pid(), "uid", str(caller.users[0]))
    if not privilege.extents("gid"):
        descriptor = os.open("/proc/self/setgroups", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"deny")
        finally:
            os.close(descriptor)
        identities.write(_procfs_pid(), "gid", str(caller.groups[0]))
    _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
    if os.geteuid() != 0:  # `identities.unchanged`
        from overlaykit import effective

        effective.keep_across_execution()


@contextmanager
def _mapped_from_outside(mapped: Identities) -> Iterator[None]:
    """Have a process of this user namespace write the maps of the one that the block makes."""
    if mapped.writer == "self":
        yield
        return
    from overlaykit.namespace import identities

    target = _procfs_pid()
    waiting, made = os.pipe()
    writer = os.fork()
    if writer == 0:
        try:
            os.close(made)
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            if os.read(waiting, 1):
                identities.write_from_outside(target, mapped)
        finally:
            os._exit(0)
    os.close(waiting)
    try:
        yield
        os.write(made, b".")
    finally:
        os.close(made)
        os.waitpid(writer, 0)


def _procfs_pid() -> int:
    """The process id in the mounted procfs, which may belong to an outer PID namespace."""
    return int(os.readlink("/proc/self"))


def isolate_mounts() -> None:
    """Enter a new mount namespace whose mounts are private.

    Requires: a new child of a privileged process.

    Raises:
      OSError: as unshare(2).
    """
    _native.unshare(_native.CLONE_NEWNS)
    _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)


def errno_as_root(body: Callable[[], object]) -> int:
    """`errno_of` in a child that is root of a user namespace.

    For files in an upper that belong to the caller's subordinate ids.
    """
    from overlaykit.namespace import identities

    mapped = identities.available()

    def as_root() -> None:
        enter(mapped)
        body()

    return errno_of(as_root)


def become(flags: int) -> None:
    """Enter new namespaces `flags`, and before them a user namespace unless this process is privileged.

    Without `flags`, a user namespace is entered in any case. Requires: a new child.
    """
    if flags == 0 or not is_privileged():
        from overlaykit.namespace import identities

        enter(identities.available())
    if flags:
        _native.unshare(flags)


def errno_of(body: Callable[[], object]) -> int:
    """The errno of the `OSError` that `body` raises in a child; 0 if it raises none."""
    child = os.fork()
    if child == 0:
        number = errno.EIO
        try:
            body()
            number = 0
        except OSError as error:
            number = error.errno or errno.EIO
        finally:
            os._exit(number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
