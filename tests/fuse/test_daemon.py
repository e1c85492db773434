"""A mount and its daemon end together, and no written byte is lost."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from overlaykit.fuse import control, daemon

from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix import syscalls
from ..posix.table import Dir, File
from .mounted import await_unmounted, mounted, only_with_open, spec_of, started


def test_the_mount_answers_once_the_parent_has_the_reply(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount:
        assert os.listdir(mount.target) == ["f"]
        assert mount.process.is_alive()


def test_a_directory_that_is_replaced_during_the_start_is_not_mounted(stack: Stack) -> None:
    """The parent has opened the directories before."""
    stack.add({"f": File(b"meant")})
    spec = spec_of(stack)
    assert spec.target is not None
    names = [spec.layers[0].path, stack.upper, stack.work, spec.target]

    def swap() -> None:
        for name in names:
            os.rename(name, f"{name}-meant")
            os.mkdir(name)

    with started(spec, stack.directory, hand_over=names, before_serving=swap) as mount:
        for name in names:
            assert os.listdir(name) == []
        target = f"{spec.target}-meant"
        with open(os.path.join(target, "f"), "r+b") as file:
            assert file.read() == b"meant"
            file.write(b"+more")
        syscalls.umount2(os.fsencode(target))
        assert mount.process.wait()
    with open(f"{stack.upper}-meant/f", "rb") as changed:
        assert changed.read() == b"meant+more"


def test_the_daemon_is_gone_when_its_mount_is(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount:
        syscalls.umount2(os.fsencode(mount.target))
        assert mount.process.wait()
        with refused(errno.ECONNREFUSED):
            control.ask(mount.control_path, control.Stats(), control.Measured)


def test_a_lazily_detached_mount_is_served_until_its_last_user_leaves(stack: Stack) -> None:
    stack.add({"f": File(b"old")})
    with mounted(stack) as mount:
        with open(mount.path("f"), "r+b", buffering=0) as file:
            syscalls.umount2(os.fsencode(mount.target), syscalls.MNT_DETACH)
            file.write(b"new")
            file.seek(0)
            assert file.read() == b"new"
            assert mount.process.is_alive()
        assert mount.process.wait()
    assert _bytes(stack, "f") == b"new"


def test_sigterm_unmounts_a_mount_that_is_not_in_use(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount:
        mount.process.terminate()
        assert mount.process.wait()
        assert not mount.is_there()


def test_sigterm_loses_no_byte_that_was_written(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount:
        with open(mount.path("f"), "wb") as file:
            file.write(b"x" * (8 << 20))
        mount.process.terminate()
        assert mount.process.wait()
    assert _bytes(stack, "f") == b"x" * (8 << 20)


def test_after_sigterm_a_mount_in_use_is_served_until_its_last_user_leaves(stack: Stack) -> None:
    stack.add({"f": File(b"old")})
    with mounted(stack) as mount:
        with open(mount.path("f"), "r+b", buffering=0) as file:
            file.write(b"NEW")
            mount.process.terminate()
            await_unmounted(mount)
            file.write(b"+more")
            file.seek(0)
            assert file.read() == b"NEW+more"
            assert mount.process.is_alive()
        assert mount.process.wait()
    assert _bytes(stack, "f") == b"NEW+more"


def test_a_second_sigterm_ends_a_mount_in_use(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount:
        fd = os.open(mount.path("f"), os.O_RDONLY)
        mount.process.terminate()
        await_unmounted(mount)
        mount.process.terminate()
        assert mount.process.wait()
        with refused(errno.ENOTCONN):
            os.fstatvfs(fd)
        # The writer learns that not all bytes may have arrived.
        with refused(errno.ENOTCONN):
            os.close(fd)


def test_a_killed_daemon_leaves_errors_and_no_hanging_program(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack, restart=False) as mount:
        mount.process.kill()
        mount.process.wait_for_end()
        assert mount.process.status == -signal.SIGKILL
        with refused(errno.ENOTCONN):
            os.listdir(mount.target)


def test_the_upper_of_a_killed_daemon_is_mounted_again(stack: Stack) -> None:
    stack.add({"f": File(b"old"), "gone": File()})
    with mounted(stack) as mount:
        with open(mount.path("f"), "wb") as file:
            file.write(b"new")
            file.flush()
            os.fsync(file.fileno())
        os.unlink(mount.path("gone"))
        mount.process.kill()
        mount.process.wait()
    with mounted(stack) as mount:
        assert os.listdir(mount.target) == ["f"]
        with open(mount.path("f"), "rb") as file:
            assert file.read() == b"new"


def test_no_terminal_and_no_pipe_of_the_parent_stays_open(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount:
        # The daemon replies once it is ready.
        assert mount.counted()
        fds = f"/proc/{mount.process.pid}/fd"
        assert [os.readlink(f"{fds}/{number}") for number in range(3)] == ["/dev/null"] * 3
        assert os.getsid(mount.process.pid) == mount.process.pid
        assert os.readlink(f"/proc/{mount.process.pid}/cwd") == "/"


def test_what_the_daemon_has_to_say_goes_to_its_log(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.add({})
    monkeypatch.setenv("OVERLAYKIT_DEBUG", "1")
    spec = spec_of(stack)
    with started(spec, stack.directory) as mount:
        mount.process.terminate()
        assert mount.process.wait()
    with open(spec.log_path) as file:
        assert f"unmounting {spec.target}" in file.read()


def test_a_layer_that_is_missing_is_named_and_nothing_is_mounted(stack: Stack) -> None:
    stack.lowers.append("/no/such/layer")
    with pytest.raises(daemon.MountRefused, match="/no/such/layer"), mounted(stack):
        pass
    assert not _is_mounted(stack)


def test_an_upper_in_use_is_refused(stack: Stack) -> None:
    stack.add({})
    with mounted(stack):
        target, notes = (os.path.join(stack.directory, name) for name in ("target", "notes"))
        os.mkdir(target)
        os.mkdir(notes)
        spec = spec_of(stack, target=target)
        with pytest.raises(daemon.MountRefused, match="in use"), started(spec, notes):
            pass
    with mounted(stack):
        pass  # and free again


def test_an_upper_inside_a_lower_does_not_show_in_it(stack: Stack) -> None:
    """As in the kernel: otherwise a file would be in two layers, and each change of it would change a lower."""
    lower = stack.add({"d/upper": Dir(), "d/f": File(b"x")})
    stack.upper = os.path.join(lower, "d", "upper")
    with mounted(stack) as mount:
        with refused(errno.ELOOP):
            os.stat(mount.path("d/upper"))
        os.rename(mount.path("d/f"), mount.path("d/g"))
        os.mkdir(mount.path("d/e"))
        assert sorted(os.listdir(mount.path("d"))) == ["e", "g", "upper"]
    assert sorted(os.listdir(os.path.join(stack.upper, "d"))) == ["e", "f", "g"]
    assert sorted(os.listdir(os.path.join(lower, "d"))) == ["f", "upper"]


def test_a_lower_that_contains_the_mountpoint_does_not_hang(stack: Stack) -> None:
    stack.lowers.append(stack.directory)
    stack.add({"f": File(b"x")})
    with mounted(stack, writable=False) as mount:
        # The directory below the mount.
        assert os.listdir(mount.path("merged")) == []
        seen = [path for path, _, _ in os.walk(mount.target)]
        assert mount.path("lower1") in seen


@only_with_open
def test_a_thousand_open_files_are_served(stack: Stack) -> None:
    stack.add({f"d{number % 10}/{number}": File(b"%d" % number) for number in range(1000)})
    with mounted(stack) as mount:
        fds = [
            os.open(mount.path(f"d{number % 10}/{number}"), os.O_RDONLY) for number in range(900)
        ]
        assert mount.counted().held["open_files"] == 900
        for number, fd in enumerate(fds):
            assert os.pread(fd, 10, 0) == b"%d" % number
            os.close(fd)


def _bytes(stack: Stack, name: str) -> bytes:
    """The names in the upper."""
    with open(os.path.join(stack.upper, name), "rb") as file:
        return file.read()


def _is_mounted(stack: Stack) -> bool:
    return os.path.ismount(os.path.join(stack.directory, "merged"))
