"""Where home directories keep keys, which a view over the host hides."""

from __future__ import annotations

import os

from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Final

KEYS: Final = (
    # keys of SSH, GnuPG, age, and of passwords
    ".ssh",
    ".gnupg",
    ".config/age",
    ".config/sops",
    ".password-store",
    ".local/share/keyrings",
    ".local/share/kwalletd",
    ".pki",
    ".netrc",
    ".git-credentials",
    ".config/git/credentials",
    ".vault-token",
    # credentials of clouds, clusters and registries
    ".aws",
    ".azure",
    ".config/gcloud",
    ".config/doctl",
    ".config/hcloud",
    ".oci",
    ".kube",
    ".docker/config.json",
    ".config/containers/auth.json",
    ".config/gh",
    ".config/glab-cli",
    ".config/rclone",
    ".terraform.d/credentials.tfrc.json",
    ".pypirc",
    # profiles of browsers and mail programs
    ".mozilla",
    ".config/mozilla",
    ".thunderbird",
    ".config/google-chrome",
    ".config/chromium",
    ".config/BraveSoftware",
    ".config/microsoft-edge",
    ".config/opera",
    ".config/vivaldi",
    ".var/app",
    "snap/firefox",
    "snap/chromium",
)
"""Below a home directory. Configuration that may hold a token among other things (.npmrc, pip.conf) is not listed."""


_ACCOUNTS: Final = "/etc/passwd"
_HOMES: Final = "/home"
_OF_SYSTEM: Final = ("bin", "boot", "dev", "etc", "lib", "proc", "run", "sbin", "sys", "tmp", "usr")
"""Directories in / that hold no home, though accounts of the system name some in them."""


def of_homes() -> list[str]:
    """Those that exist in the user's home directory, for root in that of every account.

    Takes five system calls for each home, and one for each key below a directory that is there.
    """
    homes = [os.path.expanduser("~")]
    if os.geteuid() == 0:
        homes += ("/root", *_of_accounts())
    return [path for home in dict.fromkeys(homes) if os.path.isabs(home) for path in _in(home)]


def _of_accounts() -> Iterator[str]:
    """The home directories of accounts: those that /etc/passwd names, and all in /home."""
    # Not by getpwent(3), which may ask a server.
    with suppress(OSError), open(_ACCOUNTS, "rb") as file:
        for line in file:
            fields = line.split(b":")
            home = os.fsdecode(fields[5]) if len(fields) > 5 else ""
            if home.strip("/") and home.split("/")[1] not in _OF_SYSTEM:
                yield os.path.normpath(home)
    for name in _names(_HOMES) or ():
        yield os.path.join(_HOMES, name)


def _in(home: str) -> list[str]:
    """The keys that exist in a home directory, looked up only where the first part of their name exists."""
    names = _names(home)
    found = (
        os.path.join(home, key) for key in KEYS if names is None or key.partition("/")[0] in names
    )
    return [path for path in found if os.path.lexists(path)]


def _names(directory: str) -> Collection[str] | None:
    """The names in a directory; None if it may not be read, though what is in it may be there."""
    try:
        return frozenset(os.listdir(directory))
    except PermissionError:
        return None
    except OSError:
        return ()
