from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import TypeVar

import pytest

from overlaykit import _native
from overlaykit.errors import Error
from overlaykit.layers import Layer, Store, StoredLayer, host
from overlaykit.layers.apt import NothingToAdd
from overlaykit.layers.deb import BadDebSource
from overlaykit.layers.privateapt import (
    MirrorUnreachable,
    UnknownPackage,
    UnknownSuite,
    Unsatisfiable,
    UntrustedSuite,
)
from overlaykit.layers.tar import DamagedArchive

from .conftest import User
from .mirror import Mirror

SYSTEMS_APT = ("/var/lib/apt", "/var/lib/apt/lists", "/var/cache/apt", "/var/cache/apt/archives")

_T = TypeVar("_T")


@pytest.fixture
def store(user: User) -> Store:
    return Store(user.path("store"))


def with_mirror(user: User, act: Callable[[Mirror], _T]) -> _T:
    """Call a function with a test mirror as the machine's only source."""
    return user.run_among_own_mounts(lambda: act(Mirror(user.path("mirror"))))


def refused(user: User, act: Callable[[Mirror], object], error: type[Error], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        with_mirror(user, act)
    assert "\n" not in str(caught.value)
    assert os.listdir(user.path("store")) == []


@pytest.mark.parametrize(
    "text", ["", "x", "@suite", "a,,b@suite", "a-@suite", "a@", "a@b c", "-o@x", "a;b@x"]
)
def test_what_names_no_packages_is_answered_with_how_to(
    user: User, store: Store, text: str
) -> None:
    with pytest.raises(BadDebSource, match="write deb:PACKAGE"):
        user.run(lambda: store.add("one", f"deb:{text or '@'}"))


def test_a_package_comes_with_what_the_base_lacks_and_nothing_more(
    user: User, store: Store
) -> None:
    def add(mirror: Mirror) -> StoredLayer:
        mirror.add("tool", {"/usr/bin/tool": "tool"}, depends="library, dpkg, libc6 (>= 2)")
        mirror.add("library", {"/usr/lib/library": "library"})
        mirror.add("libc6", {"/usr/lib/libc": "an old libc"}, version="0.1")
        mirror.add("other", {"/usr/bin/other": "other"})
        mirror.publish()
        mirror.use()
        return store.add("one", "deb:tool@test")

    layer = with_mirror(user, add)
    assert layer.files == 2
    assert layer.source == "deb:tool@test"
    assert os.path.exists(os.path.join(layer.path, "usr/bin/tool"))
    assert os.path.exists(os.path.join(layer.path, "usr/lib/library"))
    assert os.stat(layer.path).st_uid == user.uid


def test_the_base_decides_what_is_lacking(user: User, store: Store) -> None:
    def add(mirror: Mirror) -> list[int]:
        mirror.add("tool", {"/usr/bin/tool": "tool"}, depends="library, dpkg")
        mirror.add("library", {"/usr/lib/library": "library"})
        mirror.add("dpkg", {"/usr/bin/dpkg": "dpkg"})
        mirror.publish()
        mirror.use()
        empty, has_library = user.path("empty"), user.path("has-library")
        os.makedirs(os.path.join(has_library, "var/lib/dpkg"))
        os.mkdir(empty)
        with open(os.path.join(has_library, "var/lib/dpkg/status"), "w") as status:
            status.write(
                "Package: library\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n"
                "Maintainer: nobody\nDescription: a test\n"
            )
        bases = [
            Layer(name="empty", path=empty),
            Layer(name="has-library", path=has_library),
            host(),
        ]
        return [store.add(f"over-{base.name}", "deb:tool@test", base=base).files for base in bases]

    assert with_mirror(user, add) == [3, 2, 2]


def test_files_land_where_the_bases_own_links_lead(user: User, store: Store) -> None:
    """A directory /lib in the layer would shadow the base's link /lib to usr/lib."""

    def add(mirror: Mirror) -> StoredLayer:
        base = user.path("base")
        for path in ("usr/lib/x", "opt/real", "var"):
            os.makedirs(os.path.join(base, path))
        os.symlink("usr/lib", os.path.join(base, "lib"))
        os.symlink("/opt/real", os.path.join(base, "usr/lib/absolute"))
        os.symlink("../../../..", os.path.join(base, "usr/lib/x/up"))
        os.symlink("nowhere", os.path.join(base, "var/dangling"))
        mirror.add(
            "tool",
            {
                "/lib/file": "1",
                "/lib/absolute/file": "2",
                "/lib/x/up/top": "3",
                "/var/dangling/file": "4",
            },
        )
        mirror.publish()
        mirror.use()
        return store.add("one", "deb:tool@test", base=Layer(name="base", path=base))

    layer = with_mirror(user, add)
    found = {
        os.path.relpath(os.path.join(directory, name), layer.path)
        for directory, _, names in os.walk(layer.path)
        for name in names
    }
    assert found == {"usr/lib/file", "opt/real/file", "top", "var/dangling/file"}


def test_an_unknown_package_is_named(user: User, store: Store) -> None:
    def add(mirror: Mirror) -> None:
        mirror.add("tool", {"/usr/bin/tool": "tool"})
        mirror.publish()
        mirror.use()
        store.add("one", "deb:tool,tol@test")

    refused(user, add, UnknownPackage, "the suite test has no package tol to install")


@pytest.mark.parametrize("trusted", ["yes", "no"])
def test_an_unknown_suite_is_named(user: User, store: Store, trusted: str) -> None:
    def add(mirror: Mirror) -> None:
        mirror.publish()
        mirror.use(trusted)
        store.add("one", "deb:tool@tset")

    refused(user, add, UnknownSuite, "no suite tset")


def test_a_suite_that_the_machines_own_mirror_lacks_is_named(user: User, store: Store) -> None:
    with pytest.raises(UnknownSuite, match="no suite no-such-suite"):
        user.run(lambda: store.add("one", "deb:python2.7@no-such-suite"))
    assert os.listdir(user.path("store")) == []


def test_an_unsigned_suite_is_refused(user: User, store: Store) -> None:
    def add(mirror: Mirror) -> None:
        mirror.add("tool", {"/usr/bin/tool": "tool"})
        mirror.publish()
        mirror.use(trusted="no")
        store.add("one", "deb:tool@test")

    refused(user, add, UntrustedSuite, "not signed by a key")


def test_a_package_that_fits_no_base_is_refused_with_the_reason(user: User, store: Store) -> None:
    def add(mirror: Mirror) -> None:
        mirror.add("tool", {"/usr/bin/tool": "tool"}, depends="not-there (>= 2)")
        mirror.publish()
        mirror.use()
        store.add("one", "deb:tool@test")

    refused(user, add, Unsatisfiable, "tool from test does not fit")


def test_what_the_base_has_already_makes_no_empty_layer(user: User, store: Store) -> None:
    def add(mirror: Mirror) -> None:
        version = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", "dpkg"], check=True, capture_output=True
        ).stdout.decode()
        mirror.add("dpkg", {"/usr/bin/dpkg": "the same dpkg"}, version=version)
        mirror.publish()
        mirror.use()
        store.add("one", "deb:dpkg@test")

    refused(user, add, NothingToAdd, "the base already has dpkg in the version of suite test")


