"""The messages between a daemon and its parent: what to mount, and the reply. Plain data, sent as JSON.

After `Ready` the daemon sends `daemon_start.WRITTEN`, once all that was written is in the upper.
"""

from __future__ import annotations

from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    NoOpen = Literal["off", "on", "auto"]


class LayerSpec(Record, kw_only=True):
    """A lower.

    `recursive`: includes the mounts below it. `masks`: absolute paths below it that are shown as empty directories.
    `frozen`: it was an upper. `index`: then its index, handed over, or None.
    `live`: others may change it while it is mounted.
    """

    path: str
    recursive: bool = False
    masks: tuple[str, ...] = ()
    frozen: bool = False
    index: str | None = None
    live: bool = False


class IdRange(Record, kw_only=True):
    """`count` ids of the host from `host` on are shown as those from `container` on."""

    host: int
    container: int
    count: int


class IdSpec(Record, kw_only=True):
    """How users, or groups, are shown: all as `squash_to`, or by ranges, or unchanged."""

    squash_to: int | None = None
    mapping: tuple[IdRange, ...] = ()


AS_THEY_ARE = IdSpec()


class MountOptions(Record, kw_only=True):
    """Options under the names of the kernel's overlayfs and of fuse-overlayfs (see `overlay.stack.MergeOptions`).

    `acl`: access control lists have effect. `xattr`: there are extended attributes. `timeout`: seconds for which the
    kernel may cache names and attributes (None: no limit). `dirsync`: the reply to a change of names follows its sync.
    `limit`: the bytes that the upper may take. `data_plane`: requests are answered without Python where that can be.
    `by_project`: the file system keeps a limit of the upper (`projects`). `data`: how files are read and written
    (`passthrough`). `no_open`: whether programs open files without a request (`no_open`).
    """

    volatile: bool = False
    userxattr: bool = False
    redirect_dir: Literal["on", "follow", "nofollow"] = "on"
    whiteout: Literal["auto", "device", "xattr", "aufs"] = "auto"
    index: bool = True
    metacopy: bool = False
    verity: Literal["off", "on", "require"] = "off"
    uuid: bool = True
    acl: bool = True
    xattr: bool = True
    xattr_permissions: Literal[0, 1, 2] = 0
    users: IdSpec = AS_THEY_ARE
    groups: IdSpec = AS_THEY_ARE
    static_nlink: bool = False
    timeout: float | None = None
    dirsync: bool = False
    limit: int | None = None
    by_project: bool = False
    data_plane: bool = True
    data: Literal["cache", "passthrough", "auto"] = "cache"
    no_open: Literal["off", "on", "auto"] = "off"


class MountFlags(Record, kw_only=True):
    """Flags that the kernel implements, under the names of mount(8). `contexts`: SELinux's options."""

    nodev: bool = False
    nosuid: bool = False
    noexec: bool = False
    noatime: bool = False
    nodiratime: bool = False
    nosymfollow: bool = False
    sync: bool = False
    dirsync: bool = False
    allow_other: bool = False
    contexts: dict[str, str] = {}  # noqa: RUF012


class Cleanup(Record, kw_only=True):
    """What the daemon removes when it ends, or if its parent ends before it sends a `MountSpec`.

    `trees`: directories with all in them. `registry`: a directory that goes if it is empty, and after it `places`.
    `limited`: directories whose limit ends (`projects`). `member`: a line that goes from the /etc/hosts of others,
    whose entries are in the registry (`cleanup.leave_network`).
    """

    limited: tuple[tuple[str, int], ...] = ()
    member: str = ""
    trees: tuple[str, ...] = ()
    registry: str = ""
    places: tuple[str, ...] = ()


class MountSpec(Record, kw_only=True):
    """Request to mount. `layers`: top first; `upper` and `work`: both or neither.

    Directories are named by the paths under which they were handed over (`PassedDirectory`).
    `squash_unmapped`: owners that this user namespace does not map are shown as root.
    `target`: the mountpoint, in the mount namespace that the daemon starts in. None: the daemon starts in a mount
    namespace of its own, whose root becomes what it mounts on `stage`, a directory there, and replies with the detached
    mount.
    `restart`: another daemon takes over the mount when this one is killed.
    `pinned`: absolute paths in the mount on which something is mounted: they keep their nodes (`Lookup.pin`).
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
    restart: bool = False
    pinned: tuple[str, ...] = ()
    cleanup: Cleanup = Cleanup()
    log_path: str = ""


class PassedDirectory(Record):
    """A directory that the parent has opened, sent with its descriptor. `path` names it in the spec."""

    path: str


StartRequest = Cleanup | PassedDirectory | MountSpec


class Ready(Record):
    """The mount answers. Sent with its descriptor if the spec has no target.

    `device`: its st_dev, the same in every mount namespace. `notes`: lines for the user to read.
    """

    device: int
    notes: tuple[str, ...] = ()


class Failed(Record):
    """Nothing is mounted, because of `message` or, if it is empty, of an OSError with `errno` and `path`.

    `upper_locked_by`: the pid of another daemon that has locked the upper (0: unknown which; -1: none has).
    """

    message: str = ""
    errno: int = 0
    path: str | None = None
    upper_locked_by: int = -1


class NotPrepared(Record):
    """The process could not enter its namespaces, or not be executed, because of an OSError with `errno`."""

    errno: int


StartReply = Ready | Failed | NotPrepared
