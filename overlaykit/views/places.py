"""Where overlaykit keeps what on the machine, by the XDG base directory specification."""

from __future__ import annotations

import os
import stat

from overlaykit.errors import Error


class PlaceUnsafe(Error):
    message = (
        "{0} belongs to somebody else or can be written by others: remove it, or set "
        "XDG_RUNTIME_DIR"
    )


def runtime() -> str:
    """The directory of the running views' entries, which is there only while some are.

    /run/overlaykit for root, else $XDG_RUNTIME_DIR/overlaykit, or one in /tmp that nobody else may touch.
    """
    uid = _outside(os.geteuid())
    if uid == 0 and os.access("/run", os.W_OK):
        return "/run/overlaykit"
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given and os.access(given, os.W_OK | os.X_OK):
        return os.path.join(given, "overlaykit")
    return f"/tmp/overlaykit-{uid}"  # noqa: S108  # `private` makes sure of it


def scratch() -> str:
    """The directory of the uppers that are dropped when their view ends: on a disk, so that much may be written."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = given if os.path.isabs(given) else os.path.expanduser("~/.cache")
    return private(os.path.join(base, "overlaykit"))


def log() -> str:
    """The file that daemons write warnings to; made when there is something to say."""
    given = os.environ.get("XDG_STATE_HOME", "")
    base = given if os.path.isabs(given) else os.path.expanduser("~/.local/state")
    return os.path.join(private(os.path.join(base, "overlaykit")), "daemon.log")


def private(path: str) -> str:
    """Make a directory of the user's own where there is none. Raises Error if somebody else's is there."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        st = os.lstat(path)
        writable = stat.S_IMODE(st.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.geteuid() or writable:
            raise PlaceUnsafe(path) from None
    return path


def _outside(uid: int) -> int:
    """Who a user is outside of this user namespace, in which an ordinary one may be root (user_namespaces(7))."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        for line in file:
            inside, outside, length = map(int, line.split())
            if inside <= uid < inside + length:
                return outside + uid - inside
    return uid
