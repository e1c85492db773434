"""The table of mount options and their effects: the parser, `--help` and docs/mount-options.md follow it.

It lists the options of mount(8), of the kernel's overlayfs up to Linux 6.18 (Documentation/filesystems/overlayfs.rst,
fs/overlayfs/params.c) and of fuse-overlayfs with those that it passes to libfuse.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Effect(enum.Enum):
    """The effect of an option."""

    ACTS = "acts"
    IGNORED = "accepted without an effect"
    NOTED = "accepted, with a note on standard error"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Row:
    """Options that share an effect and a description.

    `spellings`: the options, separated by spaces: `ro`, `index=on|off`, `upperdir=DIR`, `user[=NAME]`. Values in lower
    case or digits are the permitted ones, one in upper case is a placeholder; `x-*` is any key with that prefix.
    """

    spellings: str
    effect: Effect
    text: str


@dataclass(frozen=True, slots=True)
class Known:
    """One option: its key (`x-*`: any key with that prefix), its values, and its row."""

    key: str
    spelling: str
    row: Row
    choices: tuple[str, ...]
    takes_value: bool
    needs_value: bool


_ACTS, _IGNORED, _NOTED, _REFUSED = Effect

ROWS: Final = (
    Row(
        "lowerdir=TOP:...:BOTTOM",
        _ACTS,
        "the directories to merge; they are never written to, and do not show an upper inside them",
    ),
    Row(
        "lowerdir+=DIR",
        _ACTS,
        "one more lower below the previous ones; a colon is part of its name",
    ),
    Row(
        "upperdir=DIR workdir=DIR",
        _ACTS,
        "the directory that keeps changes, and one for work in progress on the same file system",
    ),
    Row("ro rw", _ACTS, "with `ro` an upper is one more lower"),
    Row(
        "dev nodev suid nosuid exec noexec",
        _ACTS,
        "whether device nodes, set-ID bits and programs on it work; the first two never in an ordinary user's mount",
    ),
    Row(
        "user[=NAME] users owner group",
        _ACTS,
        "`nosuid,nodev`, and with `user` and `users` also `noexec`, as in mount(8)",
    ),
    Row("nosymfollow", _ACTS, "symbolic links on it are not followed; needs root"),
    Row(
        "atime noatime diratime nodiratime relatime",
        _ACTS,
        "shown in the table of mounts; reading never changes the access time of a file",
    ),
    Row(
        "sync async dirsync",
        _ACTS,
        "`sync`: each write reaches the disk before it returns; `sync` and `dirsync`: so does each change of names",
    ),
    Row(
        "volatile fsync=0|1",
        _ACTS,
        "`volatile`, `fsync=0`: nothing is synced, and after a crash the upper is unusable",
    ),
    Row(
        "userxattr",
        _ACTS,
        "overlay markers are `user.overlay.*`, also if `trusted.` could be written",
    ),
    Row(
        "redirect_dir=on|off|follow|nofollow",
        _ACTS,
        "whether directories of a lower can be renamed, and whether such renames are followed",
    ),
    Row(
        "index=on|off",
        _ACTS,
        "hard links of a lower stay one file through copy-up, also over a remount",
    ),
    Row(
        "metacopy=on|off",
        _ACTS,
        "whether a change of the mode, owner, times, attributes or names of a lower's file leaves its data in the "
        "lower until they are written to (default: off; such files of an upper are read in any case); as root, with "
        "`redirect_dir=on` and markers `trusted.overlay.*`, else the data are copied",
    ),
    Row(
        "verity=on|off|require",
        _ACTS,
        "`on`: data that such a file has left in a lower are checked against the fs-verity digest that the file names; "
        "`require`: each such file must name one; with both no such files are made",
    ),
    Row(
        "whiteout=auto|device|xattr|aufs",
        _ACTS,
        "the form of whiteouts: devices 0:0, or, if the upper's disk makes none (an overlay), empty files with an "
        "attribute; `aufs`: files `.wh.NAME` and `.wh..wh..opq`, for disks without attributes: no renaming of a "
        "lower's directories, no index and no lasting inode numbers there",
    ),
    Row(
        "uuid=on|off|null|auto",
        _ACTS,
        "with `off` the index names no disk, so it holds on a copy of the disk; the others differ only for the kernel",
    ),
    Row(
        "squash_to_root squash_to_uid=UID squash_to_gid=GID",
        _ACTS,
        "all files are shown with one owner; copies and new files get that owner, or else your own ids",
    ),
    Row(
        "uidmapping=HOST:CONTAINER:COUNT[:...] gidmapping=HOST:CONTAINER:COUNT[:...]",
        _ACTS,
        "ranges of owners are shown as other ids; files of a caller outside of them get the overflow id",
    ),
    Row(
        "xattr_permissions=0|1|2",
        _ACTS,
        "owners and modes are kept in an attribute (1: `security.`, for root; 2: `user.`), and the files belong to the "
        "daemon's user; no ACLs then",
    ),
    Row("noacl", _ACTS, "no access control lists"),
    Row("noxattr noxattrs=0|1", _ACTS, "no extended attributes"),
    Row("static_nlink", _ACTS, "every directory has the link count 1"),
    Row(
        "timeout=SECONDS",
        _ACTS,
        "how long the kernel caches names and attributes (default: for ever)",
    ),
    Row(
        "data_plane=on|off",
        _ACTS,
        "with `off` Python answers each request, to find out where a fault is (default: native code answers what needs "
        "no merge)",
    ),
    Row(
        "data=cache|passthrough|auto",
        _ACTS,
        "`passthrough`: the kernel itself reads and writes the upper's files, and with `ro` all files, for bulk work "
        "as root (Linux 6.9); a file is copied up when it is opened for writing, and reading sets access times in the "
        "upper; `auto`: if that is possible (default: through the kernel's cache)",
    ),
    Row(
        "no_open=on|off|auto",
        _ACTS,
        "with `on` programs open and close files without a request, faster (default: off); the first write copies a "
        "lower's file up, so an error of that, as of a full disk, is reported by fsync(2) and close(2), not open(2); "
        "without effect with `live=on`, on the layer `host` and on kernels before 6.18.3 or 6.12.64; `auto`: `on` "
        "unless another daemon may take over (`restart`) or lowers may change (`timeout`)",
    ),
    Row(
        "live=on|off",
        _ACTS,
        "with `on` other programs may change the lowers: changes are seen within a second (default: lowers do not "
        "change, as for the kernel)",
    ),
    Row(
        "restart=on|off",
        _ACTS,
        "with `off` the mount ends when its daemon is killed (default: another daemon takes over, and programs notice "
        "a pause); without effect with `no_open=on`, and where the kernel reads and writes files itself (`data`)",
    ),
    Row("fsname=NAME", _ACTS, "the source that the table of mounts shows"),
    Row(
        "allow_other",
        _ACTS,
        "others may use an ordinary user's mount, if /etc/fuse.conf has `user_allow_other`; all may use root's",
    ),
    Row(
        "context=CONTEXT fscontext=CONTEXT defcontext=CONTEXT rootcontext=CONTEXT",
        _ACTS,
        "SELinux labels, in double quotes if they hold commas; ignored without SELinux; needs root",
    ),
    Row(
        "defaults auto noauto nouser nousers noowner nogroup nofail _netdev comment=TEXT uhelper=NAME x-* X-*",
        _IGNORED,
        "meant for mount(8), fstab and systemd",
    ),
    Row(
        "private rprivate shared rshared slave rslave unbindable runbindable",
        _IGNORED,
        "propagation: nothing is mounted below yet, and mount(8) sets it itself",
    ),
    Row(
        "norelatime nostrictatime lazytime nolazytime iversion noiversion nomand silent loud symfollow",
        _IGNORED,
        "the behaviour of any FUSE file system, or without a meaning for it",
    ),
    Row("default_permissions", _IGNORED, "always on: the kernel checks modes and owners"),
    Row("xino=on|off|auto", _IGNORED, "inode numbers are unique in a mount and last as long as it"),
    Row("nfs_export=off override_creds", _IGNORED, "always so"),
    Row(
        "threaded=0|1 fast_ino=0|1 fast_ino_check=0|1 writeback=1 clone_fd max_idle_threads=N max_threads=N "
        "max_write=N splice_read splice_write splice_move kernel_cache",
        _IGNORED,
        "internals of fuse-overlayfs and libfuse",
    ),
    Row("writeback=0", _NOTED, "the kernel always holds written data for a while: see `sync`"),
    Row("strictatime", _NOTED, "reading changes no access time of a file"),
    Row(
        "auto_unmount",
        _NOTED,
        "a mount that has lost its daemon stays until it is unmounted",
    ),
    Row(
        "datadir+=DIR",
        _REFUSED,
        "only files copied up without their data refer to such a layer: give it as the last lower, or use the "
        "kernel's overlayfs",
    ),
    Row("nfs_export=on", _REFUSED, "a FUSE mount like this one cannot be exported over NFS"),
    Row(
        "nooverride_creds",
        _REFUSED,
        "the layers are always read with the rights of the mount's own daemon",
    ),
    Row("plugins=LIST", _REFUSED, "there are no plugins here"),
    Row("allow_root", _REFUSED, "root alone cannot be let in: give allow_other"),
    Row("subtype=TYPE", _REFUSED, "it is always overlaykit, which identifies our mounts"),
    Row("remount", _REFUSED, "a mount stays as it was made: unmount it and mount it again"),
    Row(
        "bind rbind move",
        _REFUSED,
        "not about layers: use 'mount --bind' or 'mount --move'",
    ),
    Row("mand", _REFUSED, "Linux has no mandatory locks any more"),
    Row(
        "loop[=DEVICE] offset=N sizelimit=N encryption=TYPE verity.*",
        _REFUSED,
        "a layer is a directory: mount the image first",
    ),
    Row(
        "helper=NAME X-mount.* x-mount.*",
        _REFUSED,
        "mount(8) alone does that: use 'mount -t fuse.overlaykit'",
    ),
)


def _known(row: Row, spelling: str) -> Known:
    key, equals, value = spelling.partition("=")
    optional = key.endswith("[")
    choices = tuple(value.split("|")) if value and value == value.lower() else ()
    return Known(
        key=key.removesuffix("["),
        spelling=spelling,
        row=row,
        choices=choices,
        takes_value=bool(equals) or spelling.endswith("*"),
        needs_value=bool(equals) and not optional,
    )


KNOWN: Final = tuple(_known(row, spelling) for row in ROWS for spelling in row.spellings.split())
"""Every option of the table; a key occurs several times if its values have different effects."""


def find(key: str) -> list[Known]:
    """The options with this key, or else with the longest prefix (`x-*`) of it; none if the key is unknown."""
    exact = [known for known in KNOWN if known.key == key]
    if exact:
        return exact
    prefixes = [
        known for known in KNOWN if known.key.endswith("*") and key.startswith(known.key[:-1])
    ]
    longest = max((len(known.key) for known in prefixes), default=0)
    return [known for known in prefixes if len(known.key) == longest]


def describe(effect: Effect) -> list[tuple[str, str]]:
    """The options with that effect, a row each: names and description."""
    return [(", ".join(row.spellings.split()), row.text) for row in ROWS if row.effect is effect]
