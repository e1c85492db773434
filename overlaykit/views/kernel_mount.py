"""A mount of the kernel's overlayfs, made by a child in the user namespace and the mount namespace that it takes.

Sources: Documentation/filesystems/overlayfs.rst; fs/overlayfs/params.c; clone_private_mount() in fs/namespace.c.
"""

from __future__ import annotations

import errno
import fcntl
import os

from overlaykit import _native, attributes, child, privilege
from overlaykit.beneath import BENEATH
from overlaykit.namespace import users
from overlaykit.overlay import began, features
from overlaykit.overlay.marker_names import prefixes
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from overlaykit.namespace.identities import Identities

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_CLONE: Final = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC
_MASK_FLAGS: Final = _native.MS_NOSUID | _native.MS_NODEV | _native.MS_NOEXEC | _native.MS_RDONLY
_MASK_OPTIONS: Final = "mode=0555,size=4k,nr_inodes=1"
_WIDENED: Final = "mode."
"""Begins the names of records in the work directory (`overlay.modes`)."""
_LONGEST_FAILURE: Final = 16384
_MOST_DESCRIPTORS: Final = 3
_NEVER_SHOWN: Final = (features.WHITEOUT_XATTR, features.WHITEOUT_AUFS, features.PERMISSIONS)


class Failed(Exception):
    """The child could not mount: the name of the reason, its errno and subject."""

    def __init__(self, reason: str, number: int, subject: str) -> None:
        super().__init__(reason, number, subject)
        self.reason = reason
        self.number = number
        self.subject = subject


class Plan:
    """What to mount. Directories are open descriptors, whose paths lead to them in a new mount namespace, too.

    `source`: shown as the mount's source. `stage`: an empty directory, for the child's own use. `lowers`: top first.
    `metacopy`: changes of metadata copy no data, if the kernel can read such files.
    `bottom_apart`: the last of them contains another. `masks`: absolute paths in the view, shown as empty directories.
    `upper` and `work`: -1 for none. `volatile`: the upper ends with the view. `identities`: the ids of the user
    namespace to enter; None: the caller is privileged. `user`: in a user namespace, where the kernel has only
    `user.overlay.*` attributes, no redirects and no index. `within`: its parent, of whose ids
    it maps all, or with `single` the caller's; None: the caller's. `limited`: the upper has a limit (`projects`).
    """

    def __init__(
        self,
        *,
        source: str,
        stage: str,
        lowers: Sequence[int],
        bottom_apart: bool,
        masks: Sequence[str],
        upper: int,
        work: int,
        volatile: bool,
        metacopy: bool,
        identities: Identities | None,
        user: bool,
        within: int | None = None,
        single: bool = False,
        limited: bool = False,
    ) -> None:
        self.source = source
        self.stage = stage
        self.lowers = lowers
        self.bottom_apart = bottom_apart
        self.masks = masks
        self.upper = upper
        self.work = work
        self.volatile = volatile
        self.metacopy = metacopy
        self.identities = identities
        self.user = user
        self.within = within
        self.single = single
        self.limited = limited


class Mounted:
    """The descriptors of a new mount; -1 for the `lock` without an upper and for the namespace of a privileged caller.

    `lock` locks the upper as a daemon does, until its last copy is closed.
    """

    def __init__(self, mount: int, lock: int, user_namespace: int) -> None:
        self.mount = mount
        self.lock = lock
        self.user_namespace = user_namespace


def mount(plan: Plan) -> Mounted:
    """Mount. Raises: Failed; OSError: as `child.make`."""
    found, failure = child.make(
        lambda: _answer(plan), most_descriptors=_MOST_DESCRIPTORS, most_bytes=_LONGEST_FAILURE
    )
    if failure:
        reason, number, subject = failure.split(b"\0", 2)
        raise Failed(reason.decode(), int(number), os.fsdecode(subject))
    taken = iter(found)
    return Mounted(
        next(taken),
        next(taken) if plan.upper >= 0 else -1,
        -1 if plan.identities is None else next(taken),
    )


def _answer(plan: Plan) -> child.Made:
    """The descriptors of a mount, or why there is none."""
    try:
        return _mount(plan), b""
    except Failed as error:
        reason, number, subject = error.reason, error.number, error.subject
    except OSError as error:
        reason, number, subject = "unforeseen", error.errno or errno.EIO, error.filename or ""
    return [], b"%s\0%d\0%s" % (reason.encode(), number, os.fsencode(subject))


