from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TypeAlias

import pytest

from overlaykit.layers import Store, StoredLayer
from overlaykit.layers.archive import MissingArchive, UnreadableArchive, ZstdMissing
from overlaykit.layers.extract import DeviceMemberNeedsRoot, UnsafeMember
from overlaykit.layers.tar import DamagedArchive

from .conftest import User
from .trees import Entry, describe, populate

Add: TypeAlias = Callable[[bytes], StoredLayer]


@pytest.fixture
def store(user: User) -> Store:
    return Store(user.path("store"))


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def pack(*members: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for item in members:
            info, data = item if isinstance(item, tuple) else (item, b"")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


@pytest.fixture
def add(user: User, store: Store) -> Add:
    def add(data: bytes) -> StoredLayer:
        def unpack() -> StoredLayer:
            with open(user.path("a.tar"), "wb") as file:
                file.write(data)
            return store.add("one", f"tar:{user.path('a.tar')}")

        return user.run(unpack)

    return add


def refused(user: User, add: Add, data: bytes, error: type, match: str) -> None:
    """The archive is refused in one line, and no file of it is in the store or outside."""
    with pytest.raises(error, match=match) as caught:
        add(data)
    assert "\n" not in str(caught.value)
    assert os.listdir(user.path("store")) == []
    assert sorted(os.listdir(user.home)) in (["a.tar", "store"], ["a.tar", "outside", "store"])


COMPRESSED = [
    pytest.param("--no-auto-compress", id="plain"),
    *("--gzip", "--bzip2", "--xz", "--lzma", "--zstd"),
]


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.parametrize("layout", ["gnu", "posix"])
def test_an_archive_of_gnu_tar_gives_the_same_tree(
    user: User, store: Store, layout: str, compression: str
) -> None:
    def unpack() -> tuple[dict[str, Entry], dict[str, Entry]]:
        populate(user.path("src"), as_root=user.is_root)
        command = ["tar", f"--format={layout}", "--sparse", compression]
        if layout == "posix":
            command += ["--xattrs", "--xattrs-include=*", "--pax-option=delete=atime,delete=ctime"]
        subprocess.run(
            [*command, "-C", user.path("src"), "-cf", user.path("a.tar"), "."],
            check=True,
            stderr=subprocess.PIPE,
        )
        layer = store.add("one", f"tar:{user.path('a.tar')}")
        return describe(user.path("src")), describe(layer.path)

    source, unpacked = user.run(unpack)
    if layout == "gnu":  # has whole seconds and no xattrs
        source = {
            path: replace(
                entry,
                mtime_ns=entry.mtime_ns // 10**9 * 10**9,
                xattrs=(),
                blocks=unpacked[path].blocks,
            )
            for path, entry in source.items()
        }
    assert unpacked["sparse"].blocks * 512 < 1 << 20
    assert set(unpacked) == set(source)
    for path, entry in source.items():
        assert unpacked[path] == entry, path


def test_several_compressed_parts_after_one_another_are_one_archive(add: Add) -> None:
    import gzip

    data = pack((member("file"), b"x" * 100_000))
    layer = add(gzip.compress(data[:50_000]) + gzip.compress(data[50_000:]))
    assert os.path.getsize(os.path.join(layer.path, "file")) == 100_000


def test_the_archives_own_directory_entry_is_the_layers_root(add: Add) -> None:
    layer = add(pack(member("./", tarfile.DIRTYPE, mode=0o751, mtime=1_500_000_000)))
    status = os.stat(layer.path)
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o751, 1_500_000_000)


def test_directories_that_the_archive_does_not_mention_are_for_everybody(
    user: User, store: Store
) -> None:
    def unpack() -> StoredLayer:
        os.umask(0o077)
        with open(user.path("a.tar"), "wb") as file:
            file.write(pack((member("a/b/c"), b"x")))
        return store.add("one", f"tar:{user.path('a.tar')}")

    entries = describe(user.run(unpack).path)
    modes = {path: stat.S_IMODE(entry.mode) for path, entry in entries.items()}
    assert modes == {".": 0o755, "a": 0o755, "a/b": 0o755, "a/b/c": 0o644}


def test_an_absolute_name_is_made_relative(add: Add) -> None:
    layer = add(pack((member("//etc//./motd"), b"hello")))
    assert os.path.exists(os.path.join(layer.path, "etc/motd"))


def test_of_members_of_one_name_the_last_wins(add: Add) -> None:
    layer = add(
        pack(
            (member("file"), b"first"),
            (member("file"), b"second"),
            member("link-then-file", tarfile.SYMTYPE, linkname="file"),
            (member("link-then-file"), b"its own"),
            member("link-then-directory", tarfile.SYMTYPE, linkname="elsewhere"),
            member("link-then-directory", tarfile.DIRTYPE),
            (member("link-then-directory/file"), b"inside"),
            (member("directory-then-file/below/file"), b"gone"),
            (member("directory-then-file"), b"a file"),
            member("twice", tarfile.DIRTYPE, mode=0o700),
            (member("twice/kept"), b"kept"),
            member("twice", tarfile.DIRTYPE, mode=0o711),
        )
    )
    entries = describe(layer.path)
    contents = {path: entry.content for path, entry in entries.items() if entry.content}
    assert contents == {
        "file": b"second",
        "link-then-file": b"its own",
        "link-then-directory/file": b"inside",
        "directory-then-file": b"a file",
        "twice/kept": b"kept",
    }
    assert stat.S_IMODE(entries["twice"].mode) == 0o711
    assert layer.files == 5


