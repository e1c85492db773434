"""The data plane behind a mount: what it answers, and what crosses to Python."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import stat

import pytest

from overlaykit.fuse.spec import MountOptions

from ..overlay.inside import as_ordinary_user
from ..overlay.stack import Stack
from ..posix.table import Dir, File, Symlink
from .mounted import mounted, only_with_open, only_with_plane
from .random_changes import NAMES, STARTING_POINT, play

pytestmark = [pytest.mark.usefixtures("sandbox"), as_ordinary_user]

FILES = 50


@only_with_plane
def test_reading_a_plain_lower_reaches_no_python(stack: Stack) -> None:
    stack.add(
        {
            **{f"d/e/{number}": File(b"%d" % number) for number in range(FILES)},
            **{f"d/tree/{number}/f": File(b"f") for number in range(FILES)},
            "d/s": Symlink("e/1"),
        }
    )
    with mounted(stack) as mount:
        os.stat(mount.path("d/e"))
        before = mount.counted()
        for number in range(FILES):
            path = mount.path(f"d/e/{number}")
            assert os.stat(path).st_size == len(str(number))
            with open(path) as file:
                assert file.read() == str(number)
        assert len(os.listdir(mount.path("d/e"))) == FILES
        assert sum(len(found) for *_, found in os.walk(mount.path("d/tree"))) == FILES
        assert os.readlink(mount.path("d/s")) == "e/1"
        assert not os.path.exists(mount.path("d/e/missing"))
        after = mount.counted()
        assert after.requests == before.requests
        assert after.answered >= before.answered + 3 * FILES


def test_readers_of_a_lowers_file_read_what_is_written_after_its_copy_up(stack: Stack) -> None:
    lower = stack.add({"d/f": File(b"lower" * 10_000)})
    with mounted(stack) as mount:
        path = mount.path("d/f")
        with open(path, "rb") as first, open(path, "rb") as second:
            assert first.read(5) == b"lower"
            with open(path, "r+b") as writer:
                writer.write(b"upper")
                writer.flush()
                os.fsync(writer.fileno())
            for reader in (first, second):
                os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(reader.fileno(), 10, 0) == b"upperlower"
                assert os.fstat(reader.fileno()).st_size == 50_000
    with open(os.path.join(lower, "d/f"), "rb") as file:
        assert file.read() == b"lower" * 10_000


def test_names_of_a_changed_directory_keep_their_inode_numbers(stack: Stack) -> None:
    stack.add({f"d/{number}": File(b"x") for number in range(FILES)} | {"d/sub/f": File(b"x")})
    with mounted(stack) as mount:
        names = [*map(str, range(FILES)), "sub", "sub/f"]
        before = {name: os.stat(mount.path(f"d/{name}")).st_ino for name in names}
        with open(mount.path("d/new"), "w"):
            pass
        os.rename(mount.path("d/sub"), mount.path("d/moved"))
        before["moved"], before["moved/f"] = before.pop("sub"), before.pop("sub/f")
        for _ in range(2):
            found = {name: os.stat(mount.path(f"d/{name}")).st_ino for name in before}
            assert found == before
            listed = {entry.name: entry.inode() for entry in os.scandir(mount.path("d"))}
            assert listed | before == before | {
                "new": listed["new"],
                "moved/f": before["moved/f"],
            }


def test_what_is_removed_while_it_is_open_stays_readable(stack: Stack) -> None:
    stack.add({"d/f": File(b"content"), "d/g": File(b"other"), "empty": Dir()})
    with mounted(stack) as mount, open(mount.path("d/f"), "rb") as one:
        with open(mount.path("d/g"), "rb") as other:
            os.unlink(mount.path("d/f"))
            os.rename(mount.path("d/g"), mount.path("d/f"))
            assert one.read() == b"content"
            assert other.read() == b"other"
        directory = os.open(mount.path("empty"), os.O_RDONLY)
        os.listdir(directory)
        os.rmdir(mount.path("empty"))
        assert os.listdir(directory) == []
        assert os.fstat(directory).st_nlink == 0
        os.close(directory)


@only_with_plane
def test_changes_in_the_upper_reach_no_python(stack: Stack) -> None:
    stack.add({"d/lowers": File(b"lower")})
    with mounted(stack) as mount:
        # From the first new name on the plane makes the others.
        os.mkdir(mount.path("d/new"))
        os.mkdir(mount.path("d/new/below"))
        before = mount.counted()
        for number in range(FILES):
            path = mount.path(f"d/{number}")
            with open(path, "xb", buffering=0) as file:
                file.write(b"%d" % number)
            os.chmod(path, 0o600)
            os.utime(path, ns=(number, number))
            os.rename(path, mount.path(f"d/new/{number}"))
            os.symlink("target", path)
            os.unlink(path)
            os.mkdir(path)
            os.rename(path, mount.path(f"d/new/below/{number}"))
            os.rmdir(mount.path(f"d/new/below/{number}"))
        for number in range(0, FILES, 2):
            os.rename(mount.path(f"d/new/{number}"), mount.path(f"d/new/{number + 1}"))
        for number in range(1, FILES, 2):
            with open(mount.path(f"d/new/{number}"), "r+b", buffering=0) as file:
                assert file.read() == b"%d" % (number - 1)
                file.write(b"more")
        assert mount.counted().requests == before.requests
    names = {f"{number}" for number in range(1, FILES, 2)} | {"below"}
    made = os.path.join(stack.upper, "d/new")
    assert {*os.listdir(made)} == names
    assert os.listdir(os.path.join(made, "below")) == []
    st = os.stat(os.path.join(made, "1"))
    assert (stat.S_IMODE(st.st_mode), st.st_size) == (0o600, 5)


def test_an_open_file_crosses_with_what_was_written(stack: Stack) -> None:
    stack.add({"d": Dir()})
    with mounted(stack) as mount:
        os.mkdir(mount.path("d/new"))
        path = mount.path("d/new/f")
        with open(path, "x+b", buffering=0) as file, open(path, "rb", buffering=0) as reader:
            file.write(b"before ")
            os.utime(path, ns=(10**18, 10**18))
            file.write(b"after")
            os.link(path, mount.path("d/new/g"))
            file.write(b" the link")
            os.fsync(file.fileno())
            assert reader.read() == b"before after the link"
            assert os.fstat(file.fileno()).st_nlink == 2
            os.unlink(path)
            file.write(b".")
        with open(mount.path("d/new/g"), "rb") as file:
            assert file.read() == b"before after the link."
        st = os.stat(mount.path("d/new/g"))
        assert st.st_nlink == 1
    assert os.stat(os.path.join(stack.upper, "d/new/g")).st_mtime_ns == st.st_mtime_ns


def test_a_removed_file_crosses_and_keeps_its_content(stack: Stack) -> None:
    stack.add({"d": Dir()})
    with mounted(stack) as mount:
        os.mkdir(mount.path("d/new"))
        path = mount.path("d/new/f")
        with open(path, "x+b", buffering=0) as file:
            file.write(b"content")
            os.unlink(path)
            os.setxattr(file.fileno(), "user.mine", b"value")
            file.write(b" and more")
            assert os.pread(file.fileno(), 100, 0) == b"content and more"
            assert os.getxattr(file.fileno(), "user.mine") == b"value"
            os.ftruncate(file.fileno(), 7)
            st = os.fstat(file.fileno())
            assert (st.st_size, st.st_nlink) == (7, 0)
            with open(path, "xb") as other:
                other.write(b"another")
            assert os.pread(file.fileno(), 100, 0) == b"content"
        mount.forget()
        with open(path, "rb") as other:
            assert other.read() == b"another"


def test_a_sync_of_the_planes_file_reaches_the_disk(stack: Stack) -> None:
    stack.add({"d": Dir()})
    with mounted(stack) as mount:
        os.mkdir(mount.path("d/new"))
        with open(mount.path("d/new/f"), "xb", buffering=0) as file:
            for number in range(3):
                file.write(b"%d" % number)
                os.fsync(file.fileno())
                with open(os.path.join(stack.upper, "d/new/f"), "rb") as below:
                    assert below.read() == b"012"[: number + 1]
        assert mount.counted().requests["fsync"] == 3


def test_names_of_the_lowers_are_hidden_where_the_plane_makes_others(stack: Stack) -> None:
    lower = stack.add({f"d/{number}": File(b"lower") for number in range(FILES)})
    with mounted(stack) as mount:
        for number in range(FILES):
            with open(mount.path(f"d/new{number}"), "x"):
                pass
            os.unlink(mount.path(f"d/{number}"))
            with open(mount.path(f"d/{number}"), "x") as file:
                file.write("upper")
            os.rename(mount.path(f"d/new{number}"), mount.path(f"d/{number}"))
            os.unlink(mount.path(f"d/{number}"))
        assert os.listdir(mount.path("d")) == []
    with mounted(stack) as mount:
        assert os.listdir(mount.path("d")) == []
    assert len(os.listdir(os.path.join(lower, "d"))) == FILES


@only_with_plane
def test_a_removed_tree_of_the_upper_leaves_nothing(stack: Stack) -> None:
    stack.add({"d": Dir()})
    with mounted(stack) as mount:
        for number in range(10):
            os.makedirs(mount.path(f"d/new/{number}/below"))
            for name in range(FILES):
                with open(mount.path(f"d/new/{number}/below/{name}"), "x"):
                    pass
        before = mount.counted().requests
        shutil.rmtree(mount.path("d/new"))
        after = mount.counted().requests
        assert after.get("unlink") == before.get("unlink")
        os.mkdir(mount.path("d/new"))
        assert os.listdir(mount.path("d/new")) == []
        mount.forget()
        mount.await_held(open_files=0)


def test_removed_directories_stay_in_use_when_they_cross(stack: Stack) -> None:
    stack.add({"d": Dir()})
    with mounted(stack) as mount:
        os.makedirs(mount.path("d/new/one"))
        os.mkdir(mount.path("d/new/other"))
        one = os.open(mount.path("d/new/one"), os.O_RDONLY)
        other = os.open(mount.path("d/new/other"), os.O_RDONLY)
        with open(mount.path("d/new/other/f"), "x+b", buffering=0) as file:
            os.unlink(mount.path("d/new/other/f"))
            os.rmdir(mount.path("d/new/one"))
            os.rmdir(mount.path("d/new/other"))
            os.fsync(one)
            os.setxattr(file.fileno(), "user.mine", b"value")  # crosses with its directory
            os.setxattr(other, "user.mine", b"value")
            for directory in (one, other):
                os.fchmod(directory, 0o700)
                assert os.listdir(directory) == []
                st = os.fstat(directory)
                assert (stat.S_IMODE(st.st_mode), st.st_nlink) == (0o700, 0)
            assert os.getxattr(other, "user.mine") == b"value"
        os.close(one)
        os.close(other)
        mount.forget()
        mount.await_held(open_files=0, nodes=1)


def test_a_directory_that_a_lower_gets_later_does_not_show(stack: Stack) -> None:
    lower = stack.add({"d": Dir()})
    with mounted(stack) as mount:
        os.mkdir(mount.path("d/before"))
        os.mkdir(mount.path("d/new"))
        with open(mount.path("d/new/mine"), "x"):
            pass
        os.mkdir(os.path.join(lower, "d/new"))
        with open(os.path.join(lower, "d/new/lowers"), "x"):
            pass
        assert os.listdir(mount.path("d/new")) == ["mine"]
        assert not os.path.exists(mount.path("d/new/lowers"))
        with open(mount.path("d/new/lowers"), "x"):
            pass
        shutil.rmtree(mount.path("d/new"))
        assert os.listdir(mount.path("d")) == ["before"]
    with mounted(stack) as mount:
        assert os.listdir(mount.path("d")) == ["before"]


def test_a_path_deeper_than_the_limit_of_descriptors_crosses(stack: Stack) -> None:
    stack.add({"d": Dir()})
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
    with mounted(stack) as mount:
        os.mkdir(mount.path("d/new"))
        os.chdir(mount.path("d/new"))
        for _ in range(200):
            os.mkdir("below")
            os.chdir("below")
        with open("f", "x") as file:
            file.write("content")
        os.link("f", "g")
        with open("g") as file:
            assert file.read() == "content"
        os.unlink("f")
        os.unlink("g")
        for _ in range(200):
            os.chdir("..")
            os.rmdir("below")
        os.chdir("/")
        os.rmdir(mount.path("d/new"))
        assert os.listdir(mount.path("d")) == []


@only_with_plane
def test_reading_a_merged_tree_reaches_no_python(stack: Stack) -> None:
    stack.add(
        {
            **{f"d/top{number}": File(b"%d" % number) for number in range(FILES)},
            "d/both": File(b"top"),
            "d/only/f": File(b"x"),
            "d/s": Symlink("both"),
        }
    )
    stack.add(
        {
            **{f"d/bottom{number}": File(b"%d" % number) for number in range(FILES)},
            "d/both": File(b"bottom"),
            "d/below/f": File(b"y"),
        }
    )
    names = {f"{where}{number}" for where in ("top", "bottom") for number in range(FILES)}
    with mounted(stack) as mount:
        before = mount.counted()
        for number in range(FILES):
            for where in ("top", "bottom"):
                with open(mount.path(f"d/{where}{number}")) as file:
                    assert file.read() == str(number)
            assert not os.path.exists(mount.path(f"d/missing{number}"))
        assert set(os.listdir(mount.path("d"))) == names | {"both", "only", "s", "below"}
        with open(mount.path("d/s")) as file:
            assert file.read() == "top"
        assert os.listxattr(mount.path("d/both")) == []
        assert os.listdir(mount.path("d/only")) == os.listdir(mount.path("d/below")) == ["f"]
        assert os.path.getsize(mount.path("d/below/f")) == 1
        assert os.stat(mount.path("d")).st_nlink == 1
        after = mount.counted()
        made = {
            kind for kind, number in after.requests.items() if number > before.requests.get(kind, 0)
        }
        assert made <= {"lookup", "getattr"}
        # The directory below the root is merged itself; its names are known after some lookups.
        assert after.requests["lookup"] - before.requests.get("lookup", 0) <= 20
        assert after.answered >= before.answered + 3 * FILES
        for entry in os.scandir(mount.path("d")):
            assert entry.inode() == os.lstat(entry.path).st_ino


def test_markers_hold_in_a_tree_whose_names_are_known(stack: Stack) -> None:
    lower = stack.add({f"d/{number}": File(b"lower") for number in range(FILES)})
    stack.add({"d/opaque/f": File(b"x"), "d/redirected/f": File(b"y"), "d/0": File(b"bottom")})
    with mounted(stack) as mount:
        for number in range(0, FILES, 2):
            os.unlink(mount.path(f"d/{number}"))
        shutil.rmtree(mount.path("d/opaque"))
        os.mkdir(mount.path("d/opaque"))
        os.rename(mount.path("d/redirected"), mount.path("d/moved"))
    shown = {str(number) for number in range(1, FILES, 2)} | {"opaque", "moved"}
    with mounted(stack) as mount:
        for _ in range(2):
            for number in range(FILES):
                assert os.path.exists(mount.path(f"d/{number}")) == number % 2
            assert not os.path.exists(mount.path("d/redirected"))
            assert os.listdir(mount.path("d/opaque")) == []
            assert not os.path.exists(mount.path("d/opaque/f"))
            assert os.listdir(mount.path("d/moved")) == ["f"]
            assert os.path.exists(mount.path("d/moved/f"))
            assert set(os.listdir(mount.path("d"))) == shown
            mount.forget()
    assert len(os.listdir(os.path.join(lower, "d"))) == FILES


def test_names_that_python_changes_are_found_as_they_are_afterwards(stack: Stack) -> None:
    lower = stack.add({f"d/{number}": File(b"lower") for number in range(2 * FILES)})
    stack.add({f"d/sub{number}/f": File(b"x") for number in range(10)})
    with mounted(stack) as mount:
        with open(mount.path("d/first"), "x"):
            pass

        def look(name: str) -> str | None:
            """Look a name up after all nodes but the directory's were forgotten, and have its names known then."""
            kept = os.open(mount.path("d"), os.O_RDONLY)
            mount.forget()
            try:
                with open(mount.path(f"d/{name}")) as file:
                    return file.read()
            except FileNotFoundError:
                return None
            finally:
                os.listdir(mount.path("d"))  # the names are handed over again
                os.close(kept)

        assert look("1") == "lower"
        with open(mount.path("d/1"), "r+") as file:
            file.write("upper")
        assert look("1") == "upper"
        os.unlink(mount.path("d/2"))
        assert look("2") is None
        os.rename(mount.path("d/3"), mount.path("d/moved"))
        assert look("3") is None
        assert look("moved") == "lower"
        os.rename(mount.path("d/4"), mount.path("d/5"))
        assert look("4") is None
        assert look("5") == "lower"
        os.link(mount.path("d/6"), mount.path("d/linked"))
        assert look("linked") == "lower"
        assert look("missing") is None
        with open(mount.path("d/missing"), "x") as file:
            file.write("made")
        assert look("missing") == "made"
        os.mkfifo(mount.path("d/fifo"))
        mount.forget()
        assert stat.S_ISFIFO(os.stat(mount.path("d/fifo")).st_mode)
        # A copy-up of what lies in a directory that only a lower had.
        with open(mount.path("d/sub1/f"), "r+") as file:
            file.write("upper")
        assert look("sub1/f") == "upper"
        os.chmod(mount.path("d/sub2"), 0o700)
        look("1")
        assert stat.S_IMODE(os.stat(mount.path("d/sub2")).st_mode) == 0o700
        with open(mount.path("d/sub2/new"), "x") as file:
            file.write("made")
        assert look("sub2/new") == "made"
        shutil.rmtree(mount.path("d/sub3"))
        assert look("sub3/f") is None
        names = set(os.listdir(mount.path("d")))
        assert names == {entry.name for entry in os.scandir(mount.path("d"))}
        assert {"first", "moved", "linked", "fifo", "sub2"} <= names
        assert not names & {"2", "3", "4", "sub3"}
    with open(os.path.join(lower, "d/1")) as file:
        assert file.read() == "lower"


