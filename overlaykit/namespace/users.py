"""User namespaces: how an ordinary user becomes root of a view, and why that may be switched off here."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from overlaykit import _native, privilege
from overlaykit.errors import Error
from overlaykit.namespace import capabilities, identities
from overlaykit.namespace.identities import Identities


class UserNamespacesRefused(Error):
    message = "user namespaces do not work here: {0}; {1}"

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason, fix)
        self.reason = reason
        self.fix = fix


NEEDED: Final = frozenset(
    {
        *capabilities.KEPT,
        privilege.CAP_SYS_ADMIN,
        privilege.CAP_NET_ADMIN,
        privilege.CAP_MKNOD,
    }
)
"""What root must have to do without a user namespace of its own. Root of a container, or of a view, has not."""


def is_privileged() -> bool:
    """Whether this process makes namespaces, mounts and devices as it is: as root with the capabilities for them."""
    return os.geteuid() == 0 and privilege.capabilities() >= NEEDED


def enter(known: Identities | None = None) -> None:
    """Become root of a new user namespace, with a mount namespace whose mounts are private.

    For a fresh single-threaded child only, for example as `preexec_fn`: there is no way back. The namespace knows the
    identities `known` (`identities.available()`, asked before; by default the caller as root alone), or, where
    they are refused, the caller alone; then setgroups(2) is given up, as the kernel demands before it lets an ordinary
    user map a group (user_namespaces(7)).

    Raises:
      OSError: as unshare(2), open(2) and write(2) of the maps fail; `diagnose` says why.
    """
    alone = identities.alone()  # inside, before there is a map, the caller is the overflow id
    with _mapped_from_outside(known or alone):
        _native.unshare(_native.CLONE_NEWUSER | _native.CLONE_NEWNS)
    if not _has_map("uid"):
        identities.write(_number(), "uid", str(alone.users[0]))
    if not _has_map("gid"):
        descriptor = os.open("/proc/self/setgroups", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"deny")
        finally:
            os.close(descriptor)
        identities.write(_number(), "gid", str(alone.groups[0]))
    _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)


@contextmanager
def _mapped_from_outside(known: Identities) -> Iterator[None]:
    """At the end of the block, which makes a user namespace, have a process of the parent write its maps."""
    if known.writer == "self":
        yield
        return
    target = _number()
    waiting, made = os.pipe()
    writer = os.fork()
    if writer == 0:
        try:
            os.close(made)
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            if os.read(waiting, 1):
                identities.write_from_outside(target, known)
        finally:
            os._exit(0)
    os.close(waiting)
    try:
        yield
        os.write(made, b".")
    finally:
        os.close(made)
        os.waitpid(writer, 0)


def _number() -> int:
    """This process's number in the procfs that is mounted, which may be that of an outer PID namespace."""
    return int(os.readlink("/proc/self"))


def _has_map(kind: str) -> bool:
    with open(f"/proc/self/{kind}_map", "rb", buffering=0) as file:
        return file.read(1) != b""


def isolate_mounts() -> None:
    """Give this process a mount namespace whose mounts are private; for a fresh child of a privileged caller.

    Raises:
      OSError: as unshare(2) fails.
    """
    _native.unshare(_native.CLONE_NEWNS)
    _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)


def diagnose() -> UserNamespacesRefused | None:
    """Try `enter` in a child; None when it works, else the reason and the exact way out."""
    number = attempt(0)
    if number == 0:
        return None
    if number == errno.ENOSPC:
        limit = _sysctl("user.max_user_namespaces")
        return UserNamespacesRefused(
            f"the limit user.max_user_namespaces is {limit}",
            "raise it with: sysctl -w user.max_user_namespaces=15000",
        )
    if _sysctl("kernel.unprivileged_userns_clone") == "0":
        return UserNamespacesRefused(
            "the sysctl kernel.unprivileged_userns_clone is 0",
            "switch them on with: sysctl -w kernel.unprivileged_userns_clone=1",
        )
    if _sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1":
        return UserNamespacesRefused(
            "AppArmor denies them to programs without a profile",
            "allow them with: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
    if _seccomp_filtered():
        return UserNamespacesRefused(
            "a seccomp filter forbids them, as that of a container does",
            "start the container with --security-opt seccomp=unconfined, or with --privileged",
        )
    if number in (errno.EINVAL, errno.ENOSYS):
        return UserNamespacesRefused(
            "this kernel is built without CONFIG_USER_NS", "boot one that has them, or run as root"
        )
    return UserNamespacesRefused(
        f"the kernel says {os.strerror(number)}, as inside a chroot or under a security module",
        "run outside of it, or as root",
    )


def errno_as_root(body: Callable[[], object]) -> int:
    """The errno of the `OSError` that `body` raises in a child that is root of a user namespace, as `errno_of` does.

    For files in an upper that belong to the caller's subordinate ids.
    """
    known = identities.available()

    def as_root() -> None:
        enter(known)
        body()

    return errno_of(as_root)


def attempt(flags: int) -> int:
    """The errno with which a child fails to make the namespaces `flags` (CLONE_NEW*), 0 if it does not."""
    return errno_of(lambda: become(flags))


def become(flags: int) -> None:
    """In a child: make the namespaces `flags`, and first the user namespace that all but a full root need for it.

    With no `flags` at all it is made for everybody.
    """
    if flags == 0 or not is_privileged():
        enter(identities.available())
    if flags:
        _native.unshare(flags)


def errno_of(body: Callable[[], object]) -> int:
    """The errno of the `OSError` that `body` raises in a child of its own, 0 if it does not."""
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


def _sysctl(name: str) -> str | None:
    with suppress(OSError), open(f"/proc/sys/{name.replace('.', '/')}", encoding="ascii") as value:
        return value.read().strip()
    return None


def _seccomp_filtered() -> bool:
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
        return any(line.split() == ["Seccomp:", "2"] for line in status)