def test_a_package_comes_in_the_suites_version_where_the_base_has_a_newer_one(
    user: User, store: Store
) -> None:
    def add(mirror: Mirror) -> StoredLayer:
        mirror.add("perl", {"/usr/bin/perl": "an old perl"}, "perl-base (= 0.1)", version="0.1")
        mirror.add("perl-base", {"/usr/lib/perl": "an old library"}, "libc6", version="0.1")
        mirror.add("libc6", {"/usr/lib/libc": "an old libc"}, version="0.1")
        mirror.publish()
        mirror.use()
        return store.add("one", "deb:perl@test")

    layer = with_mirror(user, add)
    assert sorted(os.listdir(os.path.join(layer.path, "usr/lib"))) == ["perl"]
    with open(os.path.join(layer.path, "usr/bin/perl")) as file:
        assert file.read() == "an old perl"


def test_a_newer_libc_comes_along_where_the_bases_is_too_old(user: User, store: Store) -> None:
    def add(mirror: Mirror) -> StoredLayer:
        mirror.add("tool", {"/usr/bin/tool": "tool"}, depends="libc6 (>= 999), zlib1g")
        libc6 = mirror.add("libc6", {"/usr/lib/libc": "a new libc"}, version="999")
        # Debian's libc6 breaks packages built against older ones, so it does not fit into the base.
        mirror.describe(
            libc6,
            "Package: libc6\nVersion: 999\nArchitecture: all\nBreaks: dpkg (<< 999)\n",
            instead=True,
        )
        mirror.add("zlib1g", {"/usr/lib/zlib": "an old zlib"}, version="0.1")
        mirror.publish()
        mirror.use()
        return store.add("one", "deb:tool@test")

    layer = with_mirror(user, add)
    assert sorted(os.listdir(os.path.join(layer.path, "usr/lib"))) == ["libc"]