def _mount(plan: Plan) -> list[int]:
    """Mount. Returns: the descriptors of `Mounted`, as far as there are any."""
    # Before the new mount namespace: in a chroot a path would lead from another root there (d_path() in fs/d_path.c).
    directories = [*plan.lowers, *([] if plan.upper < 0 else [plan.upper, plan.work])]
    paths = {directory: os.readlink(f"/proc/self/fd/{directory}") for directory in directories}
    try:
        if plan.within is not None:
            from overlaykit.namespace import bridge

            bridge.enter_below(plan.within, single=plan.single)
        elif plan.identities is not None:
            users.enter(plan.identities)
        else:
            users.isolate_mounts()
    except OSError as error:
        raise Failed("namespaces", error.errno or errno.EIO, "") from error
    lowers = [_reopen(lower, paths[lower]) for lower in plan.lowers]
    if plan.user:
        for lower in lowers:
            _require_mapped_owner(lower)
    held = [_check_lower(lower, plan) for lower in lowers]
    metacopy = plan.metacopy or any(features.METACOPY in one for one in held)
    upper = work = lock = -1
    if plan.upper >= 0:
        upper, work = (_reopen(one, paths[one]) for one in (plan.upper, plan.work))
        lock = _lock(upper)
    if plan.limited:
        from overlaykit import projects

        projects.heed_limits()  # overlayfs writes with the capabilities of the process that mounts it
    try:
        made = _merge(plan, lowers, upper, work, bottom_apart=plan.bottom_apart, metacopy=metacopy)
    except Failed as error:
        if error.number != errno.ELOOP or plan.bottom_apart or len(lowers) == 1:
            raise
        made = _merge(plan, lowers, upper, work, bottom_apart=True, metacopy=metacopy)
    if plan.masks:
        made = _masked(made, plan)
    descriptors = [made]
    if upper >= 0:
        descriptors.append(lock)
    if plan.identities is not None:
        descriptors.append(os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC))
    return descriptors


def _merge(
    plan: Plan,
    lowers: Sequence[int],
    upper: int,
    work: int,
    *,
    bottom_apart: bool,
    metacopy: bool,
) -> int:
    """The overlay as a detached mount. `bottom_apart`: the last lower is given as an overlay of its own.

    `metacopy`: changes of metadata copy no data, or a lower holds such files.

    The kernel refuses a lower that contains another (ELOOP; ovl_check_layer() in fs/overlayfs/super.c), but not an
    overlay of it, which is another file system. Its whiteouts are lost, so this suits the last lower only.
    """
    user = plan.user
    layers = list(lowers)
    empty = _empty_layer(plan.stage) if upper < 0 or bottom_apart else -1
    if bottom_apart:
        layers[-1] = _apart(layers[-1], empty, plan)
    options = {"source": plan.source, "xino": "auto", "nfs_export": "off"}
    flags = []
    if user:
        flags.append("userxattr")
    else:
        options["redirect_dir"] = "on"
    if upper >= 0:
        has_index = not user and all(map(_has_handles, layers))
        # The kernel refuses each metacopy without the option, and makes some with it.
        metacopy = _check_upper(upper, work, user=user, has_index=has_index, metacopy=metacopy)
        options["index"] = "on" if has_index else "off"
        if plan.volatile:
            flags.append("volatile")
    else:
        layers.append(empty)  # without an upper the kernel takes two lowers at least
    options["metacopy"] = "on" if metacopy else "off"
    return _overlay(plan.stage, layers, upper, work, options, flags)


def _empty_layer(stage: str) -> int:
    _native.mount("empty", stage, "tmpfs", _MASK_FLAGS, _MASK_OPTIONS)
    return os.open(stage, _DIRECTORY)


def _apart(lower: int, empty: int, plan: Plan) -> int:
    """An overlay of one lower, attached to the stage: it has to belong to this mount namespace."""
    options = {"source": plan.source, "xino": "auto", "metacopy": "off", "nfs_export": "off"}
    flags = ["userxattr"] if plan.user else []
    made = _overlay(plan.stage, [lower, empty], -1, -1, options, flags)
    _attach(made, plan.stage)
    return made


def _attach(mount: int, stage: str) -> None:
    _native.move_mount(mount, b"", _native.AT_FDCWD, stage, _native.MOVE_MOUNT_F_EMPTY_PATH)


