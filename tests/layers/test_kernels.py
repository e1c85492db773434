from __future__ import annotations

import os

import pytest

from overlaykit.errors import Error
from overlaykit.layers import kernels
from overlaykit.layers.aptsources import NoDebianMirror
from overlaykit.layers.privateapt import PrivateApt, UnknownPackage
from overlaykit.layers.tar import DamagedArchive

from .conftest import User
from .mirror import Mirror

IMAGE = "linux-image-6.1.0-1-cloud-amd64"


def complete(directory: str) -> bool:
    """Whether a kernel has an image."""
    return bool(os.listdir(os.path.join(directory, "boot")))


FILES = {"/boot/vmlinuz-6.1.0-1": "image", "/boot/config-6.1.0-1": "much"}


def test_the_kernel_is_fetched_until_it_is_whole_and_reduced_before_it_is_there(user: User) -> None:
    def fetch() -> tuple[str, list[str], int]:
        mirror = Mirror(user.path("mirror"))
        mirror.add(kernels.PACKAGE, {}, depends=IMAGE)
        mirror.add(IMAGE, FILES, depends="kmod, linux-base (>= 4), initramfs-tools")
        mirror.publish()
        mirror.use()
        reduced = []

        def reduce(directory: str) -> None:
            reduced.append(directory)
            os.unlink(os.path.join(directory, "boot", "config-6.1.0-1"))

        path = kernels.fetched("test", reduce, complete)
        assert kernels.fetched("test", reduce, lambda _: False) == path
        mirror.leave()
        assert kernels.fetched("test", reduce, complete) == path
        return path, os.listdir(os.path.join(path, "boot")), len(reduced)

    path, boot, times = user.run_among_own_mounts(fetch)
    assert (boot, times) == (["vmlinuz-6.1.0-1"], 2)
    assert os.listdir(os.path.dirname(path)) == ["test"]
    assert path == user.path(".local/share/overlaykit/kernels/test")


def test_one_of_two_that_fetch_at_once_keeps_the_others(user: User) -> None:
    def fetch() -> str:
        mirror = Mirror(user.path("mirror"))
        mirror.add(kernels.PACKAGE, FILES)
        mirror.publish()
        mirror.use()

        def meanwhile(_directory: str) -> None:
            os.makedirs(os.path.join(kernels.place()[1], "test", "of-the-other"))

        return kernels.fetched("test", meanwhile, complete)

    assert os.listdir(user.run_among_own_mounts(fetch)) == ["of-the-other"]


@pytest.mark.parametrize("package", ["other", kernels.PACKAGE])
def test_nothing_is_left_of_a_kernel_that_cannot_be_fetched(user: User, package: str) -> None:
    def fetch() -> None:
        mirror = Mirror(user.path("mirror"))
        mirror.add(package, FILES)
        mirror.publish()
        mirror.use()

        def fail(_directory: str) -> None:
            raise NoDebianMirror("as good as any")

        kernels.fetched("test", fail, complete)

    expected: type[Error] = UnknownPackage if package == "other" else NoDebianMirror
    with pytest.raises(expected) as caught:
        user.run_among_own_mounts(fetch)
    assert "\n" not in str(caught.value)
    assert os.listdir(user.path(".local/share/overlaykit/kernels")) == []


def test_a_package_that_cannot_be_unpacked_is_told_in_one_line(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch() -> None:
        damaged = user.path("damaged.deb")
        with open(damaged, "wb") as file:
            file.write(b"no package")
        monkeypatch.setattr(PrivateApt, "update", lambda *_: None)
        monkeypatch.setattr(PrivateApt, "download", lambda *_: [damaged])
        kernels.fetched("test", lambda _: None, complete)

    with pytest.raises(DamagedArchive, match=r"damaged\.deb") as caught:
        user.run_among_own_mounts(fetch)
    assert "\n" not in str(caught.value)
