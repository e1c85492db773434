"""A kernel and its modules, unpacked from its package."""

from __future__ import annotations

import glob
import gzip
import lzma
import os
import re
import subprocess
from collections.abc import Iterable, Iterator

from overlaykit.errors import Error
from overlaykit.machine import vmlinux
from overlaykit.record import Record

_LEVEL = 6
_LOADABLE, _PACKED = "vmlinux-", ".gz"
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


class NoKernel(Error):
    message = "there is no kernel below {0}; remove the directory to fetch it again"


class NoModule(Error):
    message = "the kernel {0} has no module {1}"


class Module(Record):
    """A module, uncompressed."""

    name: str
    content: bytes


class Kernel:
    """The kernel in a directory that holds boot/ and lib/modules/ or usr/lib/modules/.

    `image`: which one of several in boot/; by default there is one. Its name begins with vmlinuz-, or it is one that
    `make_loadable` has made.
    Raises NoKernel.
    """

    def __init__(self, directory: str, image: str | None = None) -> None:
        boot = os.path.join(glob.escape(directory), "boot")
        images = [
            *glob.glob(os.path.join(boot, "vmlinuz-*")),
            *glob.glob(os.path.join(boot, f"{_LOADABLE}*{_PACKED}")),
        ]
        if image is not None:
            images = [image]
        if len(images) != 1:
            raise NoKernel(directory)
        (self.image,) = images
        name = os.path.basename(self.image).removeprefix("vmlinuz-")
        self.release = name.removeprefix(_LOADABLE).removesuffix(_PACKED)
        places = [
            os.path.join(directory, top, "modules", self.release) for top in ("lib", "usr/lib")
        ]
        self._modules = next((place for place in places if os.path.isdir(place)), "")
        if not self._modules:
            raise NoKernel(directory)
        with open(os.path.join(self._modules, "modules.builtin"), encoding="ascii") as file:
            self._builtin = {_name(line.strip()) for line in file}
        self._files = {
            _name(path): path
            for path in glob.iglob(f"{glob.escape(self._modules)}/**/*.ko*", recursive=True)
        }

    def modules(self, names: Iterable[str]) -> list[Module]:
        """The modules and what they depend on, in the order in which they load; none for what is built in.

        Raises NoModule.
        """
        ordered: dict[str, Module] = {}
        for name in names:
            self._add(name.replace("-", "_"), ordered)
        return list(ordered.values())

    @property
    def is_loadable(self) -> bool:
        """Whether the image is one that QEMU loads as it is, once it is unpacked."""
        return self.image.endswith(_PACKED)

    def content(self) -> bytes:
        """What QEMU takes."""
        with gzip.open(self.image) if self.is_loadable else open(self.image, "rb") as file:
            return file.read()

    def make_loadable(self) -> None:
        """Have the image not unpack itself in the guest, if it can be so, in place of the one of the package."""
        kernel = None if self.is_loadable else vmlinux.extracted(self.content())
        if kernel is not None:
            packaged = self.image
            self.image = os.path.join(
                os.path.dirname(packaged), f"{_LOADABLE}{self.release}{_PACKED}"
            )
            with open(self.image, "xb") as file:
                file.write(gzip.compress(kernel, _LEVEL, mtime=0))
            os.unlink(packaged)

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove all other files of a kernel that is of this program alone."""
        kept = {self._files[module.name] for module in self.modules(names)}
        kept |= {self.image, os.path.join(self._modules, "modules.builtin")}
        top = os.path.dirname(os.path.dirname(self.image))
        for directory, directories, files in os.walk(top, topdown=False):
            for name in files:
                if os.path.join(directory, name) not in kept:
                    os.unlink(os.path.join(directory, name))
            for name in directories:
                path = os.path.join(directory, name)
                if os.path.islink(path):
                    os.unlink(path)
                elif not os.listdir(path):
                    os.rmdir(path)

    def _add(self, name: str, ordered: dict[str, Module]) -> None:
        if name in ordered or name in self._builtin:
            return
        if name not in self._files:
            raise NoModule(self.release, name)
        content = _uncompressed(self._files[name])
        for dependency in _dependencies(content):
            self._add(dependency, ordered)
        ordered[name] = Module(name, content)


def _name(path: str) -> str:
    return os.path.basename(path).partition(".")[0].replace("-", "_")


def _dependencies(module: bytes) -> Iterator[str]:
    """The field `depends` of the section .modinfo."""
    match = _DEPENDS.search(module)
    if match and match[1]:
        yield from (name.replace("-", "_") for name in match[1].decode("ascii").split(","))


def _uncompressed(path: str) -> bytes:
    with open(path, "rb") as file:
        content = file.read()
    if path.endswith(".xz"):
        return lzma.decompress(content)
    if path.endswith(".zst"):
        return subprocess.run(
            ["zstd", "-dcq"], input=content, stdout=subprocess.PIPE, check=True
        ).stdout
    return content
