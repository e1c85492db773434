"""User namespaces: how an ordinary user becomes root of a view, and why that may be switched off here."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress

from overlaykit import _native
from overlaykit.errors import Error


class UserNamespacesRefused(Error):
    message = "user namespaces do not work here: {0}; {1}"

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason, fix)
        self.reason = reason
        self.fix = fix


def enter() -> None:
    """Become root of a new user namespace, with a mount namespace whose mounts are private.

    For a fresh single-threaded child only, for example as `preexec_fn`: there is no way back. The caller's uid and
    gid are 0 inside and the only ids known there; setgroups(2) is given up, as the kernel demands
    before it lets an ordinary user map a group (user_namespaces(7)).

    Raises:
      OSError: as unshare(2), open(2) and write(2) of the maps fail; `diagnose` says why.
    """
    uid, gid = (
        os.geteuid(),
        os.getegid(),
    )  # inside, before there is a map, they are the overflow ids
    _native.unshare(_native.CLONE_NEWUSER | _native.CLONE_NEWNS)
    for name, text in ("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1"):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)


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


def attempt(flags: int) -> int:
    """The errno with which a child fails to make the namespaces `flags` (CLONE_NEW*), 0 if it does not."""
    return errno_of(lambda: become(flags))


def become(flags: int) -> None:
    """In a child: make the namespaces `flags`, and first the user namespace that an ordinary user needs for it.

    With no `flags` at all it is made for everybody.
    """
    if flags == 0 or os.geteuid() != 0:
        enter()
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
