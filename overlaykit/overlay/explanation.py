"""What a path means in each layer, as plain data."""

from __future__ import annotations

from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal


class Hiding(Record):
    """Why an entry is not seen: what `path`, a file in a layer above, is.

    `reason`: `covered` by an entry of its name; by a `whiteout`; by an `opaque` directory; a `redirect` leads
    elsewhere; the `index` has the file, since it was copied up under another of its names.
    """

    reason: Literal["covered", "whiteout", "opaque", "redirect", "index"]
    path: str


class Lower(Record):
    """The file of a layer that a copy was made of, as it is now.

    `path`: None if it is not found (after a rename that takes privileges to follow, or because it has gone).
    `mode`: the permission bits. `mtime_ns`: since the epoch. `changed`: whether it has been changed since it was
    copied; None: not known. All but `path` are None if it is not found.
    """

    path: str | None
    kind: str | None
    mode: int | None
    uid: int | None
    gid: int | None
    size: int | None
    mtime_ns: int | None
    changed: bool | None


class Copied(Record):
    """How a file came into its layer by copy-up.

    `program`: the name of the program that it was copied for, at most 15 bytes; None: not recorded. `time_ns`: since
    the epoch; None: not known; to a second where it was recorded, else when the copy was made. `lower`: what it was.
    """

    program: str | None
    time_ns: int | None
    lower: Lower


class LayerHit(Record):
    """One layer's entry for a path.

    `role`: `answers`; holds the `data` of a file whose metadata answer; `merged` into a directory that answers;
    `shadowed` by what `hidden` says; or a `whiteout`.
    `path`: of the real file. `kind`: file, directory, symlink, device, fifo or socket.
    `redirect`: where the layers below have it, if that is another path than its own.
    """

    layer: str
    path: str
    kind: str
    role: Literal["answers", "data", "merged", "shadowed", "whiteout"]
    hidden: Hiding | None = None
    redirect: str | None = None
    copied: Copied | None = None


class Explanation(Record):
    """What a path in the view means.

    `path`: with the symlinks above its last name resolved. `target`: of a symlink. `links`: how many names the file has
    in the view; None: nothing answers. `names`: other names of it that the daemon has seen. `hits`: the topmost layer's
    first.
    """

    path: str
    target: str | None
    links: int | None
    names: tuple[str, ...]
    hits: tuple[LayerHit, ...]
