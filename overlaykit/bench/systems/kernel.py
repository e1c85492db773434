"""The kernel's own overlayfs."""

from __future__ import annotations

import contextlib
import errno
import os

from overlaykit import _native, privilege
from overlaykit.bench.systems.mounting import Directories, Mounting, Uncounted
from overlaykit.bench.workload import Unfit


class Kernel(Mounting):
    """The kernel's overlayfs. Source of the options: Documentation/filesystems/overlayfs.rst."""

    name = "kernel"

    def __init__(self) -> None:
        # In a user namespace the kernel stores overlay markers as user.overlay.* only.
        self._options = "redirect_dir=on" if _is_initial_user_namespace() else "userxattr"
        self.what = (
            f"mount -t overlay -o {self._options},lowerdir={{lower}},upperdir={{upper}},"
            "workdir={work} overlay {target}"
        )

    def mount(self, directories: Directories) -> Uncounted:
        with contextlib.ExitStack() as opened:

            def short(path: str) -> str:
                """A path by descriptor: a hundred full paths exceed the page of data that mount(2) takes."""
                descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.callback(os.close, descriptor)
                return f"/proc/self/fd/{descriptor}"

            lowers = ":".join(map(short, directories.lowers))
            data = (
                f"{self._options},lowerdir={lowers},upperdir={short(directories.upper)},"
                f"workdir={short(directories.work)}"
            )
            try:
                _native.mount("overlay", directories.target, "overlay", 0, data)
            except PermissionError as error:
                raise Unfit(
                    "takes root: run as root, or in 'unshare --user --map-root-user --mount'"
                ) from error
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                raise Unfit("this kernel has no overlayfs: 'modprobe overlay' as root") from error
        return Uncounted(directories.target)


def _is_initial_user_namespace() -> bool:
    """Where every user is mapped to itself (user_namespaces(7))."""
    return privilege.extents("uid") == ((0, 0, privilege.ALL_IDS),)
