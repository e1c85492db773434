"""Diagnose why an ordinary user cannot make namespaces here."""

from __future__ import annotations

import errno
import os

from overlaykit.errors import Error
from overlaykit.namespace import users
from overlaykit.scope import suppress


class UserNamespacesRefused(Error):
    message = "user namespaces do not work here: {0}; {1}"

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason, fix)
        self.reason = reason
        self.fix = fix


def diagnose() -> UserNamespacesRefused | None:
    """Try `users.enter` in a child; None if it works, else the reason and the fix."""
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
    """The errno with which a child fails to make the namespaces `flags` (CLONE_NEW*); 0 if it succeeds."""
    return users.errno_of(lambda: users.become(flags))


def _sysctl(name: str) -> str | None:
    with suppress(OSError), open(f"/proc/sys/{name.replace('.', '/')}", encoding="ascii") as value:
        return value.read().strip()
    return None


def _seccomp_filtered() -> bool:
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
        return any(line.split() == ["Seccomp:", "2"] for line in status)
