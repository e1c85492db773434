from __future__ import annotations

import os
from functools import partial

import pytest

from overlaykit.layers import Layer, Store, resolve
from overlaykit.layers.checks import MissingDirectory, NotADirectory, UnreadableDirectory
from overlaykit.layers.store import BadLayerName, UnknownLayer

from .conftest import User


@pytest.fixture
def store(user: User) -> Store:
    return Store(user.path("store"))


def test_host_is_the_hosts_root(user: User, store: Store) -> None:
    assert user.run(lambda: resolve("host", store)).recursive


@pytest.mark.parametrize("text", ["dir:{}", "{}"])
def test_a_directory_is_a_layer_of_itself(user: User, store: Store, text: str) -> None:
    layer = user.run(lambda: resolve(text.format(user.home), store))
    assert layer == Layer(name=user.home, path=user.home)


def test_a_relative_directory_becomes_absolute(user: User, store: Store) -> None:
    def relative() -> Layer:
        os.chdir(user.home)
        return resolve("./", store)

    assert user.run(relative).path == user.home


def test_a_stored_layer_is_found_by_its_name(user: User, store: Store) -> None:
    user.run(lambda: (os.mkdir(user.path("src")), store.add("mine", f"dir:{user.path('src')}")))
    layer = user.run(lambda: resolve("mine", store))
    assert layer == Layer(name="mine", path=user.path("store/mine/tree"))


def test_a_name_mistyped_is_answered_with_the_name_meant(user: User, store: Store) -> None:
    user.run(lambda: (os.mkdir(user.path("src")), store.add("python27", f"dir:{user.path('src')}")))
    with pytest.raises(UnknownLayer, match=r"no layer pyhton27 \(did you mean python27\?\)"):
        user.run(lambda: resolve("pyhton27", store))


def test_what_is_no_directory_is_said_in_one_line(user: User, store: Store) -> None:
    user.run(lambda: open(user.path("file"), "w").close())
    for path, error in (
        ("absent", MissingDirectory),
        ("file", NotADirectory),
        ("file/below", NotADirectory),
    ):
        with pytest.raises(error, match=user.path(path)) as caught:
            user.run(partial(resolve, user.path(path), store))
        assert "\n" not in str(caught.value)


def test_a_directory_that_i_may_not_read_is_refused(user: User, store: Store) -> None:
    user.run(lambda: os.mkdir(user.path("closed"), 0o300))
    # Root may read every directory.
    if user.is_root:
        assert user.run(lambda: resolve(user.path("closed"), store)).path == user.path("closed")
        return
    with pytest.raises(UnreadableDirectory, match="closed"):
        user.run(lambda: resolve(user.path("closed"), store))


@pytest.mark.parametrize("name", ["..", ".", "Upper", "a b", "", "-x", "a" * 65, "a\n"])
def test_what_cannot_be_a_name_is_refused(user: User, store: Store, name: str) -> None:
    with pytest.raises(BadLayerName):
        user.run(lambda: resolve(name, store))