def test_a_reader_of_a_merged_directory_goes_on_while_names_change(stack: Stack) -> None:
    stack.add({f"d/{number:050}": File() for number in range(300)})
    stack.add({f"d/{number:050}": File() for number in range(200, 500)})
    with mounted(stack) as mount:
        for round_ in range(3):
            with os.scandir(mount.path("d")) as entries:
                seen = [next(entries).name for _ in range(5)]
                # Names that stay are all seen, each once, while Python and the plane make others.
                gone = f"{100 + round_:050}"
                with open(mount.path(f"d/new{round_}"), "x"):
                    pass
                os.unlink(mount.path(f"d/{gone}"))
                os.mkdir(mount.path(f"d/newer{round_}"))
                os.listdir(mount.path("d"))
                seen += [entry.name for entry in entries]
            assert len(seen) == len(set(seen))
            stayed = {f"{number:050}" for number in range(500)}
            assert stayed - {f"{100 + number:050}" for number in range(round_ + 1)} <= set(seen)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.one_in(3)
def test_random_changes_among_lookups_end_as_in_a_plain_tree(stack: Stack, seed: int) -> None:
    halves = STARTING_POINT[::2], STARTING_POINT[1::2]
    for half in halves:
        stack.add({name: File(b"lower " + os.fsencode(name)) for name in half})
    plain = os.path.join(stack.directory, "plain")
    for name in STARTING_POINT:
        os.makedirs(os.path.dirname(f"{plain}/{name}"), exist_ok=True)
        with open(f"{plain}/{name}", "wb") as file:
            file.write(b"lower " + os.fsencode(name))
    with mounted(stack) as mount:
        for turn in range(12):
            for root in (plain, mount.target):
                play(root, 100 * seed + turn, 30)
            for _ in range(3):  # the names are known after a few
                assert _contents(mount.target) == _contents(plain)
                if turn % 3 == 0:
                    mount.forget()


