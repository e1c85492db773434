"""A user's own files are read past their modes and stay unchanged; files of others are not read."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest

from overlaykit.reader import Reader

from ..posix.processes import run_in_child
from ..posix.sandbox import ORDINARY_UID, Sandbox
from .inside import as_bound_user, as_root
from .view import refused


@as_bound_user
def test_a_closed_file_is_read_and_stays_as_it_is(sandbox: Sandbox) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        path = os.path.join(directory, "f")
        with open(path, "w") as file:
            file.write("content")
        os.chmod(path, 0)
        # Reading does not update an access time that is later than the change time (relatime).
        os.utime(path, (2**32, 0))
        before = os.stat(path)
        with refused(errno.EACCES):
            os.open(path, os.O_RDONLY)
        descriptors = os.listdir("/proc/self/fd")
        fd = Reader().open(lambda: os.open(path, os.O_RDONLY))
        assert not os.get_inheritable(fd)
        assert os.read(fd, 99) == b"content"
        os.close(fd)
        assert Reader().run(lambda: os.stat(path)) == before == os.stat(path)
        assert os.listdir("/proc/self/fd") == descriptors
        with refused(errno.ENOENT):
            Reader().run(lambda: os.stat(path + "2"))
        with pytest.raises(ChildProcessError):
            os.wait()


@as_bound_user
def test_a_file_of_another_user_is_refused(sandbox: Sandbox) -> None:
    with refused(errno.EACCES):
        Reader().open(lambda: os.open("/etc/shadow", os.O_RDONLY))


@as_root
def test_without_user_namespaces_reading_is_refused(sandbox: Sandbox) -> None:
    """They are refused in a changed root (unshare(2))."""
    with tempfile.TemporaryDirectory() as directory:

        def act() -> None:
            os.chroot(directory)
            os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
            with refused(errno.EACCES):
                Reader().run(lambda: os.stat("/"))

        run_in_child(act)
