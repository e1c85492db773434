"""The driver `kernel`: a view's root file system is the kernel's overlayfs, with no daemon.

It shows less than ours does. What it cannot show it refuses by name (`KernelRefused`), and `auto` takes ours.
"""

from __future__ import annotations

import errno
import os

from overlaykit import _native, mountinfo, namespace, privilege
from overlaykit.errors import Error
from overlaykit.fuse.directories import MountTable, shown_path
from overlaykit.namespace.spec import End
from overlaykit.overlay import features
from overlaykit.views import kernel_mount
from overlaykit.views.drivers import KERNEL
from overlaykit.views.kernel_mount import Failed, Plan
from overlaykit.views.upper import leaves_data, open_new_upper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from typing import Final, NoReturn

    from overlaykit.layers import Hold, Layer
    from overlaykit.mountinfo import Mount
    from overlaykit.overlay.explanation import Explanation
    from overlaykit.views.entry import Entry
    from overlaykit.views.upper import Limit, Upper

_OWN: Final = ("/proc", "/sys", "/dev", "/run")
"""A view mounts its own there."""

_IN_MEMORY: Final = ("tmpfs", "ramfs")

_MOST_LAYERS: Final = 500
"""OVL_MAX_STACK in fs/overlayfs/params.h."""

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NO_TREE: Final = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC


class KernelRefused(Error):
    """What the kernel's overlayfs cannot show, and the driver `fuse` can."""

    message = "the kernel's overlayfs refuses these layers ({0}): use --driver fuse"


class KernelLacksOverlayfs(KernelRefused):
    message = (
        "this kernel has no overlayfs for you ({0}): load it as root ('modprobe overlay'), or use "
        "--driver fuse"
    )


class HostOfSeveralFileSystems(KernelRefused):
    message = (
        "layer host: {0} is a file system of its own, and the kernel's overlayfs shows one only: "
        "use --driver fuse"
    )


class HostTakesRoot(KernelRefused):
    message = (
        "layer host: only root can merge a directory with mounts of others in it with the kernel's "
        "overlayfs: use --driver fuse"
    )


class LayerOfAnotherUser(KernelRefused):
    message = (
        "layer {0}: it belongs to a user that your user namespace does not map, so its files would "
        "be nobody's: use --driver fuse"
    )


class LayerWithMounts(KernelRefused):
    message = (
        "layer {0}: only root can merge a directory with a mount in it, as at {1}, with the "
        "kernel's overlayfs: use --driver fuse"
    )


class LayerHoldsFeature(KernelRefused):
    message = (
        "layer {0}: it holds {1}, which the kernel's overlayfs does not show here: use --driver "
        "fuse"
    )


class SnapshotHoldsLinks(KernelRefused):
    message = (
        "snapshot {0}: it holds hard links of layers that were changed, and the kernel's overlayfs shows only some of "
        "their names in a layer: use --driver fuse"
    )


class LayerOfAnotherKind(KernelRefused):
    message = (
        "layer {0}: root and ordinary users mark files in different ways, and the kernel's "
        "overlayfs reads one of them: use --driver fuse"
    )


class LayersOverlap(KernelRefused):
    message = (
        "one of the layers {0} lies in another, which the kernel's overlayfs takes only if that is "
        "the last: use --driver fuse"
    )


class TooManyLayers(KernelRefused):
    message = "{0} layers are more than the kernel's overlayfs takes: use --driver fuse"


class UpperHoldsFeature(KernelRefused):
    message = (
        "upper {0}: it holds {1}, which the kernel's overlayfs does not show here: use --driver "
        "fuse"
    )


class UpperOverOtherLayers(KernelRefused):
    message = (
        "upper {0}: it holds hard links of layers that were changed, and belongs to other layers, or "
        "was copied: name those layers, or use --driver fuse"
    )


class UpperWithoutAttributes(KernelRefused):
    message = (
        "upper {0}: its file system keeps no attributes for overlayfs ({1}): choose an upper "
        "elsewhere, or use --driver fuse"
    )


