"""The sandbox of tests of system calls: a child with a mount namespace of its own, and a tmpfs at /mnt.

Mounts, namespaces and dropped rights of a test end with the child. As "root" the child keeps the identity of the
tests; as "user" it is an ordinary user, and root of a user namespace.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from typing import Literal, TypeAlias

import pytest

from overlaykit import _native

from ..posix import syscalls

Identity: TypeAlias = Literal["root", "user"]

ORDINARY_ID = 1000
"""The ordinary user's ids, where the tests themselves run as root."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root in the initial user namespace only")

IDENTITIES = [pytest.param("root", marks=needs_root), "user"]


def refused(number: int) -> pytest.RaisesExc[OSError]:
    """Expect an OSError with this errno."""
    return pytest.raises(OSError, match=re.escape(os.strerror(number)))


def run(body: Callable[[], None]) -> None:
    """Run `body` in a forked child; fail with its traceback if it raised."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        report = b""
        try:
            body()
        except BaseException:
            report = traceback.format_exc().encode()
        os.set_blocking(into, True)
        os.write(into, report[-32768:])
        os._exit(1 if report else 0)
    os.close(into)
    with open(out, "rb") as pipe:
        failure = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if failure or status:
        pytest.fail(failure or f"the child ended with wait status {status}", pytrace=False)


def become_ordinary() -> None:
    """Become an ordinary user, if the tests run as root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(ORDINARY_ID, ORDINARY_ID, ORDINARY_ID)
        os.setresuid(ORDINARY_ID, ORDINARY_ID, ORDINARY_ID)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)


def enter_user_namespace() -> None:
    """Become root of a new user namespace that maps no other id."""
    uid, gid = os.geteuid(), os.getegid()
    _native.unshare(_native.CLONE_NEWUSER)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # else root owns /proc/self: proc(5)
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)


def enter_mount_namespace() -> None:
    """Enter a mount namespace whose mounts are private."""
    _native.unshare(_native.CLONE_NEWNS)
    _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)


def enter(identity: Identity) -> None:
    """Become `identity`, with a new tmpfs at /mnt, in a new mount namespace."""
    if identity == "user":
        become_ordinary()
        enter_user_namespace()
    enter_mount_namespace()
    _native.mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755")
    os.chdir("/mnt")


def sandboxed(test: Callable[[], None]) -> Callable[[Identity], None]:
    """Turn `test` into one that runs in a sandbox as each identity, in a new tmpfs at /mnt."""

    @pytest.mark.parametrize("identity", IDENTITIES)
    def sandboxed_test(identity: Identity) -> None:
        def body() -> None:
            enter(identity)
            test()

        run(body)

    sandboxed_test.__name__ = test.__name__
    return sandboxed_test


def sandboxed_on_disk(test: Callable[[], None]) -> Callable[[Identity], None]:
    """Turn `test` into one that runs in a sandbox as each identity, in a directory on a disk.

    A tmpfs has no user.* xattrs before Linux 6.6.
    """

    @pytest.mark.parametrize("identity", IDENTITIES)
    def sandboxed_test(identity: Identity) -> None:
        with tempfile.TemporaryDirectory(prefix="overlaykit-native-", dir="/var/tmp") as directory:
            if identity == "user" and os.geteuid() == 0:
                os.chown(directory, ORDINARY_ID, ORDINARY_ID)

            def body() -> None:
                enter(identity)
                os.chdir(directory)
                test()

            run(body)

    sandboxed_test.__name__ = test.__name__
    return sandboxed_test


def on_image(*mkfs: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Turn a test into one for root only, in a file system that this command makes on a loop device.

    The image lies in the tmpfs of the sandbox, so it and the loop device end with the sandbox.
    """

    def decorate(test: Callable[[], None]) -> Callable[[], None]:
        def body() -> None:
            enter("root")
            with open("image", "wb") as image:
                image.truncate(256 << 20)
            subprocess.run([*mkfs, "image"], check=True, stdout=subprocess.DEVNULL)
            os.mkdir("disk")
            subprocess.run(["mount", "-o", "loop", "image", "disk"], check=True)
            try:
                os.chdir("disk")
                test()
            finally:
                os.chdir("/mnt")
                _native.umount2("disk", _native.MNT_DETACH)

        @needs_root
        def test_on_image() -> None:
            run(body)

        test_on_image.__name__ = test.__name__
        return test_on_image

    return decorate
