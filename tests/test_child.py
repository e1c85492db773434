"""A child hands over what it makes, and tells what it could not make."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from collections.abc import Iterator

import pytest

from overlaykit import child
from overlaykit.procfs import children


def _open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No test leaves a descriptor or a child behind."""
    before = _open_descriptors(), children(os.getpid())
    yield
    assert (_open_descriptors(), children(os.getpid())) == before


def test_descriptors_and_bytes_are_handed_over() -> None:
    def make() -> child.Made:
        reader, writer = os.pipe()
        os.write(writer, b"through the pipe")
        os.close(writer)
        return [reader, os.open("/", os.O_RDONLY)], b"\0any\xffbytes\0"

    (reader, root), data = child.make(make, most_descriptors=2, most_bytes=32)
    assert data == b"\0any\xffbytes\0"
    assert os.read(reader, 32) == b"through the pipe"
    assert os.path.samestat(os.fstat(root), os.stat("/"))
    assert fcntl.fcntl(root, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(reader)
    os.close(root)


def test_nothing_at_all_is_handed_over() -> None:
    assert child.make(lambda: ([], b"")) == ([], b"")


@pytest.mark.parametrize("path", ["/missing", "/not UTF-8: \udcff\n", None])
def test_an_error_comes_with_its_path(path: str | None) -> None:
    def fail() -> child.Made:
        raise OSError(errno.EMEDIUMTYPE, "in the child", path)

    with pytest.raises(OSError, match=os.strerror(errno.EMEDIUMTYPE)) as raised:
        child.make(fail)
    assert (raised.value.errno, raised.value.filename) == (errno.EMEDIUMTYPE, path)


def test_a_child_that_was_killed_is_told() -> None:
    def die() -> child.Made:
        os.kill(os.getpid(), signal.SIGKILL)
        return [], b"never"

    with pytest.raises(ChildProcessError):
        child.make(die)


def test_a_mistake_in_the_child_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChildProcessError):
        child.make(lambda: ([], b"%d" % (1 // 0)))
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_descriptors_beyond_the_limit_are_an_error() -> None:
    def make() -> child.Made:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        return [os.open("/", os.O_PATH) for _ in range(3)], b""

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The sockets of the call take two places, of which one is free again when the message comes: one is missing.
    free = [os.dup(0) for _ in range(3)]
    highest = max(free)
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            child.make(make, most_descriptors=3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
