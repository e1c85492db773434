"""What the daemon is to mount, and what it answers: plain data, as JSON from one process to another."""

from __future__ import annotations

from typing import Literal

import msgspec


class LayerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A read-only directory of the stack.

    `recursive`: the mounts below it belong to it. `masks`: absolute paths below it that are shown as empty directories.
    """

    path: str
    recursive: bool = False
    masks: tuple[str, ...] = ()


class IdRange(msgspec.Struct, frozen=True, kw_only=True):
    """`count` ids of the host's from `host` on are shown as those from `container` on."""

    host: int
    container: int
    count: int


class IdSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How users, or groups, are shown: all as `squash_to`, or by ranges, or (neither) as they are."""

    squash_to: int | None = None
    mapping: tuple[IdRange, ...] = ()


AS_THEY_ARE = IdSpec()


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to mount, under the names of the kernel's overlayfs and of fuse-overlayfs (see `overlay.stack.MergeOptions`).

    Without `acl` access control lists are not heeded, without `xattr` there are no extended attributes. `timeout`:
    seconds that the kernel may keep names and attributes (None: for ever). `dirsync`: a change of names is on the disk
    when it is answered.
    """

    volatile: bool = False
    userxattr: bool = False
    redirect_dir: Literal["on", "follow", "nofollow"] = "on"
    whiteout: Literal["auto", "device", "xattr", "aufs"] = "auto"
    index: bool = True
    uuid: bool = True
    acl: bool = True
    xattr: bool = True
    xattr_permissions: Literal[0, 1, 2] = 0
    users: IdSpec = AS_THEY_ARE
    groups: IdSpec = AS_THEY_ARE
    static_nlink: bool = False
    timeout: float | None = None
    dirsync: bool = False


class MountFlags(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel itself does for a mount, under the names of mount(8). `contexts`: SELinux's options."""

    nodev: bool = False
    nosuid: bool = False
    noexec: bool = False
    noatime: bool = False
    nodiratime: bool = False
    nosymfollow: bool = False
    sync: bool = False
    dirsync: bool = False
    allow_other: bool = False
    contexts: dict[str, str] = {}


class MountSpec(msgspec.Struct, frozen=True, kw_only=True, tag="mount"):
    """One mount. `layers` top first; `upper` and `work` both or neither.

    Directories are named by the paths under which they were handed over (`directories`).
    `squash_unmapped`: what this user namespace cannot name is shown as root's.
    `target`: where to mount, in the mount namespace that the daemon is started in. Without one the daemon must have
    been started in a mount namespace of its own: it attaches layers to `stage`, a directory there, and hands the mount
    over as a descriptor.
    `cleanup_paths`: directories that are of no use once the daemon ends; it removes them with all below.
    """

    source: str
    layers: tuple[LayerSpec, ...]
    upper: str | None = None
    work: str | None = None
    options: MountOptions = MountOptions()
    flags: MountFlags = MountFlags()
    squash_unmapped: bool = False
    target: str | None = None
    stage: str | None = None
    cleanup_paths: tuple[str, ...] = ()
    log_path: str = ""


class CleanupPaths(msgspec.Struct, frozen=True, tag="cleanup-paths"):
    """Directories that the daemon removes if its starter dies before it has said what to mount."""

    paths: tuple[str, ...]


class PassedDirectory(msgspec.Struct, frozen=True, tag="passed-directory"):
    """A directory that the starter has opened: its descriptor comes along. `path` stands for it in the spec."""

    path: str


StartRequest = CleanupPaths | PassedDirectory | MountSpec


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The mount answers. Its descriptor comes along with this message where the spec had no target.

    `device`: its st_dev, by which it is known in every mount namespace. `notes`: lines for the user to read.
    """

    device: int
    notes: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Nothing is mounted. `message` is for the user where it is not empty, else `errno` and `path` tell.

    `upper_in_use`: another daemon, whose pid this is, holds the upper (0: it is not known which; -1: no).
    """

    message: str = ""
    errno: int = 0
    path: str | None = None
    upper_in_use: int = -1


StartReply = Ready | Failed
