from __future__ import annotations

import os
import socket
import stat

import pytest

from overlaykit.layers import Store, StoredLayer
from overlaykit.layers.directory import DeviceNeedsRoot, StoreInside, UnreadableFile

from .conftest import User
from .trees import Entry, describe, populate


@pytest.fixture
def store(user: User) -> Store:
    return Store(user.path("store"))


def test_a_copied_directory_is_the_same_in_every_respect(user: User, store: Store) -> None:
    def copy() -> tuple[dict[str, Entry], dict[str, Entry], StoredLayer]:
        populate(user.path("src"), as_root=user.is_root)
        layer = store.add("one", f"dir:{user.path('src')}")
        return describe(user.path("src")), describe(layer.path), layer

    source, copied, layer = user.run(copy)
    assert copied == source
    assert layer.files == sum(not stat.S_ISDIR(entry.mode) for entry in source.values())
    assert layer.bytes == len(b"contents\n") + (8 << 20) + (1 << 20)
    assert copied["sparse"].blocks * 512 < 1 << 20


def test_an_ordinary_users_copy_is_the_users_own_and_gives_no_rights(
    user: User, store: Store
) -> None:
    def copy() -> os.stat_result:
        os.mkdir(user.path("src"))
        open(user.path("src/tool"), "w").close()
        os.chmod(user.path("src/tool"), 0o6755)
        return os.stat(os.path.join(store.add("one", f"dir:{user.path('src')}").path, "tool"))

    status = user.run(copy)
    assert status.st_uid == user.uid
    assert stat.S_IMODE(status.st_mode) == (0o6755 if user.is_root else 0o755)


def test_a_directory_of_another_owner_can_be_copied(user: User, store: Store) -> None:
    os.mkdir(user.path("src"))
    open(user.path("src/file"), "w").close()
    layer = user.run(lambda: store.add("one", f"dir:{user.path('src')}"))
    assert os.stat(os.path.join(layer.path, "file")).st_uid == user.uid


def test_a_socket_is_copied_as_one(user: User, store: Store) -> None:
    def copy() -> int:
        os.mkdir(user.path("src"))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(user.path("src/socket"))
        return os.lstat(
            os.path.join(store.add("one", f"dir:{user.path('src')}").path, "socket")
        ).st_mode

    assert stat.S_ISSOCK(user.run(copy))


def test_a_device_that_i_may_not_make_is_named_and_nothing_is_left(
    user: User, store: Store
) -> None:
    if user.is_root:
        os.mkdir(user.path("src"))
        os.mknod(user.path("src/device"), stat.S_IFBLK | 0o666, os.makedev(7, 0))
        assert user.run(lambda: store.add("one", f"dir:{user.path('src')}")).files == 1
        return
    with pytest.raises(DeviceNeedsRoot, match="'/dev/"):
        user.run(lambda: store.add("one", "dir:/dev"))
    assert os.listdir(user.path("store")) == []


def test_a_file_that_i_may_not_read_is_named_and_nothing_is_left(user: User, store: Store) -> None:
    def make() -> None:
        os.makedirs(user.path("src/a"))
        open(user.path("src/a/secret"), "w").close()
        os.chmod(user.path("src/a/secret"), 0)

    user.run(make)
    if user.is_root:
        assert user.run(lambda: store.add("one", f"dir:{user.path('src')}")).files == 1
        return
    with pytest.raises(UnreadableFile, match="src/a/secret"):
        user.run(lambda: store.add("one", f"dir:{user.path('src')}"))
    assert os.listdir(user.path("store")) == []


def test_a_directory_that_contains_the_store_is_refused(user: User, store: Store) -> None:
    with pytest.raises(StoreInside, match="contains the layer store"):
        user.run(lambda: store.add("one", f"dir:{user.home}"))
    assert os.listdir(user.path("store")) == []


def test_a_symbolic_link_to_a_directory_is_a_directory_to_copy(user: User, store: Store) -> None:
    def copy() -> StoredLayer:
        os.mkdir(user.path("src"))
        open(user.path("src/file"), "w").close()
        os.symlink("src", user.path("link"))
        return store.add("one", f"dir:{user.path('link')}")

    assert user.run(copy).files == 1