def _contents(root: str) -> dict[str, object]:
    """What each name means that `play` may make, and what the listings say."""
    found: dict[str, object] = {}
    for directory in sorted(os.listdir(root)):
        found[directory] = sorted(os.listdir(f"{root}/{directory}"))
    for name in (*NAMES, *(f"{name}.missing" for name in NAMES)):
        path = f"{root}/{name}"
        try:
            st = os.lstat(path)
        except FileNotFoundError:
            found[name] = None
            continue
        content: object = None
        if stat.S_ISREG(st.st_mode):
            with open(path, "rb") as file:
                content = file.read()
        elif stat.S_ISDIR(st.st_mode):
            content = sorted(os.listdir(path))
        elif stat.S_ISLNK(st.st_mode):
            content = os.readlink(path)
        found[name] = stat.S_IFMT(st.st_mode), content
    return found


@only_with_plane
def test_names_are_handed_over_again_after_changes(stack: Stack) -> None:
    stack.add({f"d/{number}": File(b"x") for number in range(FILES)})
    with mounted(stack) as mount:
        for turn in range(8):
            os.unlink(mount.path(f"d/{turn}"))
            for made in range(3):
                with open(mount.path(f"d/new{turn}.{made}"), "x"):
                    pass
        for _ in range(10):
            mount.forget()
            before = mount.counted()
            for number in range(FILES):
                assert os.path.exists(mount.path(f"d/{number}")) == (number >= 8)
            after = mount.counted()
        assert after.requests["lookup"] <= before.requests["lookup"] + 1  # of "d", which is merged
        assert after.answered >= before.answered + FILES
        assert len(os.listdir(mount.path("d"))) == FILES - 8 + 24


