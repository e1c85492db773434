"""Where a home directory keeps keys, which a view over the host hides."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
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


def of_home() -> list[str]:
    """Those that exist in the user's home directory, and in /root for root."""
    homes = [os.path.expanduser("~")]
    if os.geteuid() == 0 and "/root" not in homes:
        homes.append("/root")
    found = (os.path.join(home, name) for home in homes if os.path.isabs(home) for name in KEYS)
    return [path for path in found if os.path.lexists(path)]
