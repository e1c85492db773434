"""A program as a shell script, which reproduces a disagreement without the tests."""

from __future__ import annotations

import os

from ..posix import table
from .operations import python_line
from .program import Program

_HEAD = """\
#!/bin/bash
# Run {where}, once with the argument "kernel" and once with "overlaykit"; compare what is printed.
umask 022
base=$(mktemp -d -p /var/tmp) && cd "$base" || exit
mkdir {directories}
"""

_MOUNT = """\
case $1 in
    kernel) mount -t overlay overlay -o {options} merged ;;
    *) overlaykit mount -o {options}{more} merged ;;
esac
cd merged || exit
set -v
"""

_TAIL = """\
ls -lAR --time-style=+%s
set +v
cd "$base"; exec 5>&- 6>&- 7>&-
case $1 in kernel) umount merged ;; *) overlaykit umount merged ;; esac
cd /; rm -rf "$base"
"""


def script(program: Program, *, unprivileged: bool, metacopy: bool = False) -> str:
    """The program as a bash script; python only for what the shell cannot do."""
    where = "inside 'unshare -Urm'" if unprivileged else "as root"
    prefix = "user" if unprivileged else "trusted"
    lowers = [f"lower{number}" for number in range(len(program.layers))]
    options = f"lowerdir={':'.join(lowers)},upperdir=upper,workdir=work"
    metacopies = f"metacopy={'on' if metacopy else 'off'}"
    options += ",userxattr" if unprivileged else f",redirect_dir=on,index=on,{metacopies}"
    lines = [_HEAD.format(where=where, directories=" ".join([*lowers, "upper", "work", "merged"]))]
    for lower, layer in zip(lowers, program.layers, strict=True):
        lines += [_make(entry, f"{lower}/{path}", lower, prefix) for path, entry in layer.items()]
        lines += [
            f"touch -hd @{entry.mtime_ns // 10**9} {lower}/{path}"
            for path, entry in reversed(list(layer.items()))
            if isinstance(entry, table.File | table.Dir) and entry.mtime_ns is not None
        ]
    more = ",redirect_dir=off" if unprivileged else ""  # the kernel has none there
    lines.append(_MOUNT.format(options=options, more=more))
    lines += [operation.shell() for operation in program.operations]
    lines.append(_TAIL)
    return "\n".join(lines)


def _make(entry: table.Entry, path: str, lower: str, prefix: str) -> str:
    match entry:
        case table.File():
            lines = [
                f"printf '{os.fsdecode(entry.content)}' > {path}",
                f"chmod {entry.mode:04o} {path}",
            ]
            lines += [_xattr(path, name, value) for name, value in entry.xattrs.items()]
        case table.Dir():
            lines = [f"mkdir -m {entry.mode:04o} {path}"]
            if entry.opaque:
                lines.append(_xattr(path, f"{prefix}.overlay.opaque", b"y"))
        case table.Symlink():
            lines = [f"ln -s {entry.target} {path}"]
        case table.Link():
            lines = [f"ln {lower}/{entry.to} {path}"]
        case table.Fifo():
            lines = [f"mkfifo -m {entry.mode:04o} {path}"]
        case table.Device():
            lines = [f"mknod -m {entry.mode:04o} {path} c {entry.major} {entry.minor}"]
        case table.Whiteout():
            lines = [f"mknod {path} c 0 0"]
    return "\n".join(lines)


def _xattr(path: str, name: str, value: bytes) -> str:
    return python_line("os.setxattr(a[0], a[1], a[2].encode())", path, name, os.fsdecode(value))