@only_with_open
@only_with_plane
def test_a_copied_file_is_the_planes_again(stack: Stack) -> None:
    """One request of a copy-up or a rename reaches Python, if the directory is in the upper."""
    lower = stack.add({f"d/{number}": File(b"lower") for number in range(2 * FILES)})
    with mounted(stack) as mount:
        for number in range(FILES):  # the names are handed over after some requests
            assert os.path.exists(mount.path(f"d/{number}"))
        os.truncate(mount.path("d/0"), 3)
        inodes = {number: os.stat(mount.path(f"d/{number}")).st_ino for number in range(FILES)}
        before = mount.counted().requests
        for number in range(1, FILES):
            with open(mount.path(f"d/{number}"), "r+b", buffering=0) as file:
                file.write(b"upper")
        with open(mount.path("d/1"), "ab") as file:
            file.write(b" and more")
        for number in range(1, FILES):
            path = mount.path(f"d/{number}")
            os.utime(path, ns=(number, number))
            os.chmod(path, 0o600)
            st = os.stat(path)
            assert (st.st_ino, st.st_mtime_ns, st.st_nlink) == (inodes[number], number, 1)
        after = mount.counted().requests
        assert {kind: after[kind] - before.get(kind, 0) for kind in after if kind != "forget"} == {
            kind: FILES - 1 if kind == "open" else 0 for kind in after if kind != "forget"
        }
        for number in range(FILES, 2 * FILES):
            os.rename(mount.path(f"d/{number}"), mount.path(f"d/moved{number}"))
            os.stat(mount.path(f"d/moved{number}"))
        moved = mount.counted().requests
        assert moved["rename"] == FILES
        assert (
            moved.get("lookup", 0) <= after.get("lookup", 0) + 4
        )  # the names are handed over again
        assert {kind for kind in moved if moved[kind] != after.get(kind, 0)} <= {
            "rename",
            "lookup",
            "forget",
        }
        mount.forget()
        for number in range(1, FILES):
            with open(mount.path(f"d/{number}"), "rb") as file:
                assert file.read().startswith(b"upper")
                assert os.fstat(file.fileno()).st_ino == inodes[number]
    for number in range(2 * FILES):
        with open(os.path.join(lower, f"d/{number}"), "rb") as file:
            assert file.read() == b"lower"


