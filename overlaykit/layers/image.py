"""Detect container images, whose files are manifests and blobs instead of a file tree.

Sources: the OCI image layout specification (oci-layout), docker's image specification (manifest.json), and the "dir:"
transport of containers/image (the file version).
"""

from __future__ import annotations

import os

from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_LONGEST: Final = 1 << 20
"""The most bytes of a manifest that are read; real ones are far shorter."""


class ImageNotTree(Error):
    message = (
        "{0} is {1}, not a file tree, and images cannot be added yet; export a container's files "
        "('docker export CONTAINER > FILE') and add tar:FILE"
    )


def refuse_image(root: int | str, shown: str) -> None:
    """Raise ImageNotTree if the directory `root`, a path or a descriptor, holds an image."""
    if isinstance(_read(root, "oci-layout"), dict):
        raise ImageNotTree(shown, "an OCI image")
    manifest = _read(root, "manifest.json")
    if (
        isinstance(manifest, list)
        and manifest
        and isinstance(manifest[0], dict)
        and {"Config", "Layers"} <= manifest[0].keys()
    ):
        raise ImageNotTree(shown, "an image that 'docker save' wrote")
    if isinstance(manifest, dict) and {"config", "layers", "schemaVersion"} <= manifest.keys():
        raise ImageNotTree(shown, "a copy of an image")


def _read(root: int | str, name: str) -> object:
    """The contents of a JSON file; None if there is none."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    beneath = f"/proc/self/fd/{root}" if isinstance(root, int) else root
    try:
        with open(os.open(os.path.join(beneath, name), flags), "rb") as file:
            # Late: few directories have such a file.
            import json

            return json.loads(file.read(_LONGEST))
    except (OSError, ValueError, RecursionError):
        return None
