"""What the guest of a view finds: the view's files below an overlay on its disk, and one command, as a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from overlaykit import _native
from overlaykit.errors import Error
from overlaykit.machine import plan
from overlaykit.machine.guest import file_systems
from overlaykit.namespace.plan import TooLarge
from overlaykit.namespace.view_plan import candidates
from overlaykit.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARE_TAG: Final = "view"
STDOUT, STDERR, CONTROL, STDIN = (f"/dev/vport0p{number}" for number in range(1, 5))
"""The ports of the first virtio device, in the order in which the host connects them."""
MODULES: Final = (
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_balloon",
    "virtiofs",
    "overlay",
    "crc32c_generic",
)
NETWORK_MODULES: Final = ("virtio_net",)
ADDRESS, NETMASK = "10.0.2.15", "255.255.255.0"
"""Of the guest in QEMU's user network, to which published ports lead."""

_FREE_BLOCKS: Final = ("/sys/module/page_reporting/parameters/page_reporting_order", "5")
"""The least free block that the guest gives back to the host: 128 KiB. By default it is 2 MiB."""
_OVERLAY: Final = "lowerdir=/lower,upperdir=/disk/upper,workdir=/disk/work,redirect_dir=on,xino=on"
"""Directories of the layers can be renamed, and all files have numbers of one device."""


class TooLong(Error):
    message = "the command and its environment are longer than --vm takes ({0} words); shorten them"


class Command(Record, kw_only=True):
    """The command of a view."""

    argv: tuple[str, ...]
    env: tuple[bytes, ...]
    cwd: str
    cwd_required: bool
    hostname: str
    user: int = 0
    group: int = 0
    groups: tuple[int, ...] = ()
    umask: int = 0o022
    terminal: bool = False


def steps(modules: Sequence[str], command: Command, *, network: bool, kept: bool) -> bytes:
    """The bytes of the plan: load the modules, mount all, run the command.

    `kept`: whether the disk outlives the guest. Raises: TooLong.
    """
    made = plan.Plan()
    made.mount("/dev", "devtmpfs")
    for path in modules:
        made.module(path)
    made.wait(CONTROL)
    made.status(CONTROL)
    for path in ("/lower", "/disk", "/merged"):
        made.directory(path)
    made.mount("/lower", "virtiofs", SHARE_TAG, _native.MS_RDONLY | _native.MS_NODEV)
    made.wait("/dev/vda")
    made.mount("/disk", "ext4", "/dev/vda", data="noinit_itable,errors=remount-ro")
    for name in ("upper", "work"):
        made.directory(f"/disk/{name}")
    made.mount("/merged", "overlay", data=_OVERLAY)
    file_systems(made, "/merged")
    made.root("/merged")
    made.setting(*_FREE_BLOCKS)
    made.link("/dev/fd", "/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        made.link(f"/dev/{name}", f"/proc/self/fd/{number}")
    made.hostname(command.hostname)
    made.raise_interface("lo")
    if network:
        made.raise_interface("eth0", ADDRESS, NETMASK)
    made.wait(STDIN)
    return _with_command(made, command, 1, kept=kept)


def other_steps(command: Command, first: int) -> bytes:
    """The bytes of the plan of a command beside the first one, whose ports are those from the number `first` on.

    Raises: TooLong.
    """
    return _with_command(plan.Plan(), command, first, kept=False)


def write_steps() -> bytes:
    """The bytes of a plan in place of another command's: have all that was written on the disk."""
    made = plan.Plan()
    made.sync()
    made.say("exited 0 0 0")
    return made.encoded()


def _with_command(made: plan.Plan, command: Command, first: int, *, kept: bool) -> bytes:
    stdout, stderr, _, stdin = (f"/dev/vport0p{first + number}" for number in range(4))
    if command.terminal:
        made.terminal(command.user)
    made.session(stdout, stderr, stdin, owner=command.user, keeps=kept)
    made.command(
        command.argv,
        command.env,
        candidates(command.argv[0], command.env),
        user=command.user,
        group=command.group,
        groups=command.groups,
        umask=command.umask,
        directory=command.cwd,
        required=command.cwd_required,
        with_terminal=command.terminal,
    )
    try:
        return made.encoded()
    except TooLarge:
        raise TooLong(len(command.argv) + len(command.env)) from None
