"""Mount options that the kernel's overlayfs and overlaykit both take have the same effect."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from . import syscalls
from .files import list_names, read_file, write_file
from .layers import write_layer
from .sandbox import Sandbox
from .table import Dir, File, Layer, Link

if os.geteuid() != 0:
    pytest.skip("only root can do this", allow_module_level=True)

OPTIONS = (
    "redirect_dir=on,index=on",
    "redirect_dir=off,index=on",
    "redirect_dir=follow,index=on",
    "redirect_dir=nofollow,index=on",
    "redirect_dir=on,index=on,metacopy=off,volatile",
    "ro,redirect_dir=on,index=on",
)
"""With an index: without one overlaykit keeps the known names of a hard link (tests/overlay/test_copyup.py)."""

REDIRECT = {"trusted.overlay.redirect": b"/old/place", "trusted.overlay.origin": b""}
LOWERS: tuple[Layer, ...] = (
    {"r/moved": Dir(xattrs=REDIRECT), "r/moved/top": File(), "d": Dir(mode=0o711)},
    {
        "old/place/below": File(b"found by a redirect"),
        "d/f": File(b"x"),
        "a": File(b"both"),
        "b": Link("a"),
    },
)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with contextlib.closing(Sandbox(unprivileged=False)) as sandbox:
        yield sandbox


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="overlaykit-options-", dir="/var/tmp") as directory:
        yield directory


@pytest.mark.parametrize("options", OPTIONS)
def test_an_option_means_what_it_means_to_the_kernel(
    sandbox: Sandbox, directory: str, options: str
) -> None:
    seen = {
        system: sandbox.run(partial(_results_on, system, f"{directory}/{system}", options))
        for system in ("kernel", "overlaykit")
    }
    assert seen["overlaykit"] == seen["kernel"]


def _results_on(system: str, directory: str, options: str) -> list[object]:
    """The results of calls on a mount with these options, and on the next one."""
    os.mkdir(directory)
    os.chdir(directory)
    # Characters of these names have a meaning in the options, and are escaped.
    lowers = ["top:layer", "bottom, the last"]
    for name, layer in zip(lowers, LOWERS, strict=True):
        os.mkdir(name)
        write_layer(layer, os.path.abspath(name), xattr_prefix="trusted")
    for name in ("upper", "work", "merged"):
        os.mkdir(name)
    paths = [os.path.abspath(name).replace(":", "\\:").replace(",", "\\,") for name in lowers]
    options += f",lowerdir={':'.join(paths)},upperdir={directory}/upper,workdir={directory}/work"
    results: list[object] = []
    for calls in (CHANGES, READS):
        _mount(system, options)
        os.chdir("merged")
        results += [_result(call) for call in calls]
        os.chdir(directory)
        _unmount(system)
        with contextlib.suppress(FileNotFoundError):  # with it the kernel refuses a volatile upper
            shutil.rmtree("work/work/incompat")
    return results


CHANGES: tuple[Callable[[], object], ...] = (
    lambda: os.statvfs(".").f_flag & os.ST_RDONLY,
    list_names,
    lambda: list_names("r"),
    lambda: list_names("r/moved"),
    lambda: read_file("r/moved/below"),
    lambda: write_file("a", b"changed"),
    lambda: read_file("b"),
    lambda: os.rename("d", "e"),
    lambda: list_names("e"),
    lambda: os.mkdir("pure"),
    lambda: os.rename("pure", "purer"),
    lambda: os.rename("r/moved", "moved again"),
    lambda: list_names("moved again"),
)
READS: tuple[Callable[[], object], ...] = (
    list_names,
    lambda: list_names("d"),
    lambda: list_names("e"),
    lambda: list_names("moved again"),
    lambda: (
        read_file("a"),
        read_file("b"),
        os.stat("a").st_ino == os.stat("b").st_ino,
        os.stat("a").st_nlink,
    ),
)


def _result(call: Callable[[], object]) -> object:
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _mount(system: str, options: str) -> None:
    if system == "overlaykit":
        _run_overlaykit("mount", "-o", options, "merged")
    else:
        flags = syscalls.MS_RDONLY if options.startswith("ro,") else 0
        data = os.fsencode(options.removeprefix("ro,"))
        syscalls.mount(b"overlay", b"merged", b"overlay", flags, data)


def _unmount(system: str) -> None:
    if system == "overlaykit":
        _run_overlaykit("umount", "merged")
    else:
        syscalls.umount2(b"merged")


def _run_overlaykit(*arguments: str) -> None:
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith("XDG_")}
    subprocess.run(
        [sys.executable, "-m", "overlaykit", *arguments],
        env=inherited | {"HOME": os.getcwd()},
        stdin=subprocess.DEVNULL,
        check=True,
    )
