"""Calls that return None for a missing name or attribute, else the result of the standard library."""

from __future__ import annotations

import errno
import os
import pathlib

import pytest

from overlaykit import _native, attributes


def test_a_stat_equals_that_of_os_stat(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("x" * 5000)
    (tmp_path / "link").symlink_to("file")
    os.utime(tmp_path / "file", ns=(1_234_567_890_123_456_789, -1))
    late = f"/var/tmp/overlaykit-late-{os.getpid()}"  # on a disk, which holds times after 2262
    with open(late, "x"):
        try:
            os.utime(late, (10**10 + 5, 10**10 + 5))
            found = attributes.stat_or_none(_native.AT_FDCWD, late)
            assert found is not None
            assert found.st_mtime_ns == os.stat(late).st_mtime_ns == (10**10 + 5) * 10**9
        finally:
            os.unlink(late)
    directory = os.open(tmp_path, os.O_PATH)
    for name in ("file", "link", "."):
        found = attributes.stat_or_none(directory, name)
        expected = os.stat(name, dir_fd=directory, follow_symlinks=False)
        assert found == expected
        assert type(found) is os.stat_result
        for field in (field for field in dir(expected) if field.startswith("st_")):
            assert getattr(found, field) == getattr(expected, field), field
    os.close(directory)


def test_a_missing_name_is_none_and_any_other_failure_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    directory = os.open(tmp_path, os.O_PATH)
    assert attributes.stat_or_none(directory, b"missing") is None
    for name, number in ((b"file/below", errno.ENOTDIR), (b"x" * 256, errno.ENAMETOOLONG)):
        with pytest.raises(OSError, match=os.strerror(number)) as raised:
            attributes.stat_or_none(directory, name)
        assert (raised.value.errno, raised.value.filename) == (number, name)
    os.close(directory)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        attributes.stat_or_none(directory, b"name")


def test_an_attribute_of_any_length_is_read_and_a_missing_one_is_none() -> None:
    # On a disk, which holds user attributes: not every /tmp does.
    path = f"/var/tmp/overlaykit-absent-{os.getpid()}"
    with open(path, "x") as file:
        try:
            assert attributes.xattr_or_none(path, b"user.none") is None
            assert attributes.xattr_or_none("/proc/self/status", b"user.none") is None
            for length in (0, 1, 255, 256, 257, 3000):
                os.setxattr(path, "user.k", b"v" * length)
                for given in (path, os.fsencode(path), file.fileno()):
                    assert attributes.xattr_or_none(given, b"user.k") == b"v" * length
            os.symlink(path, path + ".link")
            assert attributes.xattr_or_none(path + ".link", b"user.k") == b"v" * 3000
            assert attributes.xattr_or_none(path + ".link", b"user.k", False) is None
        finally:
            for name in (path, path + ".link"):
                if os.path.lexists(name):
                    os.unlink(name)
    with pytest.raises(FileNotFoundError):
        attributes.xattr_or_none(path, b"user.k")
