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
from overlaykit.layers.directory import MissingDirectory
from overlaykit.layers.source import BadSource
from overlaykit.layers.store import BadLayerName, DamagedLayer, LayerBusy, LayerExists, UnknownLayer

from .conftest import Person
from .gate import Gate


@pytest.fixture
def store(me: Person) -> Store:
    return Store(me.path("store"))


@pytest.fixture
def source(me: Person) -> str:
    def make() -> None:
        os.mkdir(me.path("src"))
        with open(me.path("src/file"), "w") as file:
            file.write("contents")

    me.run(make)
    return f"dir:{me.path('src')}"


def archive() -> bytes:
    """A tar archive whose half is well inside its one file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = 1 << 20
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    return packed.getvalue()


def test_what_was_added_is_there_for_every_process(me: Person, store: Store, source: str) -> None:
    before = time.time_ns()
    added = me.run(lambda: store.add("one", source))
    assert (added.name, added.path) == ("one", me.path("store/one/tree"))
    assert (added.source, added.bytes, added.files) == (source, 8, 1)
    assert before <= added.created <= time.time_ns()
    assert me.run(lambda: Store(me.path("store")).get("one")) == added
    assert me.run(store.list) == (added,)
    with open(me.path("store/one/tree/file")) as file:
        assert file.read() == "contents"


def test_a_store_that_does_not_exist_yet_is_empty(me: Person, store: Store) -> None:
    assert me.run(store.list) == ()
    with pytest.raises(UnknownLayer):
        me.run(lambda: store.remove("one"))


def test_layers_are_listed_by_name(me: Person, store: Store, source: str) -> None:
    me.run(lambda: [store.add(name, source) for name in ("b", "c", "a")])
    assert [layer.name for layer in me.run(store.list)] == ["a", "b", "c"]


def test_a_layer_is_never_replaced(me: Person, store: Store, source: str) -> None:
    added = me.run(lambda: store.add("one", source))
    with pytest.raises(LayerExists, match=r"already a layer one\b"):
        me.run(lambda: store.add("one", source))
    assert me.run(lambda: store.get("one")) == added


@pytest.mark.parametrize("name", ["host", "..", ".tmp-1", "a/b", "", "A", "a" * 65])
def test_a_name_that_could_mean_something_else_is_refused(
    me: Person, store: Store, source: str, name: str
) -> None:
    with pytest.raises(BadLayerName):
        me.run(lambda: store.add(name, source))
    with pytest.raises(BadLayerName):
        me.run(lambda: store.remove(name))


@pytest.mark.parametrize("text", ["", "dir", "dir:", "/usr", "oci:alpine", "python2.7@bullseye"])
def test_a_source_that_is_none_is_answered_with_what_is_one(
    me: Person, store: Store, text: str
) -> None:
    with pytest.raises(BadSource, match="dir:PATH, tar:PATH or deb:PACKAGE"):
        me.run(lambda: store.add("one", text))


def test_a_missing_source_leaves_nothing_in_the_store(me: Person, store: Store) -> None:
    with pytest.raises(MissingDirectory):
        me.run(lambda: store.add("one", f"dir:{me.path('absent')}"))
    assert me.run(store.list) == ()


def test_a_removed_layer_is_gone_from_the_disk(me: Person, store: Store, source: str) -> None:
    me.run(lambda: (store.add("one", source), store.remove("one")))
    assert os.listdir(me.path("store")) == []


@pytest.mark.parametrize("mode", [0o555, 0o311, 0o000])
def test_removing_copes_with_directories_that_may_not_be_used(
    me: Person, store: Store, mode: int
) -> None:
    def add() -> None:
        path = me.path("src")
        os.makedirs(os.path.join(path, "a/below"))
        open(os.path.join(path, "a/file"), "w").close()
        with open(me.path("src.tar"), "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(path, ".", filter=with_mode)
        store.add("one", f"tar:{me.path('src.tar')}")

    def with_mode(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mode = mode
        return info

    me.run(add)
    assert stat.S_IMODE(os.stat(me.path("store/one/tree/a")).st_mode) == mode
    me.run(lambda: store.remove("one"))
    assert os.listdir(me.path("store")) == []


def test_removing_never_follows_a_symbolic_link(me: Person, store: Store) -> None:
    def add() -> None:
        os.makedirs(me.path("src/sub"))
        os.mkdir(me.path("precious"))
        open(me.path("precious/file"), "w").close()
        os.symlink(me.path("precious"), me.path("src/link"))
        os.symlink("../../../../precious", me.path("src/sub/link"))
        store.add("one", f"dir:{me.path('src')}")
        store.remove("one")

    me.run(add)
    assert os.listdir(me.path("precious")) == ["file"]
    assert os.listdir(me.path("store")) == []


def test_removing_copes_with_a_tree_deeper_than_a_path_may_be_long(
    me: Person, store: Store
) -> None:
    depth = 2000  # of one-letter names: beneath the limit of a name in an archive, above it with the store's path

    def add() -> None:
        with open(me.path("deep.tar"), "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("/".join("d" * depth)))
        store.add("deep", f"tar:{me.path('deep.tar')}")
        store.remove("deep")

    me.run(add)
    assert os.listdir(me.path("store")) == []


def test_a_layer_in_use_is_not_removed(me: Person, store: Store, source: str) -> None:
    layer = me.run(lambda: store.add("one", source))
    with layer.hold(), layer.hold():
        with pytest.raises(LayerBusy, match="layer one is used by a running view"):
            me.run(lambda: store.remove("one"))
        assert me.run(lambda: store.get("one")) == layer
    me.run(lambda: store.remove("one"))
    with pytest.raises(UnknownLayer):
        layer.hold()


def test_a_hold_ends_with_the_process_that_has_it(me: Person, store: Store, source: str) -> None:
    layer = me.run(lambda: store.add("one", source))
    ready, say_ready = os.pipe()
    never, keep_open = os.pipe()

    def holder() -> None:
        hold = layer.hold()
        os.write(say_ready, b".")
        os.close(keep_open)
        os.read(never, 1)
        hold.close()

    child = me.start(holder)
    os.read(ready, 1)
    with pytest.raises(LayerBusy):
        me.run(lambda: store.remove("one"))
    child.kill()
    me.run(lambda: store.remove("one"))
    for fd in (ready, say_ready, never, keep_open):
        os.close(fd)


def test_what_a_killed_add_left_is_cleared_by_the_next(
    me: Person, store: Store, source: str
) -> None:
    with Gate(me.home, archive()) as gate:
        killed = me.start(lambda: (gate.enter(), store.add("one", gate.source)))
        gate.wait()
        killed.kill()
    (left,) = os.listdir(me.path("store"))
    assert left.startswith(".tmp-")
    assert me.run(store.list) == ()
    me.run(lambda: store.add("two", source))
    assert os.listdir(me.path("store")) == ["two"]


def test_an_add_leaves_another_that_is_still_at_work_alone(
    me: Person, store: Store, source: str
) -> None:
    with Gate(me.home, archive()) as gate:
        slow = me.start(lambda: (gate.enter(), store.add("slow", gate.source)))
        gate.wait()
        me.run(lambda: (store.add("quick", source), store.remove("quick")))
        gate.let_through()
        slow.result()
    assert os.listdir(me.path("store")) == ["slow"]
    assert me.run(lambda: store.get("slow")).bytes == 1 << 20


def test_of_two_adds_of_one_name_one_wins_and_the_other_says_so(me: Person, store: Store) -> None:
    with Gate(me.home, archive(), writers=2) as gate:
        both = [me.start(lambda: (gate.enter(), store.add("one", gate.source))) for _ in range(2)]
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
    assert os.listdir(me.path("store")) == ["one"]
    assert me.run(lambda: store.get("one")).files == 1


def test_a_full_disk_leaves_the_store_as_it_was(me: Person) -> None:
    def fill() -> tuple[int | None, list[str]]:
        os.mkdir(me.path("small"))
        _native.mount("tmpfs", me.path("small"), "tmpfs", 0, "size=256k")
        with open(me.path("big.tar"), "wb") as file:
            file.write(archive())
        try:
            Store(me.path("small/store")).add("one", f"tar:{me.path('big.tar')}")
        except OSError as error:
            return error.errno, os.listdir(me.path("small/store"))
        return None, []

    assert me.run_among_own_mounts(fill) == (errno.ENOSPC, [])


def test_a_damaged_layer_says_so_and_can_be_removed(me: Person, store: Store, source: str) -> None:
    me.run(lambda: store.add("one", source))
    me.run(lambda: open(me.path("store/one/layer.json"), "w").close())
    with pytest.raises(DamagedLayer, match="layer rm one"):
        me.run(store.list)
    me.run(lambda: store.remove("one"))
    assert me.run(store.list) == ()


def test_what_is_known_of_a_layer_is_plain_json(me: Person, store: Store, source: str) -> None:
    added = me.run(lambda: store.add("one", source))
    with open(me.path("store/one/layer.json")) as file:
        record = json.load(file)
    assert record == {
        "format": 1,
        "source": source,
        "created": added.created,
        "bytes": 8,
        "files": 1,
    }


def test_the_default_store_is_where_xdg_says(me: Person) -> None:
    def roots() -> list[str]:
        found = []
        for value in (me.path("data"), "relative", ""):
            os.environ["XDG_DATA_HOME"] = value
            found.append(Store().root)
        return found

    default = me.path(".local/share/overlaykit/layers")
    assert me.run(roots) == [me.path("data/overlaykit/layers"), default, default]
