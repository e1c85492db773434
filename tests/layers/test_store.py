from __future__ import annotations

import errno
import io
import json
import os
import stat
import tarfile
import time

import pytest

from overlaykit import _native
from overlaykit.layers import Store
from overlaykit.layers.checks import MissingDirectory
from overlaykit.layers.source import BadSource
from overlaykit.layers.store import BadLayerName, DamagedLayer, LayerBusy, LayerExists, UnknownLayer

from .conftest import User
from .gate import Gate


@pytest.fixture
def store(user: User) -> Store:
    return Store(user.path("store"))


@pytest.fixture
def source(user: User) -> str:
    def make() -> None:
        os.mkdir(user.path("src"))
        with open(user.path("src/file"), "w") as file:
            file.write("contents")

    user.run(make)
    return f"dir:{user.path('src')}"


def archive() -> bytes:
    """A tar archive with one file, in the middle of which is half of the archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = 1 << 20
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    return packed.getvalue()


def test_what_was_added_is_there_for_every_process(user: User, store: Store, source: str) -> None:
    before = time.time_ns()
    added = user.run(lambda: store.add("one", source))
    assert (added.name, added.path) == ("one", user.path("store/one/tree"))
    assert (added.source, added.bytes, added.files) == (source, 8, 1)
    assert before <= added.created <= time.time_ns()
    assert user.run(lambda: Store(user.path("store")).get("one")) == added
    assert user.run(store.list) == (added,)
    with open(user.path("store/one/tree/file")) as file:
        assert file.read() == "contents"


def test_a_store_that_does_not_exist_yet_is_empty(user: User, store: Store) -> None:
    assert user.run(store.list) == ()
    with pytest.raises(UnknownLayer):
        user.run(lambda: store.remove("one"))


def test_layers_are_listed_by_name(user: User, store: Store, source: str) -> None:
    user.run(lambda: [store.add(name, source) for name in ("b", "c", "a")])
    assert [layer.name for layer in user.run(store.list)] == ["a", "b", "c"]


def test_a_layer_is_never_replaced(user: User, store: Store, source: str) -> None:
    added = user.run(lambda: store.add("one", source))
    with pytest.raises(LayerExists, match=r"already a layer one\b"):
        user.run(lambda: store.add("one", source))
    assert user.run(lambda: store.get("one")) == added


@pytest.mark.parametrize("name", ["host", "..", ".tmp-1", "a/b", "", "A", "a" * 65])
def test_a_name_that_could_mean_something_else_is_refused(
    user: User, store: Store, source: str, name: str
) -> None:
    with pytest.raises(BadLayerName):
        user.run(lambda: store.add(name, source))
    with pytest.raises(BadLayerName):
        user.run(lambda: store.remove(name))


@pytest.mark.parametrize("text", ["", "dir", "dir:", "/usr", "oci:alpine", "python2.7@bullseye"])
def test_a_source_that_is_none_is_answered_with_what_is_one(
    user: User, store: Store, text: str
) -> None:
    with pytest.raises(BadSource, match="dir:PATH, tar:PATH or deb:PACKAGE"):
        user.run(lambda: store.add("one", text))


def test_a_missing_source_leaves_nothing_in_the_store(user: User, store: Store) -> None:
    with pytest.raises(MissingDirectory):
        user.run(lambda: store.add("one", f"dir:{user.path('absent')}"))
    assert user.run(store.list) == ()


def test_a_removed_layer_is_gone_from_the_disk(user: User, store: Store, source: str) -> None:
    user.run(lambda: (store.add("one", source), store.remove("one")))
    assert os.listdir(user.path("store")) == []


@pytest.mark.parametrize("mode", [0o555, 0o311, 0o000])
def test_removing_copes_with_directories_that_may_not_be_used(
    user: User, store: Store, mode: int
) -> None:
    def add() -> None:
        path = user.path("src")
        os.makedirs(os.path.join(path, "a/below"))
        open(os.path.join(path, "a/file"), "w").close()
        with open(user.path("src.tar"), "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(path, ".", filter=with_mode)
        store.add("one", f"tar:{user.path('src.tar')}")

    def with_mode(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mode = mode
        return info

    user.run(add)
    assert stat.S_IMODE(os.stat(user.path("store/one/tree/a")).st_mode) == mode
    user.run(lambda: store.remove("one"))
    assert os.listdir(user.path("store")) == []


def test_removing_never_follows_a_symbolic_link(user: User, store: Store) -> None:
    def add() -> None:
        os.makedirs(user.path("src/sub"))
        os.mkdir(user.path("precious"))
        open(user.path("precious/file"), "w").close()
        os.symlink(user.path("precious"), user.path("src/link"))
        os.symlink("../../../../precious", user.path("src/sub/link"))
        store.add("one", f"dir:{user.path('src')}")
        store.remove("one")

    user.run(add)
    assert os.listdir(user.path("precious")) == ["file"]
    assert os.listdir(user.path("store")) == []


def test_removing_copes_with_a_tree_deeper_than_a_path_may_be_long(
    user: User, store: Store
) -> None:
    depth = 2000  # of one-letter names: beneath the limit of a name in an archive, above it with the store's path

    def add() -> None:
        with open(user.path("deep.tar"), "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("/".join("d" * depth)))
        store.add("deep", f"tar:{user.path('deep.tar')}")
        store.remove("deep")

    user.run(add)
    assert os.listdir(user.path("store")) == []


def test_a_layer_in_use_is_not_removed(user: User, store: Store, source: str) -> None:
    layer = user.run(lambda: store.add("one", source))
    with layer.hold(), layer.hold():
        with pytest.raises(LayerBusy, match="layer one is used by a running view"):
            user.run(lambda: store.remove("one"))
        assert user.run(lambda: store.get("one")) == layer
    user.run(lambda: store.remove("one"))
    with pytest.raises(UnknownLayer):
        layer.hold()


def test_a_hold_ends_with_the_process_that_has_it(user: User, store: Store, source: str) -> None:
    layer = user.run(lambda: store.add("one", source))
    ready, say_ready = os.pipe()
    never, keep_open = os.pipe()

    def holder() -> None:
        hold = layer.hold()
        os.write(say_ready, b".")
        os.close(keep_open)
        os.read(never, 1)
        hold.close()

    child = user.start(holder)
    os.read(ready, 1)
    with pytest.raises(LayerBusy):
        user.run(lambda: store.remove("one"))
    child.kill()
    user.run(lambda: store.remove("one"))
    for fd in (ready, say_ready, never, keep_open):
        os.close(fd)


def test_what_a_killed_add_left_is_cleared_by_the_next(
    user: User, store: Store, source: str
) -> None:
    with Gate(user.home, archive()) as gate:
        killed = user.start(lambda: (gate.enter(), store.add("one", gate.source)))
        gate.wait()
        killed.kill()
    (left,) = os.listdir(user.path("store"))
    assert left.startswith(".tmp-")
    assert user.run(store.list) == ()
    user.run(lambda: store.add("two", source))
    assert os.listdir(user.path("store")) == ["two"]


def test_an_add_leaves_another_that_is_still_at_work_alone(
    user: User, store: Store, source: str
) -> None:
    with Gate(user.home, archive()) as gate:
        slow = user.start(lambda: (gate.enter(), store.add("slow", gate.source)))
        gate.wait()
        user.run(lambda: (store.add("quick", source), store.remove("quick")))
        gate.let_through()
        slow.result()
    assert os.listdir(user.path("store")) == ["slow"]
    assert user.run(lambda: store.get("slow")).bytes == 1 << 20


def test_of_two_adds_of_one_name_one_wins_and_the_other_says_so(user: User, store: Store) -> None:
    with Gate(user.home, archive(), writers=2) as gate:
        both = [user.start(lambda: (gate.enter(), store.add("one", gate.source))) for _ in range(2)]
        gate.wait()
        gate.let_through()
        outcomes = []
        for child in both:
            try:
                child.result()
                outcomes.append("made")
            except LayerExists:
                outcomes.append("exists")
    assert sorted(outcomes) == ["exists", "made"]
    assert os.listdir(user.path("store")) == ["one"]
    assert user.run(lambda: store.get("one")).files == 1


def test_a_full_disk_leaves_the_store_as_it_was(user: User) -> None:
    def fill() -> tuple[int | None, list[str]]:
        os.mkdir(user.path("small"))
        _native.mount("tmpfs", user.path("small"), "tmpfs", 0, "size=256k")
        with open(user.path("big.tar"), "wb") as file:
            file.write(archive())
        try:
            Store(user.path("small/store")).add("one", f"tar:{user.path('big.tar')}")
        except OSError as error:
            return error.errno, os.listdir(user.path("small/store"))
        return None, []

    assert user.run_among_own_mounts(fill) == (errno.ENOSPC, [])


def test_a_damaged_layer_says_so_and_can_be_removed(user: User, store: Store, source: str) -> None:
    user.run(lambda: store.add("one", source))
    user.run(lambda: open(user.path("store/one/layer.json"), "w").close())
    with pytest.raises(DamagedLayer, match="layer rm one"):
        user.run(store.list)
    user.run(lambda: store.remove("one"))
    assert user.run(store.list) == ()


def test_what_is_known_of_a_layer_is_plain_json(user: User, store: Store, source: str) -> None:
    added = user.run(lambda: store.add("one", source))
    with open(user.path("store/one/layer.json")) as file:
        record = json.load(file)
    assert record == {
        "type": "LayerRecord",
        "format": 1,
        "source": source,
        "created": added.created,
        "bytes": 8,
        "files": 1,
    }


def test_the_default_store_is_where_xdg_says(user: User) -> None:
    def roots() -> list[str]:
        found = []
        for value in (user.path("data"), "relative", ""):
            os.environ["XDG_DATA_HOME"] = value
            found.append(Store().root)
        return found

    default = user.path(".local/share/overlaykit/layers")
    assert user.run(roots) == [user.path("data/overlaykit/layers"), default, default]