def test_small_files_are_copied_up_while_the_plane_has_them(stack: Stack) -> None:
    lower = stack.add({f"d/{number}": File(b"lower") for number in range(FILES)})
    with mounted(stack) as mount, contextlib.ExitStack() as files:
        for number in range(FILES):  # the names are handed over after some requests
            os.stat(mount.path(f"d/{number}"))
        os.truncate(mount.path("d/0"), 3)
        before = [os.stat(mount.path(f"d/{number}")) for number in range(FILES)]
        opened = [
            files.enter_context(open(mount.path(f"d/{number}"), "r+b", buffering=0))
            for number in range(1, 9)
        ]
        for file in opened:
            file.write(b"UP")
            assert file.read() == b"wer"
        with open(mount.path("d/9"), "wb", buffering=0) as file:
            file.write(b"n")
        with open(mount.path("d/10"), "r+b", buffering=0) as file:
            assert os.fstat(file.fileno()).st_ctime_ns == before[10].st_ctime_ns
        os.setxattr(mount.path("d/1"), "user.mine", b"value")  # now it is Python's
        opened[0].write(b"!")
        os.rename(mount.path("d/3"), mount.path("d/moved"))
        os.link(mount.path("d/4"), mount.path("d/linked"))
        opened[3].write(b"?")
        os.unlink(mount.path("d/2"))
        files.close()
        mount.forget()
        names = ["1", "moved", "linked", "9", "10"]
        inodes = [os.stat(mount.path(f"d/{name}")).st_ino for name in names]
        assert inodes == [before[number].st_ino for number in (1, 3, 4, 9, 10)]
    with mounted(stack) as mount:
        assert not {"2", "3"} & {*os.listdir(mount.path("d"))}
        for name, content in {
            "1": b"UPwer!",
            "moved": b"UPwer",
            "linked": b"UPwer?",
            "9": b"n",
            "10": b"lower",
        }.items():
            with open(mount.path(f"d/{name}"), "rb") as found:
                assert found.read() == content
    for number in range(FILES):
        with open(os.path.join(lower, f"d/{number}"), "rb") as found:
            assert found.read() == b"lower"