class UpperOfAnotherKind(Error):
    message = (
        "upper {0}: root and ordinary users mark files in different ways, and this one is the "
        "other's: choose another upper"
    )


class UpperOnAnotherOverlay(KernelRefused):
    message = (
        "upper {0}: the kernel's overlayfs takes no upper on its file system ({1}): choose an "
        "upper elsewhere, or use --driver fuse"
    )


class DiskUnlimited(KernelRefused):
    message = (
        "--disk {0}: the kernel's overlayfs does not count what the view writes, nor does the file system of a new "
        "upper (project quotas of ext4 or XFS, as root): use --driver fuse"
    )


class DirectoryHidden(KernelRefused):
    message = (
        "{0}: no path leads to this directory, which the kernel's overlayfs takes ({1}): use "
        "--driver fuse"
    )


class KernelRoot:
    """A root file system by the kernel's overlayfs. `fuse_driver.FuseRoot` has the same face.

    Attributes: `mount`, the detached mount's descriptor, -1 after `close_mount`; `device`, its st_dev; `paths` and
    `changes`, as in `entry.About`.
    """

    driver = KERNEL
    notes: tuple[str, ...] = ()
    daemon_pid = 0

    def __init__(
        self,
        entry: Entry,
        layers: Sequence[Layer],
        holds: Sequence[Hold],
        upper: Upper | None,
        *,
        kept: bool,
        userns: str = "auto",
        limit: Limit | None = None,
        within: int | None = None,
    ) -> None:
        """Mount `layers`, which `holds` have opened, below `upper`.

        `kept`: the upper outlives the view. `limit`: of the upper.
        `userns`: as in `ViewSpec`; `within`: the parent of the view's user namespace, None: the caller's.
        Raises: KernelRefused; other Errors that hold for both drivers; OSError.
        """
        if limit is not None and limit.project is None:
            raise DiskUnlimited(limit.size)
        privileged = namespace.is_privileged()
        if privileged and userns not in ("auto", "keep-id", "host"):
            raise namespace.UserNamespaceOfHost(userns)
        user = in_user_namespace()
        masks = _require_shown(layers, user=user)
        self.paths = tuple(
            shown_path(layer.path, hold.fileno()) for layer, hold in zip(layers, holds, strict=True)
        )
        self.changes = None if upper is None else upper.path
        opened = []
        try:
            if upper is not None:
                opened = [open_new_upper(upper.path, holds[0]), open_new_upper(upper.work)]
                _require_apart(holds, layers, opened, upper)
            plan = Plan(
                source=entry.name,
                stage=entry.stage,
                lowers=[hold.fileno() for hold in holds],
                bottom_apart=layers[-1].recursive and len(layers) > 1,
                masks=masks,
                upper=opened[0] if opened else -1,
                work=opened[1] if opened else -1,
                volatile=not kept,
                metacopy=not user and leaves_data(layers, kept=kept),
                identities=None if privileged else namespace.identities.chosen(userns),
                user=user,
                within=within,
                single=userns == "single",
                limited=limit is not None,
            )
            made = kernel_mount.mount(plan)
        except Failed as failed:
            if (
                failed.reason == "namespaces"
                and userns == "subids"
                and namespace.diagnose() is None
            ):
                raise namespace.NoSubordinateIds(
                    "newuidmap maps none", "mend /etc/subuid and /etc/subgid"
                ) from None
            _explain_failure(failed, layers, upper)
        finally:
            for descriptor in opened:
                os.close(descriptor)
        self._entry = entry
        self.mount = made.mount
        self.device = os.fstat(made.mount).st_dev
        self._user_namespace = made.user_namespace
        self._lock = made.lock
        self._holds = tuple(hold.fileno() for hold in holds)

    @property
    def holds(self) -> tuple[int, ...]:
        """The locks that the supervisor has to keep."""
        entry = self._entry
        return (
            *entry.locks,
            entry.view_lock,
            *self._holds,
            *([] if self._lock < 0 else [self._lock]),
        )

    @property
    def user_namespace(self) -> int | None:
        """A descriptor for the user namespace that owns the mount; None if that is the caller's."""
        return None if self._user_namespace < 0 else self._user_namespace

    @property
    def watched(self) -> tuple[int, ...]:
        """Descriptors that are readable once the mount has ended: none, it ends with its users."""
        return ()

    def has_ended(self) -> bool:
        """Whether the mount has ended too early."""
        return False

    def close_mount(self) -> None:
        """Close the mount's descriptor. The mount ends with the last process that uses it."""
        if self.mount >= 0:
            os.close(self.mount)
            self.mount = -1

    def wait(self) -> bool:
        """Let others use the upper: the last process of the view has ended, and all it wrote is there."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        return True

    def close(self) -> None:
        """Unmount, and let others use the upper."""
        self.close_mount()
        self.wait()
        if self._user_namespace >= 0:
            os.close(self._user_namespace)
            self._user_namespace = -1

    def end(self, stack: ExitStack) -> End:
        """What the supervisor does at the end of the view, in place of `close`; its descriptors end with `stack`."""
        cleanup = self._entry.cleanup
        return End(
            limits=tuple(
                (_open_directory(path, stack), project) for path, project in cleanup.limited
            ),
            remove=tuple(_in_directory(path, stack) for path in cleanup.trees),
            remove_if_empty=tuple(
                _in_directory(path, stack) for path in (cleanup.registry, *cleanup.places)
            ),
        )

    def explain(self, path: str) -> Explanation:
        """Which layer answers for a path. Raises: OSError (ENOENT and the like)."""
        from overlaykit.views.explaining import explain_layers

        return explain_layers(self.paths, self.changes, path)


def _in_directory(path: str, stack: ExitStack) -> tuple[int, str]:
    """A path as a descriptor of its directory, and the name in it."""
    directory, name = os.path.split(path)
    return _open_directory(directory, stack), name


def _open_directory(path: str, stack: ExitStack) -> int:
    fd = os.open(path, _DIRECTORY)
    stack.callback(os.close, fd)
    return fd


def in_user_namespace() -> bool:
    """Whether a view is mounted in a user namespace that is not the machine's."""
    return not (namespace.is_privileged() and privilege.maps_all_ids())


