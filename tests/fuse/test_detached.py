"""A detached mount, for a view: its content, and its end with its last user."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from overlaykit.fuse.daemon import Daemon, MountRefused
from overlaykit.fuse.spec import Cleanup, LayerSpec, MountSpec

from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix import syscalls
from ..posix.table import Dir, File
from .listed import wrongly_listed
from .mounted import spec_of


@contextlib.contextmanager
def handed_over(spec: MountSpec) -> Iterator[tuple[Daemon, str]]:
    """A daemon in a mount namespace of its own, and a path to its mount."""
    with socket.socket(socket.AF_UNIX) as listener:
        # No client connects: any name will do (unix(7), autobind).
        listener.bind("")
        listener.listen()
        daemon = Daemon(prepare=_enter_namespace)
        daemon.serve(spec, listener)
    try:
        yield daemon, f"/proc/self/fd/{daemon.mount}"
        daemon.close_mount()
        assert daemon.process.wait()
    finally:
        if daemon.process.is_alive():
            daemon.process.kill()
        daemon.process.wait_for_end()
        daemon.process.close()


def _enter_namespace() -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(b"none", b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


def _spec(stack: Stack, **more: Any) -> MountSpec:
    stage = os.path.join(stack.directory, "stage")
    os.makedirs(stage, exist_ok=True)
    return spec_of(stack, **({"target": None, "stage": stage} | more))


def test_the_mount_is_reached_through_its_descriptor_only(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with handed_over(_spec(stack)) as (_, root):
        assert os.listdir(root) == ["f"]
        with open(f"{root}/f", "ab") as file:
            file.write(b"y")
        assert os.listdir(os.path.join(stack.directory, "merged")) == []
    with open(os.path.join(stack.upper, "f"), "rb") as file:
        assert file.read() == b"xy"


def test_a_layer_with_the_mounts_below_it_shows_them_but_for_what_is_masked(stack: Stack) -> None:
    lower = stack.add({"proc": Dir(), "home/me": Dir(), "etc/f": File(b"x")})
    for name, inner in (("proc", "secret"), ("home", "kept")):
        at = os.path.join(lower, name)
        syscalls.mount(b"below", os.fsencode(at), b"tmpfs", 0)
        with open(os.path.join(at, inner), "w"):
            pass
    layer = LayerSpec(
        path=lower, recursive=True, masks=(os.path.join(lower, "proc"), os.path.join(lower, "sys"))
    )
    with handed_over(_spec(stack, layers=(layer,))) as (_, root):
        assert os.listdir(f"{root}/home") == ["kept"]
        assert os.listdir(f"{root}/proc") == []
        with open(f"{root}/home/kept", "w") as file:
            file.write("changed")
        os.mkdir(f"{root}/proc/made")
    assert os.stat(os.path.join(lower, "home/kept")).st_size == 0
    assert os.listdir(os.path.join(lower, "proc")) == ["secret"]
    for name in ("proc", "home"):
        syscalls.umount2(os.fsencode(os.path.join(lower, name)))


def test_a_wide_listing_has_the_inode_numbers_of_mounts_below_a_layer(stack: Stack) -> None:
    wide = ("etc", ".etc", "home")
    lower = stack.add({f"{name}/{number}": File() for name in wide for number in range(300)})
    covers = [("etc/7", "etc/8"), (".etc/7", "etc/8"), ("home", "etc")]
    for covered, cover in covers:
        source, target = (os.fsencode(os.path.join(lower, one)) for one in (cover, covered))
        syscalls.mount(source, target, None, syscalls.MS_BIND)
    layer = LayerSpec(path=lower, recursive=True, live=True)
    with handed_over(_spec(stack, layers=(layer,))) as (_, root):
        for name in wide:
            assert wrongly_listed(f"{root}/{name}") == []
    for covered, _ in reversed(covers):
        syscalls.umount2(os.fsencode(os.path.join(lower, covered)))


def test_without_the_mounts_below_it_a_layer_shows_what_they_cover(stack: Stack) -> None:
    lower = stack.add({"home/covered": File()})
    home = os.fsencode(os.path.join(lower, "home"))
    syscalls.mount(b"below", home, b"tmpfs", 0)
    with handed_over(_spec(stack)) as (_, root):
        assert os.listdir(f"{root}/home") == ["covered"]
    syscalls.umount2(home)


def test_a_read_only_view_refuses_every_write(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with handed_over(_spec(stack, writable=False)) as (_, root), refused(errno.EROFS):
        os.open(f"{root}/f", os.O_WRONLY)


def test_trees_to_clean_up_are_removed_after_the_mount(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    scratch = os.path.join(stack.directory, "scratch")
    stack.upper, stack.work = os.path.join(scratch, "upper"), os.path.join(scratch, "work")
    with handed_over(_spec(stack, cleanup=Cleanup(trees=(scratch,)))) as (_, root):
        os.mkdir(f"{root}/d", 0o700)
        os.mkdir(f"{root}/d/closed", 0)
        os.unlink(f"{root}/f")
    assert not os.path.exists(scratch)


@pytest.mark.usefixtures("sandbox")
def test_an_abandoned_daemon_ends() -> None:
    daemon = Daemon(prepare=_enter_namespace)
    daemon.abandon()
    assert daemon.process.status == 0


def test_a_layer_that_is_missing_ends_the_daemon(stack: Stack) -> None:
    stack.lowers.append("/no/such/layer")
    with pytest.raises(MountRefused, match="/no/such/layer"), handed_over(_spec(stack)):
        pass


def test_what_comes_to_a_live_layer_is_found_whatever_was_missing_before(stack: Stack) -> None:
    lower = stack.add({"d/e/f": File()})
    with handed_over(_spec(stack, layers=(LayerSpec(path=lower, recursive=True, live=True),))) as (
        _,
        root,
    ):
        assert not any(os.path.exists(f"{root}/d/e/missing{number}") for number in range(9))
        with open(f"{lower}/d/e/later", "w"):
            pass
        assert os.path.exists(f"{root}/d/e/later")


def test_what_comes_to_a_live_layer_is_found_in_a_merged_directory_that_was_listed(
    stack: Stack,
) -> None:
    lower = stack.add({f"d/{number}": File() for number in range(9)})
    other = stack.add({"d/other": File()})
    layers = (LayerSpec(path=other), LayerSpec(path=lower, recursive=True, live=True))
    with handed_over(_spec(stack, layers=layers)) as (_, root):
        assert len(os.listdir(f"{root}/d")) == 10
        assert not any(os.path.exists(f"{root}/d/missing{number}") for number in range(9))
        with open(f"{lower}/d/later", "w"):
            pass
        assert os.path.exists(f"{root}/d/later")