@only_with_open
@only_with_plane
def test_the_first_write_to_a_small_file_of_a_lower_reads_nothing(stack: Stack) -> None:
    """The kernel has its data from the copy-up. Without syncs, as a slow one lets the file cross."""
    files = {f"d/{number}": b"lower%d" % number * (1 + 6 * number) for number in range(FILES)}
    stack.add({name: File(content) for name, content in files.items()})
    with mounted(stack, options=MountOptions(volatile=True)) as mount:

        def write_to(name: str) -> None:
            with open(mount.path(name), "r+b", buffering=0) as file:
                file.write(b"UP")

        write_to("d/0")  # the directory is copied up, too
        os.stat(mount.path("d/1"))
        before = mount.counted().native
        for name in [*files][1:]:
            write_to(name)
        after = mount.counted().native
        assert after["write"].count - before["write"].count == FILES - 1
        assert after["read"].count == before["read"].count
    for name, content in files.items():
        with open(os.path.join(stack.upper, name), "rb") as file:
            assert file.read() == b"UP" + content[2:]


@only_with_open
@only_with_plane
def test_files_of_a_lower_are_removed_while_the_plane_has_them(stack: Stack) -> None:
    stack.add({f"d/{number}": File(b"lower") for number in range(FILES)} | {"d/s": Symlink("0")})
    with mounted(stack) as mount:
        os.unlink(mount.path("d/0"))  # which copies the directory up
        os.stat(mount.path("d/1"))
        before = mount.counted().requests["unlink"]
        for name in [*range(1, FILES), "s"]:
            os.unlink(mount.path(f"d/{name}"))
            assert not os.path.lexists(mount.path(f"d/{name}"))
        mount.forget()
        requests = mount.counted().requests
        assert requests["unlink"] - before == FILES
        # Those of the first one, and of the directory.
        assert requests.get("setattr", 0) + requests.get("forget", 0) < FILES // 4
        with open(mount.path("d/1"), "x") as file:
            file.write("new")
        assert os.listdir(mount.path("d")) == ["1"]
    with mounted(stack) as mount:
        assert os.listdir(mount.path("d")) == ["1"]


