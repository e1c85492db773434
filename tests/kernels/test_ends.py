"""Further ends of a guest, on the oldest kernel, for `make proofs`: each is a boot."""

from __future__ import annotations

import os

import pytest

from overlaykit.machine import boot
from overlaykit.machine.boot import GuestFailed, Machine

from .guests import Guest

pytestmark = pytest.mark.xdist_group("guests")


@pytest.fixture
def guest(oldest: Machine, tmp_path: os.PathLike[str]) -> Guest:
    return Guest(oldest, tmp_path)


def test_a_command_that_is_not_there_has_the_status_of_a_shell(guest: Guest) -> None:
    assert guest.run("no-such-program") == boot.End(127, disk_full=False)
    assert guest.output == b"no-such-program: No such file or directory\n"


def test_a_command_that_a_signal_ends_has_the_status_of_a_shell(guest: Guest) -> None:
    assert guest.run("sh", "-c", "kill -KILL $$", seconds=None) == boot.End(
        128 + 9, disk_full=False
    )


def test_a_guest_ends_with_its_command_though_a_process_holds_its_output(guest: Guest) -> None:
    assert guest.run("sh", "-c", "sleep infinity & echo done") == boot.End(0, disk_full=False)
    assert guest.output == b"done\n"


def test_a_step_that_fails_is_named(guest: Guest) -> None:
    with pytest.raises(GuestFailed, match="enter /no/such/directory: No such file or directory"):
        guest.run("true", directory="/no/such/directory")
