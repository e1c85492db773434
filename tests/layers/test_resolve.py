from __future__ import annotations

import os
from functools import partial

import pytest

from overlaykit.layers import Layer, Store, resolve
from overlaykit.layers.directory import MissingDirectory, NotADirectory, UnreadableDirectory
from overlaykit.layers.store import BadLayerName, UnknownLayer

from .conftest import Person


@pytest.fixture
def store(me: Person) -> Store:
    return Store(me.path("store"))


def test_host_is_the_hosts_root(me: Person, store: Store) -> None:
    assert me.run(lambda: resolve("host", store)).recursive


@pytest.mark.parametrize("text", ["dir:{}", "{}"])
def test_a_directory_is_a_layer_of_itself(me: Person, store: Store, text: str) -> None:
    layer = me.run(lambda: resolve(text.format(me.home), store))
    assert layer == Layer(name=me.home, path=me.home)


def test_a_relative_directory_becomes_absolute(me: Person, store: Store) -> None:
    def relative() -> Layer:
        os.chdir(me.home)
        return resolve("./", store)

    assert me.run(relative).path == me.home


def test_a_stored_layer_is_found_by_its_name(me: Person, store: Store) -> None:
    me.run(lambda: (os.mkdir(me.path("src")), store.add("mine", f"dir:{me.path('src')}")))
    layer = me.run(lambda: resolve("mine", store))
    assert layer == Layer(name="mine", path=me.path("store/mine/tree"))


def test_a_name_mistyped_is_answered_with_the_name_meant(me: Person, store: Store) -> None:
    me.run(lambda: (os.mkdir(me.path("src")), store.add("python27", f"dir:{me.path('src')}")))
    with pytest.raises(UnknownLayer, match=r"no layer pyhton27 \(did you mean python27\?\)"):
        me.run(lambda: resolve("pyhton27", store))


def test_what_is_no_directory_is_said_in_one_line(me: Person, store: Store) -> None:
    me.run(lambda: open(me.path("file"), "w").close())
    for path, error in (
        ("absent", MissingDirectory),
        ("file", NotADirectory),
        ("file/below", NotADirectory),
    ):
        with pytest.raises(error, match=me.path(path)) as caught:
            me.run(partial(resolve, me.path(path), store))
        assert "\n" not in str(caught.value)


def test_a_directory_that_i_may_not_read_is_refused(me: Person, store: Store) -> None:
    me.run(lambda: os.mkdir(me.path("closed"), 0o300))
    if me.is_root:  # who may read every directory
        assert me.run(lambda: resolve(me.path("closed"), store)).path == me.path("closed")
        return
    with pytest.raises(UnreadableDirectory, match="closed"):
        me.run(lambda: resolve(me.path("closed"), store))


@pytest.mark.parametrize("name", ["..", ".", "Upper", "a b", "", "-x", "a" * 65, "a\n"])
def test_what_cannot_be_a_name_is_refused(me: Person, store: Store, name: str) -> None:
    with pytest.raises(BadLayerName):
        me.run(lambda: resolve(name, store))
