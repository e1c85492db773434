from __future__ import annotations

import os
import socket
import stat

import pytest

from overlaykit.layers import Store, StoredLayer
from overlaykit.layers.directory import DeviceNeedsRoot, StoreInside, UnreadableFile

from .conftest import Person
from .trees import Entry, describe, populate


@pytest.fixture
def store(me: Person) -> Store:
    return Store(me.path("store"))


def test_a_copied_directory_is_the_same_in_every_respect(me: Person, store: Store) -> None:
    def copy() -> tuple[dict[str, Entry], dict[str, Entry], StoredLayer]:
        populate(me.path("src"), as_root=me.is_root)
        layer = store.add("one", f"dir:{me.path('src')}")
        return describe(me.path("src")), describe(layer.path), layer

    source, copied, layer = me.run(copy)
    assert copied == source
    assert layer.files == sum(not stat.S_ISDIR(entry.mode) for entry in source.values())
    assert layer.bytes == len(b"contents\n") + (8 << 20) + (1 << 20)
    assert copied["sparse"].blocks * 512 < 1 << 20


def test_an_ordinary_users_copy_is_the_users_own_and_gives_nobody_rights(
    me: Person, store: Store
) -> None:
    def copy() -> os.stat_result:
        os.mkdir(me.path("src"))
        open(me.path("src/tool"), "w").close()
        os.chmod(me.path("src/tool"), 0o6755)
        return os.stat(os.path.join(store.add("one", f"dir:{me.path('src')}").path, "tool"))

    status = me.run(copy)
    assert status.st_uid == me.uid
    assert stat.S_IMODE(status.st_mode) == (0o6755 if me.is_root else 0o755)


def test_a_directory_of_another_owner_can_be_copied(me: Person, store: Store) -> None:
    os.mkdir(me.path("src"))
    open(me.path("src/file"), "w").close()
    layer = me.run(lambda: store.add("one", f"dir:{me.path('src')}"))
    assert os.stat(os.path.join(layer.path, "file")).st_uid == me.uid


def test_a_socket_is_copied_as_one(me: Person, store: Store) -> None:
    def copy() -> int:
        os.mkdir(me.path("src"))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(me.path("src/socket"))
        return os.lstat(
            os.path.join(store.add("one", f"dir:{me.path('src')}").path, "socket")
        ).st_mode

    assert stat.S_ISSOCK(me.run(copy))


def test_a_device_that_i_may_not_make_is_named_and_nothing_is_left(
    me: Person, store: Store
) -> None:
    if me.is_root:
        os.mkdir(me.path("src"))
        os.mknod(me.path("src/device"), stat.S_IFBLK | 0o666, os.makedev(7, 0))
        assert me.run(lambda: store.add("one", f"dir:{me.path('src')}")).files == 1
        return
    with pytest.raises(DeviceNeedsRoot, match="'/dev/"):
        me.run(lambda: store.add("one", "dir:/dev"))
    assert os.listdir(me.path("store")) == []


def test_a_file_that_i_may_not_read_is_named_and_nothing_is_left(me: Person, store: Store) -> None:
    def make() -> None:
        os.makedirs(me.path("src/a"))
        open(me.path("src/a/secret"), "w").close()
        os.chmod(me.path("src/a/secret"), 0)

    me.run(make)
    if me.is_root:
        assert me.run(lambda: store.add("one", f"dir:{me.path('src')}")).files == 1
        return
    with pytest.raises(UnreadableFile, match="src/a/secret"):
        me.run(lambda: store.add("one", f"dir:{me.path('src')}"))
    assert os.listdir(me.path("store")) == []


def test_a_directory_that_contains_the_store_is_refused(me: Person, store: Store) -> None:
    with pytest.raises(StoreInside, match="contains the layer store"):
        me.run(lambda: store.add("one", f"dir:{me.home}"))
    assert os.listdir(me.path("store")) == []


def test_a_symbolic_link_to_a_directory_is_a_directory_to_copy(me: Person, store: Store) -> None:
    def copy() -> StoredLayer:
        os.mkdir(me.path("src"))
        open(me.path("src/file"), "w").close()
        os.symlink("src", me.path("link"))
        return store.add("one", f"dir:{me.path('link')}")

    assert me.run(copy).files == 1