def _reopen(directory: int, path: str) -> int:
    """Open a directory, to which `path` led, in this mount namespace: overlayfs takes no mount of another one."""
    try:
        found = os.open(path, _DIRECTORY)
    except OSError as error:
        raise Failed("hidden", error.errno or errno.EIO, path) from error
    if not os.path.samestat(os.fstat(found), os.fstat(directory)):
        raise Failed("hidden", errno.ESTALE, path)
    return found


def _require_mapped_owner(lower: int) -> None:
    """Refuse a layer whose owner the user namespace does not map: its files would be nobody's, and read-only."""
    st = os.fstat(lower)
    for kind, number in (("uid", st.st_uid), ("gid", st.st_gid)):
        overflow = privilege.overflow_id(kind)
        mapped = any(
            inside <= overflow < inside + count for inside, _, count in privilege.extents(kind)
        )
        if number == overflow and not mapped:
            raise Failed("owner", errno.EPERM, os.readlink(f"/proc/self/fd/{lower}"))


def _check_lower(lower: int, plan: Plan) -> frozenset[str]:
    """Refuse a layer that was an upper and holds what this mount would not show. Returns: its features."""
    prefix, other = prefixes(user=plan.user)
    path = b"/proc/self/fd/%d" % lower
    shown = os.readlink(path).decode(errors="surrogateescape")
    if features.read(path, other):
        raise Failed("layer prefix", errno.EOPNOTSUPP, shown)
    recorded = features.read(path, prefix)
    for feature in sorted(recorded & _refused(user=plan.user) if recorded else ()):
        if feature == features.WHITEOUT_XATTR and _reads_whiteout_attributes(plan):
            continue
        raise Failed("layer feature", errno.EOPNOTSUPP, f"{shown}\0{feature}")
    return recorded or frozenset()


def _reads_whiteout_attributes(plan: Plan) -> bool:
    from overlaykit.views.whiteout_probe import reads_whiteout_attributes

    return reads_whiteout_attributes(plan.stage, user=plan.user)


def _refused(*, user: bool) -> set[str]:
    """The features that the mount does not show."""
    return {*_NEVER_SHOWN, features.REDIRECT, features.METACOPY} if user else {*_NEVER_SHOWN}


def _lock(upper: int) -> int:
    """Lock the upper against daemons and other views."""
    path = f"/proc/self/fd/{upper}"
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Failed("locked", errno.EBUSY, os.readlink(path)) from error
    return fd


def _check_upper(upper: int, work: int, *, user: bool, has_index: bool, metacopy: bool) -> bool:
    """Refuse an upper that holds what this mount would not show; begin its record, if it has none.

    `metacopy`: the mount may make metacopies. Returns: whether it makes and reads them, as the upper holds some.
    """
    prefix, other = prefixes(user=user)
    path = b"/proc/self/fd/%d" % upper
    shown = os.readlink(f"/proc/self/fd/{upper}")
    if attributes.xattr_or_none(path, other + b"impure") is not None:
        raise Failed("prefix", errno.EOPNOTSUPP, shown)
    recorded = features.read(path, prefix)
    found = recorded
    is_new = False
    if found is None:
        found = frozenset()
        if os.listdir(path):
            from overlaykit.overlay.uppers import find_features

            found = find_features(upper, work, prefix)
        else:
            is_new = True
    index = f"/proc/self/fd/{work}/index"
    if _names(index):  # the kernel's overlayfs makes no record
        found |= {features.INDEX}
    refused = _refused(user=user)
    if not has_index:
        refused.add(features.INDEX)
    for feature in sorted(refused & found):
        raise Failed("feature", errno.EOPNOTSUPP, f"{shown}\0{feature}")
    if has_index and features.INDEX not in found:
        # The kernel takes an upper with an index only over the same layers, and only in its place.
        _forget(path, prefix + b"origin")
        _forget(index, prefix + b"upper")
    _recover(upper, work)
    if metacopy:
        found |= {features.METACOPY}
    if found != recorded:
        try:
            if is_new:
                began.record(path, prefix)
            features.write(path, prefix, found)
        except OSError as error:
            raise Failed("attributes", error.errno or errno.EIO, shown) from error
    return features.METACOPY in found


def _has_handles(directory: int) -> bool:
    """Whether the index works for a layer: its file system gives its inodes handles."""
    try:
        # With no room for the handle: an empty struct file_handle.
        _native.name_to_handle_at(
            directory, b"", bytearray(256), bytearray(256), _native.AT_EMPTY_PATH
        )
    except OSError as error:
        return error.errno == errno.EOVERFLOW
    return True