def test_files_of_a_lower_are_renamed_while_the_plane_has_them(stack: Stack) -> None:
    lower = stack.add(
        {f"d/{number}": File(b"%d" % number) for number in range(FILES)} | {"e/f": File(b"other")}
    )
    with mounted(stack) as mount:
        for name in ("d/first", "e/first"):
            os.close(os.open(mount.path(name), os.O_CREAT | os.O_EXCL))
        before = [os.stat(mount.path(f"d/{number}")) for number in range(FILES)]
        with os.scandir(mount.path("d")) as reader:
            seen = {next(reader).name}
            for number in range(FILES):
                os.rename(mount.path(f"d/{number}"), mount.path(f"d/new{number}"))
            seen |= {entry.name for entry in reader}
        assert seen >= {"first"}
        os.rename(mount.path("d/new1"), mount.path("e/new"))
        os.rename(mount.path("d/new2"), mount.path("e/f"))
        os.rename(mount.path("d/new3"), mount.path("d/0"))  # a whiteout is there
        names = ["d/new9", "e/new", "e/f", "d/0"]
        numbers = [9, 1, 2, 3]
        with open(mount.path("d/new9"), "r+b", buffering=0) as file:
            os.rename(mount.path("d/new9"), mount.path("d/9"))
            names[0] = "d/9"
            file.write(b"!")
        mount.forget()
        for name, number in zip(names, numbers, strict=True):
            st = os.stat(mount.path(name))
            assert (st.st_ino, st.st_mtime_ns) == (
                before[number].st_ino,
                before[number].st_mtime_ns if number != 9 else st.st_mtime_ns,
            )
    with mounted(stack) as mount:
        expected = {"first", "0", "9", *(f"new{number}" for number in range(FILES))}
        assert {*os.listdir(mount.path("d"))} == expected - {"new1", "new2", "new3", "new9"}
        assert {*os.listdir(mount.path("e"))} == {"first", "new", "f"}
        for name, content in zip(names, (b"!", b"1", b"2", b"3"), strict=True):
            with open(mount.path(name), "rb") as found:
                assert found.read() == content
    for number in range(FILES):
        with open(os.path.join(lower, f"d/{number}"), "rb") as found:
            assert found.read() == b"%d" % number


def test_a_removed_file_of_a_lower_is_never_written_to(stack: Stack) -> None:
    """A program keeps its inode, without opening it, and so can still change it."""
    lower = stack.add({f"d/{name}": File(b"lower", 0o640) for name in "fgh"})
    before = os.stat(os.path.join(lower, "d/g"))
    with mounted(stack) as mount, contextlib.ExitStack() as files:
        os.unlink(mount.path("d/f"))
        kept = [os.open(mount.path(f"d/{name}"), os.O_PATH) for name in "gh"]
        for fd in kept:
            files.callback(os.close, fd)
        for name in "gh":
            os.unlink(mount.path(f"d/{name}"))
        with open(mount.path("d/g"), "xb") as file:
            file.write(b"another")
        paths = [f"/proc/self/fd/{fd}" for fd in kept]
        os.utime(paths[0], ns=(5, 7))
        for path, fd in zip(paths, kept, strict=True):
            assert os.fstat(fd).st_nlink == 0
            with open(path, "rb") as file:
                assert file.read() == b"lower"
        assert os.stat(paths[0]).st_mtime_ns == 7
        os.chmod(paths[0], 0o600)
        with open(paths[0], "r+b") as file:
            file.write(b"UP")
        with open(paths[0], "rb") as file:
            assert file.read() == b"UPwer"
        assert os.stat(paths[0]).st_mode == stat.S_IFREG | 0o600
        files.close()
        mount.forget()
        mount.await_held(open_files=0)
        assert os.listdir(mount.path("d")) == ["g"]
    after = os.stat(os.path.join(lower, "d/g"))
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    with open(os.path.join(lower, "d/g"), "rb") as file:
        assert file.read() == b"lower"