def test_an_older_libc_than_the_bases_is_refused(user: User, store: Store) -> None:
    def add(mirror: Mirror) -> None:
        mirror.add("tool", {"/usr/bin/tool": "tool"}, depends="libc6 (= 0.1)")
        mirror.add("libc6", {"/usr/lib/libc": "an old libc"}, version="0.1")
        mirror.publish()
        mirror.use()
        store.add("one", "deb:tool@test")

    refused(user, add, Unsatisfiable, r"libc6 0\.1, older than the base's")


def test_a_package_changed_on_the_way_is_refused(user: User, store: Store) -> None:
    def add(mirror: Mirror) -> None:
        deb = mirror.add("tool", {"/usr/bin/tool": "tool"})
        mirror.publish()
        with open(deb, "r+b") as file:
            file.seek(-10, os.SEEK_END)
            file.write(b"x")
        mirror.use()
        store.add("one", "deb:tool@test")

    refused(user, add, MirrorUnreachable, "cannot fetch tool")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_package_that_is_damaged_is_refused(user: User, store: Store, kept: float) -> None:
    def add(mirror: Mirror) -> None:
        deb = mirror.add("tool", {"/usr/bin/tool": os.urandom(5000).hex()})
        os.truncate(deb, int(os.path.getsize(deb) * kept))
        mirror._stanzas.clear()
        mirror.describe(deb, "Package: tool\nVersion: 1\nArchitecture: all\n")
        mirror.publish()
        mirror.use()
        store.add("one", "deb:tool@test")

    refused(user, add, DamagedArchive, r"tool_1_all\.deb is damaged")


def test_without_a_network_one_line_says_so_and_names_no_host(user: User, store: Store) -> None:
    def add() -> None:
        _native.unshare(_native.CLONE_NEWNET)
        store.add("one", "deb:python2.7@bullseye")

    with pytest.raises(MirrorUnreachable, match="check the network") as caught:
        user.run_among_own_mounts(add)
    assert "\n" not in str(caught.value)
    assert "://" not in str(caught.value)
    assert os.listdir(user.path("store")) == []


PYTHON2_AT_WORK = """
import bz2, ctypes, hashlib, json, sqlite3, ssl, subprocess, zlib
connection = sqlite3.connect(":memory:")
connection.execute("create table t (x)")
assert ssl.OPENSSL_VERSION.startswith("OpenSSL 1.1.1")
print subprocess.check_output(["/bin/sh", "-c", "echo works"]).strip()
"""

PYTHON3_AT_WORK = """
import bz2, ctypes, hashlib, json, os, sqlite3, ssl, subprocess, sys, zlib
sqlite3.connect(":memory:").execute("create table t (x)")
assert sys.version_info[:2] == (3, 13)
assert os.confstr("CS_GNU_LIBC_VERSION") != os.environ["BASE_LIBC"]
print(subprocess.check_output(["/bin/sh", "-c", "echo works"], text=True).strip())
"""


@pytest.mark.parametrize(
    ("source", "program", "script"),
    [
        ("deb:python2.7@bullseye", "python2.7", PYTHON2_AT_WORK),
        ("deb:python3.13@trixie", "python3.13", PYTHON3_AT_WORK),
    ],
)
@pytest.mark.one_in(2)
def test_a_program_of_another_suite_works_over_this_machines_root(
    user: User, source: str, program: str, script: str
) -> None:
    """The main use, with packages of the machine's mirror, mounted by the kernel's overlayfs."""
    system = [os.stat(path).st_mtime_ns for path in SYSTEMS_APT]

    def work() -> tuple[list[str], str]:
        # On another file system: the kernel refuses a lower layer inside another one.
        os.mkdir(user.path("disk"))
        _native.mount("tmpfs", user.path("disk"), "tmpfs", 0, "mode=755")
        layer = Store(user.path("disk/store")).add("one", source, base=host())
        files = [name for _, _, names in os.walk(layer.path) for name in names]
        return files, see(layer.path)

    def see(lower: str) -> str:
        # Only /usr: an ordinary user may not clone the root without the mounts below it.
        lowers = f"lowerdir={lower}/usr:/usr" + ("" if user.is_root else ",userxattr")
        _native.mount("overlay", "/usr", "overlay", 0, lowers)
        return subprocess.run(
            [f"/usr/bin/{program}", "-c", script],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "BASE_LIBC": str(os.confstr("CS_GNU_LIBC_VERSION"))},
        ).stdout.strip()

    files, output = user.run_among_own_mounts(work)
    assert program in files
    if program == "python2.7":
        assert not [
            n for n in files if n.startswith(("libc.so", "libc-", "ld-linux", "libpthread"))
        ]
    assert output == "works"
    assert [os.stat(path).st_mtime_ns for path in SYSTEMS_APT] == system
