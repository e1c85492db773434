"""What a daemon removes after its mount: the registry entry with its scratch, and directories that are empty then."""

from __future__ import annotations

import fcntl
import os

from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.fuse.spec import Cleanup

SERVER: Final = ".server"
"""The directory of the fork server in the registry, which is no entry."""

HOSTS: Final = "hosts"
"""The file of an entry that is the /etc/hosts of a view in a shared network (`views.network_hosts`)."""

LONGEST_HOSTS: Final = 1 << 20
"""Bytes; a longer file is the view's own affair."""


def held(cleanup: Cleanup) -> Cleanup:
    """The same with paths that lead there from any root directory: by descriptors, which stay open."""
    opened: dict[str, int] = {}

    def below_descriptor(path: str) -> str:
        directory, name = os.path.split(path)
        if not name:  # there is no such path
            return path
        try:
            if directory not in opened:
                opened[directory] = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # nothing can be removed there
            return path
        return f"/proc/self/fd/{opened[directory]}/{name}"

    return cleanup.replace(
        limited=tuple((below_descriptor(path), project) for path, project in cleanup.limited),
        trees=tuple(map(below_descriptor, cleanup.trees)),
        registry=below_descriptor(cleanup.registry),
        places=tuple(map(below_descriptor, cleanup.places)),
    )


def remove(cleanup: Cleanup) -> None:
    """End the limits, leave a shared network, remove the trees, then the registry and the places if they are empty.

    What cannot be removed stays; the next view removes it.
    """
    from overlaykit import projects  # not at each start of a view
    from overlaykit.rmtree import rmtree_path

    for path, project in cleanup.limited:
        projects.end_limit(path, project)
    if cleanup.member:
        leave_network(cleanup.registry, cleanup.member)
    for path in cleanup.trees:
        with suppress(OSError):
            rmtree_path(path)
    if cleanup.registry:
        remove_registry_if_empty(cleanup.registry, *cleanup.places)


def leave_network(registry: str, member: str) -> None:
    """Take the line of a member out of the files for /etc/hosts of all entries of a registry."""
    lock = lock_directory(registry, fcntl.LOCK_EX)
    if lock < 0:
        return
    try:
        for name in os.listdir(registry):
            with suppress(OSError):
                _remove_line(os.path.join(registry, name, HOSTS), os.fsencode(member))
    finally:
        os.close(lock)


def _remove_line(path: str, line: bytes) -> None:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        before, found, after = os.pread(file, LONGEST_HOSTS + 1, 0).partition(b"\n" + line)
        size = len(before) + 1 + len(after)
        if found and size + len(line) <= LONGEST_HOSTS:
            os.pwrite(file, before + b"\n" + after, 0)
            os.ftruncate(file, size)
    finally:
        os.close(file)


def remove_registry_if_empty(registry: str, *places: str) -> None:
    """Remove the registry's directory if it is empty, and, if it has no entry, those of `places` that are empty.

    Both stay while another process has the registry locked: to make an entry, or to remove the registry itself.
    """
    while True:
        lock = lock_directory(registry, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock < 0:
            return
        try:
            if _is_empty(registry):
                for path in (registry, *places):
                    with suppress(OSError):
                        os.rmdir(path)
                return
        finally:
            os.close(lock)
        # The last entry may have gone since: its process found the registry locked, and left the rest to this one.
        if not _is_empty(registry):
            return


def _is_empty(registry: str) -> bool:
    """Whether the registry is there and has no entry."""
    with suppress(FileNotFoundError):
        return os.listdir(registry) in ([], [SERVER])
    return False


def lock_directory(path: str, operation: int) -> int:
    """Lock a directory (flock(2)): a descriptor; -1 if another process has the lock, or the directory is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, operation)
    except BlockingIOError:
        os.close(fd)
        return -1
    return fd