def test_a_copied_file_that_is_the_planes_again_crosses_once_more(stack: Stack) -> None:
    lower = stack.add({f"d/{name}": File(b"lower") for name in "fgh"} | {"e/f": File(b"other")})
    with mounted(stack) as mount:
        path = mount.path("d/f")
        with open(path, "rb", buffering=0) as reader, open(path, "r+b", buffering=0) as writer:
            number = os.fstat(reader.fileno()).st_ino
            for turn in range(3):
                writer.write(b"%d" % turn)
                os.setxattr(path, "user.turn", b"%d" % turn)
                assert os.getxattr(path, "user.turn") == b"%d" % turn
                assert sorted(os.listdir(mount.path("d"))) == ["f", "g", "h"]
                assert os.stat(path).st_ino == number
            os.fsync(writer.fileno())
            assert os.pread(reader.fileno(), 10, 0) == b"012er"
            os.rename(path, mount.path("d/moved"))
            writer.write(b"!")
            os.rename(mount.path("d/moved"), mount.path("e/moved"))
            assert os.stat(mount.path("e/moved")).st_ino == number
            os.link(mount.path("e/moved"), mount.path("e/linked"))
            writer.write(b"?")
            assert os.fstat(reader.fileno()).st_nlink == 2
            os.unlink(mount.path("e/linked"))
            os.rename(mount.path("d/g"), mount.path("e/moved"))
            writer.write(b".")
            assert os.pread(reader.fileno(), 10, 0) == b"012!?."
            assert os.fstat(reader.fileno()).st_nlink == 0
            os.unlink(mount.path("e/moved"))
        with open(mount.path("d/h"), "r+b", buffering=0) as file:
            file.write(b"UPPER")
            os.rename(mount.path("d/h"), mount.path("d/plain"))
            os.unlink(mount.path("d/plain"))  # no lower has the name: the plane removes it
            os.setxattr(file.fileno(), "user.mine", b"value")
            file.write(b" and more")
            st = os.fstat(file.fileno())
            assert (st.st_nlink, st.st_size) == (0, len(b"UPPER and more"))
        assert os.listdir(mount.path("d")) == []
        assert os.listdir(mount.path("e")) == ["f"]
        mount.forget()
        mount.await_held(open_files=0)
    with mounted(stack) as mount:
        assert os.listdir(mount.path("d")) == []
    assert sorted(os.listdir(os.path.join(lower, "d"))) == ["f", "g", "h"]
    with open(os.path.join(lower, "d/f"), "rb") as file:
        assert file.read() == b"lower"


def test_nodes_that_go_back_and_forth_are_forgotten(stack: Stack) -> None:
    stack.add({f"d/{number}": File(b"lower") for number in range(FILES)})
    with mounted(stack) as mount:
        for turn in range(3):
            for number in range(FILES):
                path = mount.path(f"d/{number}")
                with open(path, "r+b", buffering=0) as file:
                    file.write(b"%d" % turn)
                    if number % 2:
                        os.setxattr(path, "user.turn", b"%d" % turn)
                if number % 3 == 0:
                    os.rename(path, f"{path}.moved")
                    os.rename(f"{path}.moved", path)
            mount.forget()
            mount.await_held(open_files=0, nodes=1)


def test_names_that_were_missing_are_made_and_found(stack: Stack) -> None:
    stack.add({"d/e/f": File()})
    with mounted(stack) as mount:
        assert not any(os.path.exists(mount.path(f"d/e/missing{number}")) for number in range(9))
        with open(mount.path("d/e/made"), "w") as file:
            file.write("made")
        assert os.path.getsize(mount.path("d/e/made")) == 4
        os.rename(mount.path("d/e/made"), mount.path("d/e/missing1"))
        os.unlink(mount.path("d/e/f"))
        assert not os.path.exists(mount.path("d/e/f"))
        assert os.path.getsize(mount.path("d/e/missing1")) == 4
        assert os.listdir(mount.path("d/e")) == ["missing1"]