def test_a_hard_link_to_itself_keeps_the_file(add: Add) -> None:
    layer = add(pack((member("file"), b"kept"), member("./file", tarfile.LNKTYPE, linkname="file")))
    with open(os.path.join(layer.path, "file")) as file:
        assert file.read() == "kept"


def test_a_hard_link_to_a_symbolic_link_is_one_to_the_link(add: Add) -> None:
    layer = add(
        pack(
            member("link", tarfile.SYMTYPE, linkname="/etc/shadow"),
            member("same", tarfile.LNKTYPE, linkname="link"),
        )
    )
    assert os.readlink(os.path.join(layer.path, "same")) == "/etc/shadow"


OUTSIDE = ["../x", "a/../../x", "a/..", "..", "/../x", "a/b/../../../x"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_a_name_that_climbs_out_is_refused(user: User, add: Add, name: str, kind: bytes) -> None:
    hostile = pack((member("fine"), b"x"), member(name, kind, linkname="y"))
    refused(user, add, hostile, UnsafeMember, r"the member '.*' leads out of the layer")


@pytest.mark.parametrize("target", [".", "/", "..", "../../..", "{outside}", "fine"])
def test_a_file_through_a_symbolic_link_of_the_archive_is_refused(
    user: User, add: Add, target: str
) -> None:
    os.mkdir(user.path("outside"))
    os.chown(user.path("outside"), user.uid, -1)
    target = target.format(outside=user.path("outside"))
    for last in (
        member("link/file"),
        member("link/directory", tarfile.DIRTYPE),
        member("link/deep/file"),
        member("link/node", tarfile.FIFOTYPE),
    ):
        hostile = pack(
            member("fine", tarfile.DIRTYPE), member("link", tarfile.SYMTYPE, linkname=target), last
        )
        refused(user, add, hostile, UnsafeMember, "'link/.*' leads through a symbolic link")
    assert os.listdir(user.path("outside")) == []


@pytest.mark.parametrize("target", ["../outside/file", "/etc/passwd", "absent", "directory"])
def test_a_hard_link_to_what_is_not_in_the_archive_is_refused(
    user: User, add: Add, target: str
) -> None:
    os.mkdir(user.path("outside"))
    open(user.path("outside/file"), "w").close()
    hostile = pack(
        member("directory", tarfile.DIRTYPE), member("link", tarfile.LNKTYPE, linkname=target)
    )
    refused(user, add, hostile, UnsafeMember, "the member 'link'")
    assert os.stat(user.path("outside/file")).st_nlink == 1


def test_a_hard_link_through_a_symbolic_link_is_refused(user: User, add: Add) -> None:
    hostile = pack(
        member("out", tarfile.SYMTYPE, linkname="/etc"),
        member("link", tarfile.LNKTYPE, linkname="out/passwd"),
    )
    refused(user, add, hostile, UnsafeMember, "'link' leads through a symbolic link")


def test_a_file_that_takes_the_layers_place_is_refused(user: User, add: Add) -> None:
    refused(user, add, pack((member("./"), b"x")), UnsafeMember, "take the place of the layer")


def test_a_file_below_a_file_is_refused(user: User, add: Add) -> None:
    hostile = pack((member("file"), b"x"), (member("file/below"), b"x"))
    refused(user, add, hostile, UnsafeMember, "'file/below' lies below what is not a directory")


def test_a_hostile_name_cannot_make_the_message_two_lines(user: User, add: Add) -> None:
    refused(user, add, pack(member("../a\nb\x1b[31m")), UnsafeMember, r"a\\nb\\x1b")


def test_a_device_needs_root_but_a_whiteout_does_not(user: User, add: Add) -> None:
    whiteout = member("whiteout", tarfile.CHRTYPE)
    device = member("device", tarfile.BLKTYPE, devmajor=7, devminor=1)
    if user.is_root:
        layer = add(pack(whiteout, device))
        assert os.lstat(os.path.join(layer.path, "device")).st_rdev == os.makedev(7, 1)
    else:
        refused(
            user, add, pack(whiteout, device), DeviceMemberNeedsRoot, "'device'; add .* as root"
        )
        layer = add(pack(whiteout))
    status = os.lstat(os.path.join(layer.path, "whiteout"))
    assert stat.S_ISCHR(status.st_mode)
    assert status.st_rdev == 0


def test_owners_and_set_id_bits_are_roots_to_give(user: User, add: Add) -> None:
    layer = add(pack((member("tool", mode=0o6755, uid=1234, gid=4321), b"x")))
    status = os.stat(os.path.join(layer.path, "tool"))
    if user.is_root:
        assert (status.st_uid, status.st_gid) == (1234, 4321)
        assert stat.S_IMODE(status.st_mode) == 0o6755
    else:
        assert status.st_uid == user.uid
        assert stat.S_IMODE(status.st_mode) == 0o755


def test_a_terabyte_of_hole_takes_neither_space_nor_time(user: User, store: Store) -> None:
    def unpack() -> os.stat_result:
        with open(user.path("huge"), "wb") as file:
            file.truncate(1 << 40)
            file.seek(1 << 39)
            file.write(b"island")
        subprocess.run(["tar", "-C", user.home, "-Scf", user.path("a.tar"), "huge"], check=True)
        return os.stat(os.path.join(store.add("one", f"tar:{user.path('a.tar')}").path, "huge"))

    status = user.run(unpack)
    assert status.st_size == 1 << 40
    assert status.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("compress", [None, "gzip", "bzip2", "xz", "zstd"])
def test_an_archive_cut_anywhere_is_refused(user: User, add: Add, compress: str | None) -> None:
    data = pack(
        (member("a"), os.urandom(3000)),
        member("b", pax_headers={"path": "b/" * 150 + "b"}),
        member("c"),
    )
    if compress is not None:
        data = subprocess.run([compress, "-c"], input=data, check=True, capture_output=True).stdout
        cuts = [4, 20, len(data) // 2, len(data) - 5]
    else:
        assert data.rstrip(b"\0") != data
        end = len(data.rstrip(b"\0")) // 512 * 512 + 512
        cuts = [0, 1, 512, 513, 2000, *range(4096, end + 1, 512)]
    for cut in cuts:
        refused(user, add, data[:cut], DamagedArchive, "damaged, cut short")


@pytest.mark.parametrize("compress", ["gzip", "bzip2", "xz", "zstd"])
def test_a_flipped_bit_in_a_compressed_archive_is_noticed(
    user: User, add: Add, compress: str
) -> None:
    data = pack((member("a"), os.urandom(30_000)))
    command = [compress, "-c", *(["--check"] if compress == "zstd" else [])]
    data = subprocess.run(command, input=data, check=True, capture_output=True).stdout
    for place in (len(data) // 3, len(data) // 2):
        broken = bytearray(data)
        broken[place] ^= 0x10
        refused(user, add, bytes(broken), DamagedArchive, "damaged")


def test_a_damaged_header_is_not_taken_for_the_end(user: User, add: Add) -> None:
    data = bytearray(pack((member("a"), b"x"), (member("b"), b"y")))
    data[1024 + 10] ^= 0xFF
    refused(user, add, bytes(data), DamagedArchive, "damaged")


@pytest.mark.parametrize(
    "data",
    [b"not an archive", b"\x1f\x8b\x08", pytest.param(Random(0).randbytes(4096), id="noise")],
)
def test_what_is_no_archive_is_refused(user: User, add: Add, data: bytes) -> None:
    refused(user, add, data, DamagedArchive, "damaged, cut short, or no archive")


@pytest.mark.parametrize(
    "headers",
    [
        {"size": "-5"},
        {"mtime": "never"},
        {"mtime": "1e99"},
        {"uid": str(1 << 70)},
        {"GNU.sparse.map": "-1,5", "GNU.sparse.size": "10"},
        {"GNU.sparse.map": "0,99999", "GNU.sparse.size": "10"},
        {"GNU.sparse.map": "x", "GNU.sparse.size": "10"},
        {"SCHILY.xattr.user.a\0b": "x"},
    ],
)
def test_numbers_that_no_file_can_have_are_one_quiet_error(
    user: User, add: Add, headers: dict[str, str]
) -> None:
    hostile = pack((member("file", pax_headers=headers), b"0123456789"))
    if not user.is_root and "uid" in headers:
        add(hostile)  # whose owner would not be set
        return
    refused(user, add, hostile, (DamagedArchive, UnsafeMember), "a.tar")  # type: ignore[arg-type]


def test_a_missing_archive_is_named(user: User, store: Store) -> None:
    with pytest.raises(MissingArchive, match=r"absent\.tar does not exist"):
        user.run(lambda: store.add("one", f"tar:{user.path('absent.tar')}"))


def test_a_directory_is_no_archive(user: User, store: Store) -> None:
    with pytest.raises(UnreadableArchive):
        user.run(lambda: store.add("one", f"tar:{user.home}"))


def test_without_the_program_zstd_it_is_named(user: User, store: Store) -> None:
    def unpack() -> StoredLayer:
        with open(user.path("a.tar"), "wb") as file:
            file.write(b"\x28\xb5\x2f\xfd")
        os.environ["PATH"] = user.home
        return store.add("one", f"tar:{user.path('a.tar')}")

    with pytest.raises(ZstdMissing, match="install the package zstd"):
        user.run(unpack)