def _require_shown(layers: Sequence[Layer], *, user: bool) -> list[str]:
    """Refuse layers that the kernel's overlayfs cannot show. Returns: the paths to mask."""
    if len(layers) > _MOST_LAYERS:
        raise TooManyLayers(len(layers))
    masks: list[str] = []
    for layer in layers:
        if layer.index is not None:
            raise SnapshotHoldsLinks(layer.path)
        if layer.recursive:
            if user:
                raise HostTakesRoot
            masks += [
                mask
                for mask in layer.masks
                if not any(mask == own or mountinfo.below(mask, own) for own in _OWN)
            ]
            require_one_file_system(layer)
    return masks


def _require_apart(
    holds: Sequence[Hold], layers: Sequence[Layer], writable: Sequence[int], upper: Upper
) -> None:
    """Refuse a lower in the upper or in the work directory: it would be written to."""
    table = MountTable()
    for layer, hold in zip(layers, holds, strict=True):
        for path, directory in zip((upper.path, upper.work), writable, strict=True):
            if table.contains(directory, hold.fileno()):
                from overlaykit.fuse.stack import LowerInsideUpper

                raise LowerInsideUpper(layer.path, path)


def require_one_file_system(host: Layer) -> None:
    """Refuse the host if a mount in it holds files that its root mount does not show.

    Raises: HostOfSeveralFileSystems.
    """
    mounts = list(mountinfo.visible(mountinfo.current()))
    root = next(mount for mount in mounts if mount.mountpoint == "/")
    for mount in mounts:
        path = mount.mountpoint
        hidden = any(path == mask or mountinfo.below(path, mask) for mask in host.masks)
        if mount is root or hidden or _is_part_of(root, mount):
            continue
        # Only of these: a disk or a server may not answer.
        if mount.fstype not in _IN_MEMORY or not (_is_empty(path) and _is_empty_below(path)):
            raise HostOfSeveralFileSystems(path)


