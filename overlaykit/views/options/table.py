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
    NEEDLESS = "accepted: it cannot matter"
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


_ACTS, _NEEDLESS, _NOTED, _REFUSED = Effect

ROWS: Final = (
    Row(
        "lowerdir=TOP:...:BOTTOM",
        _ACTS,
        "the directories to be merged; never written to; an upper inside one is not shown there",
    ),
    Row("lowerdir+=DIR", _ACTS, "one more below those so far; a colon in it is part of the name"),
    Row(
        "upperdir=DIR workdir=DIR",
        _ACTS,
        "where changes go, and room for work in progress on the same file system",
    ),
    Row("ro rw", _ACTS, "with `ro` an upper is one more lower"),
    Row(
        "dev nodev suid nosuid exec noexec",
        _ACTS,
        "whether device nodes, set-ID bits and programs on it work; for an ordinary user's mount never the first two",
    ),
    Row(
        "user[=NAME] users owner group",
        _ACTS,
        "`nosuid,nodev`, and `noexec` with the first two, as mount(8) means it",
    ),
    Row("nosymfollow", _ACTS, "symbolic links on it are not followed; takes root"),
    Row(
        "atime noatime diratime nodiratime relatime",
        _ACTS,
        "shown in the table of mounts; reading changes the access time of a file with none of them",
    ),
    Row(
        "sync async dirsync",
        _ACTS,
        "`sync`: each write reaches the disk before it returns; both: so does each change of names",
    ),
    Row(
        "volatile fsync=0|1",
        _ACTS,
        "`volatile`, `fsync=0`: nothing is synced, and after a crash the upper is worth nothing",
    ),
    Row("userxattr", _ACTS, "marks are `user.overlay.*` also where `trusted.` could be written"),
    Row(
        "redirect_dir=on|off|follow|nofollow",
        _ACTS,
        "whether directories of a lower can be renamed, and such renames followed",
    ),
    Row(
        "index=on|off",
        _ACTS,
        "hard links of a lower stay one file through copy-up, also over a remount",
    ),
    Row(
        "whiteout=auto|device|xattr|aufs",
        _ACTS,
        "how deletions are marked: by devices 0:0, or where the upper's disk makes none (an overlay) by an attribute "
        "of empty files; `aufs`, by files `.wh.NAME` and `.wh..wh..opq`, for disks without attributes: no renaming of "
        "a lower's directories, no index and no lasting inode numbers there",
    ),
    Row(
        "uuid=on|off|null|auto",
        _ACTS,
        "with `off` the index names no disk, so it holds on a copy of the disk; the others differ for the kernel alone",
    ),
    Row(
        "squash_to_root squash_to_uid=UID squash_to_gid=GID",
        _ACTS,
        "everything is shown as one owner's; copies and new files are that owner's, or else your own",
    ),
    Row(
        "uidmapping=HOST:CONTAINER:COUNT[:...] gidmapping=HOST:CONTAINER:COUNT[:...]",
        _ACTS,
        "ranges of owners are shown as others; what a caller outside of them makes is the overflow id's",
    ),
    Row(
        "xattr_permissions=0|1|2",
        _ACTS,
        "owners and modes are kept in an attribute (1: `security.`, root's; 2: `user.`), the files stay the daemon's "
        "own; no ACLs then",
    ),
    Row("noacl", _ACTS, "no access control lists"),
    Row("noxattr noxattrs=0|1", _ACTS, "no extended attributes"),
    Row("static_nlink", _ACTS, "every directory has the link count 1"),
    Row(
        "timeout=SECONDS",
        _ACTS,
        "how long the kernel keeps names and attributes without asking (by default for ever)",
    ),
    Row("fsname=NAME", _ACTS, "the source that the table of mounts shows"),
    Row(
        "allow_other",
        _ACTS,
        "others may use an ordinary user's mount, where /etc/fuse.conf says `user_allow_other`; root's is for all",
    ),
    Row(
        "context=CONTEXT fscontext=CONTEXT defcontext=CONTEXT rootcontext=CONTEXT",
        _ACTS,
        "SELinux labels, in double quotes if they hold commas; nothing where there is no SELinux; takes root",
    ),
    Row(
        "defaults auto noauto nouser nousers noowner nogroup nofail _netdev comment=TEXT uhelper=NAME x-* X-*",
        _NEEDLESS,
        "meant for mount(8), fstab and systemd",
    ),
    Row(
        "private rprivate shared rshared slave rslave unbindable runbindable",
        _NEEDLESS,
        "propagation: nothing is mounted below yet, and mount(8) sets it itself",
    ),
    Row(
        "norelatime nostrictatime lazytime nolazytime iversion noiversion nomand silent loud symfollow",
        _NEEDLESS,
        "what a FUSE file system does anyway, or has none of",
    ),
    Row("default_permissions", _NEEDLESS, "always so: the kernel checks modes and owners"),
    Row(
        "xino=on|off|auto", _NEEDLESS, "inode numbers are unique in a mount and last as long as it"
    ),
    Row(
        "metacopy=off verity=on|off|require",
        _NEEDLESS,
        "copy-up copies data, and a file whose data are elsewhere cannot be read",
    ),
    Row("nfs_export=off override_creds", _NEEDLESS, "it is so"),
    Row(
        "threaded=0|1 fast_ino=0|1 fast_ino_check=0|1 writeback=1 clone_fd max_idle_threads=N max_threads=N "
        "max_write=N splice_read splice_write splice_move kernel_cache",
        _NEEDLESS,
        "how another program is built inside",
    ),
    Row("metacopy=on", _NOTED, "copy-up copies the data too"),
    Row("writeback=0", _NOTED, "the kernel always holds written data for a while: see `sync`"),
    Row("strictatime", _NOTED, "reading changes no access time of a file"),
    Row(
        "auto_unmount",
        _NOTED,
        "a mount whose daemon was killed stays until it is unmounted",
    ),
    Row(
        "datadir+=DIR",
        _REFUSED,
        "only files copied up without their data refer to such a layer, and these cannot be read here: "
        "give it as a lower, or use the kernel's overlayfs",
    ),
    Row("nfs_export=on", _REFUSED, "a FUSE mount like this one cannot be exported over NFS"),
    Row(
        "nooverride_creds",
        _REFUSED,
        "the layers are always read with the rights of the mount's own daemon",
    ),
    Row("plugins=LIST", _REFUSED, "there are no plugins here"),
    Row("allow_root", _REFUSED, "root alone cannot be let in: give allow_other"),
    Row("subtype=TYPE", _REFUSED, "it is overlaykit: our mounts are known by it"),
    Row("remount", _REFUSED, "a mount stays as it was made: unmount it and mount it again"),
    Row(
        "bind rbind move",
        _REFUSED,
        "it is not about layers: 'mount --bind' and 'mount --move' do it",
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