def _recover(upper: int, work: int) -> None:
    """Restore modes that a daemon widened before it was killed."""
    if any(name.startswith(_WIDENED) for name in _names(f"/proc/self/fd/{work}/work")):
        from overlaykit.overlay.uppers import recover

        recover(upper, work)


def _names(directory: str) -> list[str]:
    """The names in a directory; none if it is missing."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _forget(path: bytes | str, attribute: bytes) -> None:
    """Remove an attribute, if it is there."""
    try:
        os.removexattr(path, attribute)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOENT, errno.EOPNOTSUPP):
            raise


def _overlay(
    stage: str,
    lowers: Sequence[int],
    upper: int,
    work: int,
    options: dict[str, str],
    flags: Sequence[str],
) -> int:
    """The overlay as a detached mount."""
    try:
        context = _native.fsopen("overlay", _native.FSOPEN_CLOEXEC)
    except OSError as error:
        raise Failed("overlayfs", error.errno or errno.EIO, "") from error
    directories = {} if upper < 0 else {"upperdir": upper, "workdir": work}
    try:
        for lower in lowers:
            _set(context, "lowerdir+", f"/proc/self/fd/{lower}")
        for key, directory in directories.items():
            _set(context, key, f"/proc/self/fd/{directory}")
        for key, value in options.items():
            _set(context, key, value)
        for flag in flags:
            _native.fsconfig(context, _native.FSCONFIG_SET_FLAG, flag, None)
        _native.fsconfig(context, _native.FSCONFIG_CMD_CREATE, None, None)
        return _native.fsmount(context, _native.FSMOUNT_CLOEXEC, _native.MOUNT_ATTR_NODEV)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise Failed("refused", error.errno or errno.EIO, "") from error
    finally:
        os.close(context)
    # Before Linux 6.8 there is no "lowerdir+" (Documentation/filesystems/overlayfs.rst). Before 6.5 fsconfig(2) takes
    # it all the same, and FSCONFIG_CMD_CREATE fails (legacy_parse_param() in fs/fs_context.c).
    try:
        return mount_by_list(stage, lowers, directories, options, flags)
    except OSError as error:
        raise Failed("refused", error.errno or errno.EIO, "") from error


def mount_by_list(
    stage: str,
    lowers: Sequence[int],
    directories: dict[str, int],
    options: dict[str, str],
    flags: Sequence[str],
) -> int:
    """The overlay as a detached mount, made with mount(2), whose options fit in a page. For Linux before 6.8.

    fsconfig(2) takes at most 255 bytes for a list of lowers. Paths by descriptor are short, and need no escapes.
    """
    given = dict(options)
    source = given.pop("source")
    given["lowerdir"] = ":".join(f"/proc/self/fd/{lower}" for lower in lowers)
    given |= {key: f"/proc/self/fd/{directory}" for key, directory in directories.items()}
    data = ",".join([*flags, *(f"{key}={value}" for key, value in given.items())])
    if len(data) >= os.sysconf("SC_PAGESIZE"):
        raise Failed("layers", errno.E2BIG, str(len(lowers)))
    _native.mount(source, stage, "overlay", _native.MS_NODEV, data)
    return _native.open_tree(_native.AT_FDCWD, stage, _CLONE)


def _set(context: int, key: str, value: str) -> None:
    _native.fsconfig(context, _native.FSCONFIG_SET_STRING, key, value)


def _masked(overlay: int, plan: Plan) -> int:
    """A copy of the mount, detached too, with an empty file system mounted on each path that is to be masked."""
    _native.move_mount(overlay, b"", _native.AT_FDCWD, plan.stage, _native.MOVE_MOUNT_F_EMPTY_PATH)
    for path in plan.masks:
        try:
            fd = _native.openat2(overlay, path.lstrip("/"), _DIRECTORY, 0, BENEATH)
        except OSError as error:
            # ELOOP: the upper or the work directory, which the kernel shows nothing of.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP):
                continue
            raise
        # Missing: the end of another view has just removed the directory.
        with suppress(FileNotFoundError):
            _native.mount("mask", f"/proc/self/fd/{fd}", "tmpfs", _MASK_FLAGS, _MASK_OPTIONS)
        os.close(fd)
    return _native.open_tree(overlay, b"", _CLONE | _native.AT_EMPTY_PATH | _native.AT_RECURSIVE)