def _is_part_of(root: Mount, mount: Mount) -> bool:
    """Whether the mount shows what the root mount shows at the same path."""
    same = os.path.normpath(os.path.join(root.root, mount.mountpoint.lstrip("/")))
    return mount.device == root.device and mount.root == same


def _is_empty(path: str) -> bool:
    try:
        return not os.listdir(path)
    except OSError:  # a file
        return False


def _is_empty_below(path: str) -> bool:
    """Whether the directory on which a mount lies is empty, too."""
    tree = _native.open_tree(_native.AT_FDCWD, "/", _NO_TREE)
    try:
        return _is_empty(f"/proc/self/fd/{tree}{path}")
    finally:
        os.close(tree)


def _explain_failure(failed: Failed, layers: Sequence[Layer], upper: Upper | None) -> NoReturn:
    """Raise the error for what the child reports."""
    reason = os.strerror(failed.number)
    if failed.number == errno.EMFILE:
        raise OSError(failed.number, reason, failed.subject or None)
    shown = upper.path if upper is not None else ""
    match failed.reason:
        case "namespaces":
            raise _namespaces_refused(failed.number)
        case "locked":
            from overlaykit.views import locks

            raise locks.upper_taken(shown)
        case "owner":
            raise LayerOfAnotherUser(failed.subject)
        case "feature":
            description = features.DESCRIPTIONS[failed.subject.partition("\0")[2]]
            raise UpperHoldsFeature(shown, description)
        case "layer feature":
            path, _, feature = failed.subject.partition("\0")
            raise LayerHoldsFeature(path, features.DESCRIPTIONS[feature])
        case "layer prefix":
            raise LayerOfAnotherKind(failed.subject)
        case "attributes":
            raise UpperWithoutAttributes(shown, reason)
        case "prefix":
            raise UpperOfAnotherKind(shown)
        case "hidden":
            raise DirectoryHidden(failed.subject, reason)
        case "layers":
            raise TooManyLayers(len(layers))
        case "overlayfs":
            raise KernelLacksOverlayfs(reason)
        case "refused":
            raise _refused(failed.number, layers, upper)
    raise OSError(failed.number, reason, failed.subject or None)


def _namespaces_refused(number: int) -> Exception:
    if namespace.is_privileged():
        from overlaykit.views.fuse_driver import MountsNotIsolated

        return MountsNotIsolated()
    return namespace.diagnose() or OSError(number, os.strerror(number))


def _refused(number: int, layers: Sequence[Layer], upper: Upper | None) -> Error:
    """Why the kernel refuses to mount, as far as the layers show."""
    if number == errno.EBUSY and upper is not None:
        from overlaykit.views import locks

        return locks.upper_taken(upper.path)
    if number == errno.EINVAL and in_user_namespace():
        points = [mount.mountpoint for mount in mountinfo.current()]
        for layer in layers:
            path = os.path.realpath(layer.path)
            below = next((point for point in points if mountinfo.below(point, path)), None)
            if below is not None:
                return LayerWithMounts(layer.path, below)
    if number == errno.EINVAL and upper is not None and _lies_on_overlay(upper.path):
        return UpperOnAnotherOverlay(upper.path, os.strerror(number))
    if number == errno.ESTALE and upper is not None:
        return UpperOverOtherLayers(upper.path)
    if number == errno.ELOOP:
        return LayersOverlap(", ".join(layer.name for layer in layers))
    return KernelRefused(os.strerror(number))


def _lies_on_overlay(path: str) -> bool:
    device = os.stat(path).st_dev
    kinds = {mount.fstype for mount in mountinfo.current() if mount.device == device}
    return any(kind == "overlay" or kind.startswith("fuse") for kind in kinds)
