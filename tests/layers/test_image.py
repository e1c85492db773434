"""Container images are refused: a layer of manifests and blobs would be useless."""

from __future__ import annotations

import json
import os
import tarfile

import pytest

from overlaykit.layers import Store, resolve
from overlaykit.layers.image import ImageNotTree

from .conftest import User

IMAGES: dict[str, dict[str, object]] = {
    "oci": {"oci-layout": {"imageLayoutVersion": "1.0.0"}, "index.json": {"manifests": []}},
    "docker": {"manifest.json": [{"Config": "c.json", "Layers": ["l/layer.tar"]}], "c.json": {}},
    "dir": {"manifest.json": {"schemaVersion": 2, "config": {}, "layers": []}},
}
"""The files that identify each kind, as `skopeo copy` makes them: oci:, docker-archive:, dir:."""


def write(directory: str, files: dict[str, object]) -> None:
    os.mkdir(directory)
    for name, content in files.items():
        with open(os.path.join(directory, name), "w") as file:
            json.dump(content, file)


@pytest.fixture
def store(user: User) -> Store:
    return Store(user.path("store"))


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_makes_no_layer_of_blobs(user: User, store: Store, kind: str) -> None:
    directory, archive = user.path("image"), user.path("image.tar.gz")

    def add(source: str) -> None:
        write(directory, IMAGES[kind])
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(directory, ".")
        store.add("one", source)

    with pytest.raises(ImageNotTree, match="not a file tree") as caught:
        user.run(lambda: add(f"tar:{archive}"))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"tar:{archive} is ")
    assert os.listdir(store.root) == []
    with pytest.raises(ImageNotTree):
        user.run(lambda: store.add("one", f"dir:{directory}"))
    assert os.listdir(store.root) == []
    with pytest.raises(ImageNotTree):
        user.run(lambda: resolve(directory, store))


@pytest.mark.parametrize(
    "manifest", [[], {}, [1], "text", {"layers": [], "name": "a web app's own"}, None]
)
def test_a_tree_with_a_manifest_of_its_own_is_a_layer(
    user: User, store: Store, manifest: object
) -> None:
    def add() -> int:
        write(user.path("tree"), {"manifest.json": manifest})
        return store.add("one", f"dir:{user.path('tree')}").files

    assert user.run(add) == 1
