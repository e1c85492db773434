"""A kernel's modules, as its package has them."""

from __future__ import annotations

import lzma
import os
import subprocess
from pathlib import Path

import pytest

from overlaykit.machine.kernel import Kernel, NoKernel, NoModule


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


def test_a_directory_without_a_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoKernel):
        Kernel(str(tmp_path))
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "vmlinuz-9").write_bytes(b"image")
    with pytest.raises(NoKernel):
        Kernel(str(tmp_path))
