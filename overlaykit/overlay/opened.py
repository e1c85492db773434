"""Directories that were opened to be merged, before a stack or a comparison makes layers of them."""

from __future__ import annotations

from overlaykit.lean import NamedTuple
from overlaykit.overlay.layer import Layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlaykit.overlay.descriptors import Descriptors


class OpenedLayer(NamedTuple):
    """A directory to be merged. The stack owns its descriptor `fd` (O_PATH suffices); `path` is for messages.

    `mounted_in`: its directories that contain a mountpoint visible through `fd`, as paths from its root; None: not
    known. A mount made later is a change of the layer like any other.
    `lock`: a descriptor that locks the directory against other writers, closed last (-1: none).
    `frozen`: it was an upper. `index_fd`: then a descriptor of its index (O_PATH), which the stack owns; -1: none.
    `idmapped`: its mount is idmapped. `live`: others may change it.
    """

    fd: int
    path: str
    mounted_in: frozenset[bytes] | None = None
    lock: int = -1
    idmapped: bool = False
    frozen: bool = False
    index_fd: int = -1
    live: bool = False


def as_layers(
    opened: Sequence[OpenedLayer], upper: OpenedLayer | None, descriptors: Descriptors
) -> list[Layer]:
    """Opened directories as layers, of which `upper` is written to."""
    return [
        Layer(
            one.fd,
            index,
            path=one.path,
            writable=one is upper,
            descriptors=descriptors,
            mounted_in=one.mounted_in,
            idmapped=one.idmapped,
            frozen=one.frozen,
            index_fd=one.index_fd,
            live=one.live,
        )
        for index, one in enumerate(opened)
    ]
