"""Set-ID bits and capabilities that the daemon clears: in the upper at once, and where they are kept in an attribute.

`tests/posix/behaviours/set_ids.py` compares the cases with the kernel's overlayfs.
"""

from __future__ import annotations

import errno
import os
import stat

from overlaykit.fuse.spec import MountOptions

from ..overlay.inside import as_root
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.behaviours.set_ids import append
from ..posix.behaviours.xattrs import CAPABILITY
from ..posix.files import read_file, write_file
from ..posix.processes import ALICE, BOB, run_as_user
from ..posix.table import File
from .mounted import mounted, only_with_open


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@only_with_open
@as_root
def test_a_write_that_is_never_written_back_has_cleared_the_rights_on_disk(stack: Stack) -> None:
    stack.add(
        {
            "f": File(b"old", mode=0o777, xattrs={"security.capability": CAPABILITY}),
            "g": File(b"old", mode=0o6777, uid=ALICE, gid=ALICE),
        }
    )
    upper = {name: os.path.join(stack.upper, name) for name in ("f", "g")}
    with mounted(stack, restart=False) as mount:
        f, g = (os.open(mount.path(name), os.O_WRONLY) for name in ("f", "g"))
        assert "security.capability" in os.listxattr(upper["f"])
        assert mode_of(upper["g"]) == 0o6777
        os.seteuid(BOB)  # another process would write back when it closes them
        os.write(f, b"new")
        os.write(g, b"new")
        os.seteuid(0)
        assert "security.capability" not in os.listxattr(upper["f"])
        assert mode_of(upper["g"]) == 0o777
        mount.process.kill()
        mount.process.wait_for_end()
        for fd in (f, g):
            with refused(errno.ENOTCONN):
                os.close(fd)
    assert read_file(upper["f"]) == b"old"
    assert "security.capability" not in os.listxattr(upper["f"])


@as_root
def test_bits_that_are_kept_in_an_attribute_are_cleared_there(stack: Stack) -> None:
    stack.add({name: File(b"xyz", mode=0o6777, uid=ALICE, gid=ALICE) for name in "fgh"})
    with mounted(stack, options=MountOptions(xattr_permissions=2)) as mount:
        os.chdir(mount.target)  # only root reaches it by its path
        append("f")
        assert mode_of("f") == 0o6777
        run_as_user(BOB, lambda: append("f"))
        run_as_user(BOB, lambda: os.truncate("g", 1))
        os.chown(mount.path("h"), BOB, BOB)
        assert [mode_of(name) for name in "fgh"] == [0o777] * 3
        os.chdir("/")
    with mounted(stack, options=MountOptions(xattr_permissions=2)) as mount:
        assert [mode_of(mount.path(name)) for name in "fgh"] == [0o777] * 3


@as_root
def test_a_file_that_the_data_plane_has_made_loses_its_bits_to_another_users_write(
    stack: Stack,
) -> None:
    stack.add({})
    with mounted(stack) as mount:
        os.mkdir(mount.path("d"))
        for name in ("first", "f", "g"):
            write_file(mount.path(f"d/{name}"), b"xyz")
            os.chmod(mount.path(f"d/{name}"), 0o6777)
        os.chdir(mount.path("d"))  # only root reaches it by its path
        run_as_user(BOB, lambda: append("f"))
        run_as_user(BOB, lambda: os.truncate("g", 1))
        assert [mode_of(name) for name in ("first", "f", "g")] == [0o6777, 0o777, 0o777]
        os.chdir("/")
        mount.forget()
        assert [mode_of(mount.path(f"d/{name}")) for name in "fg"] == [0o777] * 2
    assert [mode_of(os.path.join(stack.upper, "d", name)) for name in "fg"] == [0o777] * 2


def test_nobody_keeps_set_id_bits_who_lacks_the_capability_on_the_host(stack: Stack) -> None:
    """Root of a user namespace does (capable(CAP_FSETID) is of the initial one); root does not."""
    stack.add({"f": File(b"x", mode=0o6777), "g": File(b"x" * 10, mode=0o6777)})
    with mounted(stack) as mount:
        append(mount.path("f"), 2)
        os.truncate(mount.path("g"), 1)
        kept = 0o777 if stack.unprivileged else 0o6777
        assert [mode_of(mount.path(name)) for name in "fg"] == [kept] * 2
    assert [mode_of(os.path.join(stack.upper, name)) for name in "fg"] == [kept] * 2
