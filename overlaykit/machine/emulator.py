"""QEMU and virtiofsd of a view's guest, as one command that a confined view runs.

Both see a root of their own in that view: the programs of the host's /usr, the view's files, and a procfs. All else
comes by descriptors. QEMU is not root, has no capability but to bind ports, and its own seccomp filter ("-sandbox").
When one of them ends, so does the view. Sources: qemu(1), virtiofsd(1).
"""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.errors import Error
from overlaykit.machine import view_guest
from overlaykit.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlaykit.machine.boot import Accelerator

ROOT: Final = "/run/machine"
"""The programs' root in the view."""
SHARE: Final = "/share"
"""In that root: the view's files."""
PROGRAMS: Final = "/usr"
"""The directory of the host that holds them, and in that root."""
LINKS: Final = (
    ("bin", "usr/bin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("sbin", "usr/sbin"),
)

_VIRTIOFSD: Final = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
"""Of Debian 12 (in C) and of Debian 13 (in Rust)."""
_LOADER: Final = "/lib64/ld-linux-x86-64.so.2"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
# Without files of trace events, which are 8 MiB of inodes, and without a patch of each lock for one processor.
_KERNEL_ARGUMENTS: Final = (
    "console=ttyS0 quiet loglevel=1 panic=-1 oops=panic mitigations=off reboot=t random.trust_cpu=on "
    "tsc=reliable no_timer_check rcupdate.rcu_expedited=1 cryptomgr.notests 8250.nr_uarts=1 "
    "noreplace-smp initcall_blacklist=tracer_init_tracefs"
)
_FILE_BLOCK: Final = 512
"""Of `ulimit -f` (dash(1))."""
_ADDRESSES: Final = 4 << 30
"""Bytes of addresses that each program may use beside the guest's memory: stacks, arenas and buffers take less."""
_NOBODY: Final = 65534
# Bytes of the write-back of read-only files: none. Without xattrs, the guest asks for none of each file.
_ENDED: Final = "overlaykit: virtiofsd ended"


class NoProgram(Error):
    message = "--vm needs {0}; install {1}"


class NotInUsr(Error):
    message = "--vm needs {0} below /usr; it is {1}"


class Hardware(Record, kw_only=True):
    """The machine, and the descriptors that QEMU inherits."""

    accelerator: Accelerator
    memory: int
    """Bytes."""
    processors: int
    kernel: int
    initramfs: int
    disk: int
    largest_file: int
    """Bytes that a file of the host may get: what the guest writes to its disk."""
    kept: bool
    """Whether the disk outlives the guest: what it writes is on the host's disk when it says so."""
    ports: tuple[int, int, int, int]
    """Sockets: the streams in the order of view_guest.STDOUT and those after it."""
    monitor: int
    """A socket: QEMU's monitor."""
    share_listening: int
    """The socket on which virtiofsd is reached, and one that is connected to it."""
    share_connected: int
    published: tuple[tuple[Literal["tcp", "udp"], int], ...] = ()
    privileged: bool = True
    """Whether users other than root can be taken: not in the user namespace of an ordinary user."""

    def descriptors(self) -> tuple[int, ...]:
        """All that QEMU and virtiofsd inherit."""
        share = self.share_listening, self.share_connected
        return (
            self.kernel,
            self.initramfs,
            self.disk,
            self.monitor,
            *self.ports,
            *share,
        )


def missing() -> list[tuple[str, str]]:
    """The programs that are not here, each with its packages."""
    found = []
    if shutil.which("qemu-system-x86_64", path=_PATH) is None:
        found.append(("qemu-system-x86_64", "qemu-system-x86"))
    if _virtiofsd() is None:
        found.append(("virtiofsd", "qemu-system-common (Debian 12) or virtiofsd (Debian 13)"))
    if shutil.which("mkfs.ext4", path=f"{_PATH}:/sbin") is None:
        found.append(("mkfs.ext4", "e2fsprogs"))
    return found


def command(hardware: Hardware) -> list[str]:
    """What the view executes. Raises: NoProgram, NotInUsr."""
    for program, package in missing():
        raise NoProgram(program, package)
    virtiofsd = _virtiofsd()
    assert virtiofsd is not None
    qemu = _found("qemu-system-x86_64", "qemu-system-x86")
    setpriv = _found("setpriv", "util-linux")
    user = (
        (f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
        if hardware.privileged
        else ()
    )
    kept = "-all,+net_bind_service" if hardware.published else "-all"
    limits = (f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}")
    # The subshell ends QEMU, which has the number of the shell.
    script = (
        'ulimit -n "$(ulimit -Hn)"\nulimit -c 0\n'
        f"ulimit -v {(hardware.memory + _ADDRESSES) >> 10} 2>/dev/null\n"
        f"ulimit -f {-(-hardware.largest_file // _FILE_BLOCK)} 2>/dev/null\n"
        f"{{ {shlex.join(_share(virtiofsd, hardware))}; echo {shlex.quote(_ENDED)} >&2; kill -KILL $$; }} &\n"
        f"exec {shlex.join([setpriv, *user, *limits, qemu, *_qemu(hardware)])}\n"
    )
    loader = os.path.realpath(_LOADER)
    chroot = _found("chroot", "coreutils")
    libraries = os.path.dirname(loader)
    return [
        *(ROOT + loader, "--library-path", ROOT + libraries),
        *(ROOT + chroot, ROOT, _found("sh", "dash"), "-c", script),
    ]


def end_of_share(messages: str) -> bool:
    """Whether virtiofsd ended first, as the programs' messages say."""
    return _ENDED in messages.splitlines()


def _virtiofsd() -> str | None:
    return next((place for place in _VIRTIOFSD if os.access(place, os.X_OK)), None)


def _found(program: str, package: str) -> str:
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise NoProgram(program, package)
    real = os.path.realpath(path)
    if not real.startswith("/usr/"):
        raise NotInUsr(program, real)
    return real


def _share(program: str, hardware: Hardware) -> list[str]:
    # The limit of descriptors stays: to raise it needs CAP_SYS_RESOURCE.
    options = [program, f"--fd={hardware.share_listening}", "--rlimit-nofile=0"]
    if program == _VIRTIOFSD[0]:
        taken = ":".join(f"-{name}" for name in ("chown", "fsetid", "mknod", "setfcap"))
        of_c = f"source={SHARE},sandbox=chroot,cache=always,modcaps={taken}"
        return [*options, "-o", of_c, "--thread-pool-size=0"]
    # There is no filter of system calls that lets it change its root and nothing else: it has its own.
    return [
        *options,
        f"--shared-dir={SHARE}",
        "--sandbox=chroot",
        "--cache=always",
        "--thread-pool-size=0",
    ]


def _qemu(hardware: Hardware) -> list[str]:
    kvm = hardware.accelerator == "kvm"
    # A disk that is dropped is never flushed.
    flushed = "off" if hardware.kept else "on"
    names = ("stdout", "stderr", "control", "stdin")
    ports = [
        part
        for number, (name, socket) in enumerate(zip(names, hardware.ports, strict=True), 1)
        for part in (
            *("-chardev", f"socket,id={name},fd={socket}"),
            *("-device", f"virtserialport,bus=serial.0,nr={number},chardev={name}"),
        )
    ]
    return [
        *(
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-name",
            "overlaykit",
        ),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-machine", "q35,memory-backend=ram,smbus=off,sata=off,usb=off,vmport=off,hpet=off"),
        *("-smp", str(hardware.processors), "-accel", "kvm" if kvm else "tcg,tb-size=16"),
        *("-cpu", "host" if kvm else "max,la57=off"),
        *("-object", f"memory-backend-memfd,id=ram,size={hardware.memory},share=on"),
        *("-m", f"{hardware.memory >> 20}M"),
        *(
            "-kernel",
            f"/proc/self/fd/{hardware.kernel}",
            "-initrd",
            f"/proc/self/fd/{hardware.initramfs}",
        ),
        *("-append", _KERNEL_ARGUMENTS),
        # Standard output, and no file of its own: that would be opened to append, behind the end.
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        # The first of the virtio devices: its ports are /dev/vport0pN.
        *("-device", "virtio-serial-pci,id=serial,addr=1"),
        *ports,
        *("-chardev", f"socket,id=monitor,fd={hardware.monitor}"),
        *("-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=share,fd={hardware.share_connected}"),
        *("-device", f"vhost-user-fs-pci,chardev=share,tag={view_guest.SHARE_TAG},queue-size=1024"),
        *("-add-fd", f"fd={hardware.disk},set=1"),
        *(
            "-blockdev",
            f"driver=file,node-name=file,filename=/dev/fdset/1,cache.no-flush={flushed}",
        ),
        *(
            "-blockdev",
            f"driver=qcow2,node-name=disk,file=file,discard=unmap,cache.no-flush={flushed}",
        ),
        # A full disk of the host is an error of the guest's; by default the guest would wait.
        *("-device", "virtio-blk-pci,drive=disk,werror=report,rerror=report"),
        # The guest gives back what it has freed, some seconds later.
        *("-device", "virtio-balloon-pci,free-page-reporting=on"),
        *_network(hardware.published),
    ]


def _network(published: Sequence[tuple[str, int]]) -> list[str]:
    if not published:
        return []
    forwards = "".join(
        f",hostfwd={protocol}:127.0.0.1:{port}-:{port}" for protocol, port in published
    )
    # No ROM: nothing is booted from the network.
    return [
        *("-netdev", f"user,id=net,restrict=on,ipv6=off{forwards}"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
    ]
