"""A kernel's modules, as its package has them."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
from pathlib import Path

import pytest

from overlaykit.machine import vmlinux
from overlaykit.machine.kernel import Kernel, NoKernel, NoModule
from overlaykit.views import machine

from . import tiny_kernel


def module(depends: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=%s\0name=any\0" % depends.encode()


@pytest.fixture(params=["lib", "usr/lib"])
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A kernel whose modules are compressed in each way."""
    modules = tmp_path / request.param / "modules" / "9"
    (modules / "kernel" / "fs").mkdir(parents=True)
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "vmlinuz-9").write_bytes(b"image")
    (tmp_path / "boot" / "config-9").write_bytes(b"config")
    (modules / "build").symlink_to("/usr/src")
    (modules / "modules.builtin").write_text("kernel/fs/built-in.ko\n")
    (modules / "kernel" / "first.ko").write_bytes(module(""))
    (modules / "kernel" / "fs" / "second-one.ko.xz").write_bytes(
        lzma.compress(module("first,built_in"))
    )
    zstd = subprocess.run(["zstd", "-cq"], input=module("second-one"), capture_output=True)
    (modules / "kernel" / "fs" / "third.ko.zst").write_bytes(zstd.stdout)
    (modules / "kernel" / "fs" / "other.ko").write_bytes(module("missing"))
    return tmp_path


def test_modules_come_uncompressed_after_those_they_depend_on(directory: Path) -> None:
    modules = Kernel(str(directory)).modules(["third", "first", "built-in"])
    assert [one.name for one in modules] == ["first", "second_one", "third"]
    assert [one.content for one in modules] == [
        module(depends) for depends in ("", "first,built_in", "second-one")
    ]


def test_a_module_that_is_not_there_is_named(directory: Path) -> None:
    with pytest.raises(NoModule, match="the kernel 9 has no module missing"):
        Kernel(str(directory)).modules(["other"])


def test_only_what_is_needed_is_kept(directory: Path) -> None:
    Kernel(str(directory)).keep_only(["second-one"])
    left = sorted(name for _, _, names in os.walk(directory) for name in names)
    assert left == ["first.ko", "modules.builtin", "second-one.ko.xz", "vmlinuz-9"]
    assert not any("build" in names for _, names, _ in os.walk(directory))
    assert len(Kernel(str(directory)).modules(["second-one"])) == 2


def test_a_kernel_is_kept_unpacked_for_qemu(tmp_path: Path) -> None:
    kernel = tiny_kernel.elf(b"a kernel")
    tiny_kernel.with_image(tmp_path, tiny_kernel.bzimage(gzip.compress(kernel)))
    machine.reduce(str(tmp_path))
    assert os.listdir(tmp_path / "boot") == [f"vmlinux-{tiny_kernel.RELEASE}.gz"]
    again = Kernel(str(tmp_path))
    assert (again.release, again.is_loadable) == (tiny_kernel.RELEASE, True)
    assert again.content() == kernel
    again.make_loadable()
    assert again.content() == kernel


def test_a_kernel_that_cannot_be_unpacked_is_kept_as_it_is(tmp_path: Path) -> None:
    found = Kernel(tiny_kernel.with_image(tmp_path, b"another kind"))
    found.make_loadable()
    assert (found.is_loadable, found.content()) == (False, b"another kind")


@pytest.mark.parametrize("form", ["lz4", "gzip", "xz"])
def test_a_kernel_is_found_in_its_image(form: str) -> None:
    kernel = tiny_kernel.elf(b"abcabcabcabcabcabcabcabcabc" + b"z" * 700 + bytes(range(256)) * 2)
    packed = {
        # One block, whose first literals are all of it but the end; then copies that overlap themselves.
        "lz4": _lz4(kernel),
        "gzip": gzip.compress(kernel),
        "xz": lzma.compress(kernel, check=lzma.CHECK_CRC32),
    }
    assert vmlinux.extracted(tiny_kernel.bzimage(packed[form])) == kernel


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"no header" * 100,
        tiny_kernel.bzimage(b"packed in another way"),
        tiny_kernel.bzimage(gzip.compress(b"no ELF")),
        tiny_kernel.bzimage(gzip.compress(tiny_kernel.elf(b"", entry=False))),
    ],
    ids=["empty", "no header", "another way", "no ELF", "no entry"],
)
def test_what_qemu_could_not_load_is_not_taken_for_a_kernel(image: bytes) -> None:
    assert vmlinux.extracted(image) is None


def _lz4(content: bytes) -> bytes:
    """A legacy frame in two blocks, of the sequences that differ: short and long ones, with copies that overlap."""

    def block(*sequences: tuple[bytes, int, int]) -> bytes:
        packed = b""
        for at, (literals, offset, length) in enumerate(sequences):
            last = at == len(sequences) - 1
            copied = 0 if last else length - 4
            packed += bytes([min(len(literals), 15) << 4 | min(copied, 15)])
            packed += _more(len(literals)) + literals
            if not last:
                packed += offset.to_bytes(2, "little") + _more(copied)
        return len(packed).to_bytes(4, "little") + packed

    at = content.index(b"abcabc")
    end = content.index(b"z" * 700)
    rest = content[end + 700 :]
    first = block((content[: at + 3], 3, end - at - 3), (b"z", 1, 699), (b"", 0, 0))
    second = block((rest[:256], 256, 256), (rest[512:], 0, 0))
    return b"\x02\x21\x4c\x18" + first + second + len(content).to_bytes(4, "little")


def _more(count: int) -> bytes:
    """The bytes after a token for a run that its four bits do not hold."""
    if count < 15:
        return b""
    return b"\xff" * ((count - 15) // 255) + bytes([(count - 15) % 255])


def test_a_directory_without_a_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoKernel):
        Kernel(str(tmp_path))
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "vmlinuz-9").write_bytes(b"image")
    with pytest.raises(NoKernel):
        Kernel(str(tmp_path))
