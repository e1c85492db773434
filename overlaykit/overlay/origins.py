"""Origins: what identifies the inodes of the lowers for good."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from overlaykit.overlay.layer import UNKNOWN_UUID
from overlaykit.overlay.markers import find_origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlaykit.overlay.layer import Layer, LayerDir
    from overlaykit.overlay.markers import Origin


class Origins:
    """Finds the origins of the inodes of `lowers`."""

    def __init__(self, lowers: Sequence[Layer]) -> None:
        self._devices: defaultdict[bytes, set[int]] = defaultdict(set)
        for layer in lowers:
            device = layer.root.stat().st_dev
            self._devices[layer.uuid(device, layer.root)].add(device)

    def uuid(self, layer_dir: LayerDir, device: int) -> bytes | None:
        """The uuid by which an origin names the file system that `layer_dir` lies on.

        None if file handles do not last, or if the uuid is not unique, as in the kernel (fs/overlayfs/super.c,
        bad_uuid): several lowers without one, or clones of one image. Only the lowers' roots are compared.
        """
        if not layer_dir.layer.lasting_handles(device, layer_dir):
            return None
        uuid = layer_dir.layer.uuid(device, layer_dir)
        devices = self._devices.get(uuid)
        if devices is None:
            return None if uuid == UNKNOWN_UUID else uuid
        return uuid if devices == {device} else None

    def find(self, layer_dir: LayerDir | None, name: bytes, device: int) -> Origin | None:
        """The lasting identity of a lower's inode; None if it has none."""
        uuid = None if layer_dir is None else self.uuid(layer_dir, device)
        if layer_dir is None or uuid is None:
            return None
        fd = layer_dir.fd()
        return layer_dir.layer.read(lambda: find_origin(fd, name, uuid), fd)
