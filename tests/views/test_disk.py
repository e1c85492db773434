"""`--disk`: what real programs write in a view ends at the limit with ENOSPC, and what they remove gives room again."""

from __future__ import annotations

import os
import subprocess

import pytest

from overlaykit import namespace
from overlaykit.views import View

from .fixtures import only_with
from .user import TestUser

pytestmark = only_with(driver="fuse")

MIB = 1 << 20

FULL = "No space left on device"


def shell(user: TestUser, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a view of 8 MiB."""
    return user.overlaykit(
        "run", "--disk", "8m", *options, "--", "bash", "-c", f"cd {user.scratch}; {script}"
    )


def succeeds(user: TestUser, script: str, *options: str) -> str:
    done = shell(user, f"set -e; {script}", *options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return str(done.stdout)


def taken(directory: str) -> int:
    """The bytes that a tree takes on its disk."""
    done = subprocess.run(["du", "-s", "-B1", directory], capture_output=True, check=True)
    return int(done.stdout.split()[0])


def test_dd_ends_at_the_limit_and_goes_on_after_rm(user: TestUser) -> None:
    done = shell(
        user,
        "dd if=/dev/zero of=large bs=64k count=200 conv=fsync; rm large;"
        "set -e; for i in 1 2 3; do dd if=/dev/zero of=f bs=1M count=6 conv=fsync status=none; rm f; done; echo done",
    )
    assert FULL in done.stderr
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_what_is_kept_of_a_view_that_was_full_is_within_the_limit(user: TestUser) -> None:
    upper = user.path("upper")
    done = shell(user, "dd if=/dev/zero of=large bs=64k count=200", "--upper", upper)
    assert done.returncode == 1
    assert FULL in done.stderr
    assert 7 * MIB < taken(upper) <= 8 * MIB + (64 << 10)
    # It is full for the next one, too, and removal in it gives room.
    done = shell(user, "mkdir new", "--upper", upper)
    assert (done.returncode, FULL in done.stderr) == (1, True)
    succeeds(user, "rm large; mkdir new; head -c 6M /dev/zero >new/f; sync new/f", "--upper", upper)
    assert taken(upper) < 7 * MIB


def test_cp_of_a_tree_counts_what_du_counts(user: TestUser) -> None:
    tree = user.directory("tree")
    for number in range(40):
        user.directory(f"tree/{number}", small=b"s" * 100, large=b"l" * 100_000)
    assert 4 * MIB < taken(tree) < 5 * MIB
    said = succeeds(
        user,
        "cp -r tree one; sync -f .; df -B1 --output=size,used . | tail -1; du -sB1 one;"
        "! cp -r tree two 2>&1 | tail -1; rm -r one two; cp -r tree two; cmp tree/7/large two/7/large",
    )
    first, second, *full = said.splitlines()
    size, used = map(int, first.split())
    assert size == 8 * MIB
    assert int(second.split()[0]) <= used <= int(second.split()[0]) + (256 << 10)
    assert FULL in full[0]


def test_copy_up_counts(user: TestUser) -> None:
    user.write(user.path("five"), b"5" * (5 * MIB))
    user.write(user.path("four"), b"4" * (4 * MIB))
    done = shell(
        user,
        "set -e; echo more >>five; chmod 600 five; set +e; (echo more >>four) || echo refused; set -e;"
        "tail -c 5 four | grep -q 44444; rm five; echo more >>four; tail -c 5 four",
    )
    assert done.stdout == "refused\nmore\n"
    assert FULL in done.stderr
    assert done.returncode == 0


def test_two_writers_at_once_have_one_limit(user: TestUser) -> None:
    upper = user.path("upper")
    done = shell(
        user,
        "for i in 1 2; do (dd if=/dev/urandom of=f$i bs=32k count=200 conv=fsync) & done; wait",
        "--upper",
        upper,
    )
    assert FULL in done.stderr
    assert 7 * MIB < taken(upper) <= 8 * MIB + (64 << 10)


def test_holes_take_nothing(user: TestUser) -> None:
    succeeds(
        user,
        "truncate -s 1G sparse; dd if=/dev/zero of=sparse bs=1M seek=500 count=6 conv=notrunc,fsync status=none;"
        "! dd if=/dev/zero of=sparse bs=1M seek=900 count=6 conv=notrunc,fsync 2>/dev/null;"
        "truncate -s 0 sparse; head -c 7M /dev/zero >other; sync other",
    )


def test_further_hard_links_take_nothing_and_the_last_gives_back(user: TestUser) -> None:
    succeeds(
        user,
        "head -c 6M /dev/zero >a; sync a; ln a b; ln a c; rm a b;"
        "! (head -c 6M /dev/zero >d && sync d) 2>/dev/null; rm d c; head -c 6M /dev/zero >d; sync d",
    )


def test_a_removed_file_counts_while_it_is_open(user: TestUser) -> None:
    succeeds(
        user,
        "exec 3<>held; head -c 6M /dev/zero >&3; sync held; rm held;"
        "! (head -c 6M /dev/zero >d && sync d) 2>/dev/null; rm d; exec 3>&-;"
        "head -c 6M /dev/zero >d; sync d",
    )


def test_fallocate_of_too_much_fails_and_leaves_room(user: TestUser) -> None:
    """By writing zeros, as posix_fallocate(3) does where the file system cannot."""
    succeeds(
        user,
        '! python3 -c \'import os; os.posix_fallocate(os.open("a", os.O_RDWR | os.O_CREAT), 0, 20 << 20);'
        " os.fsync(3)' 2>/dev/null; rm a; head -c 6M /dev/zero >d; sync d",
    )


MAPPED = """
import errno, mmap, os, sys
fd = os.open("mapped", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 64 << 20)
with mmap.mmap(fd, 64 << 20) as memory:
    for at in range(0, 64 << 20, 4096):
        memory[at] = 1
    try:
        memory.flush()
        os.fsync(fd)
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def test_writes_through_a_mapping_count_and_msync_says_that_they_are_lost(user: TestUser) -> None:
    upper = user.directory("upper")
    user.write(user.path("mapped.py"), MAPPED)
    assert succeeds(user, "python3 mapped.py", "--upper", upper) == "ENOSPC\n"
    assert 6 * MIB < taken(upper) <= 8 * MIB + (64 << 10)


def test_a_database_at_the_limit_keeps_what_it_has_committed(user: TestUser) -> None:
    script = (
        "import sqlite3\n"
        "base = sqlite3.connect('base')\n"
        "base.execute('create table t (n, b)')\n"
        "n = 0\n"
        "try:\n"
        "    while True:\n"
        "        with base: base.execute('insert into t values (?, ?)', (n, b'x' * 300_000))\n"
        "        n += 1\n"
        "except sqlite3.OperationalError as error: print(error)\n"
        "base.close()\n"
        "base = sqlite3.connect('base')\n"
        "assert base.execute('select count(*) from t').fetchone() == (n,), n\n"
        "assert base.execute('pragma integrity_check').fetchone() == ('ok',)\n"
    )
    user.write(user.path("base.py"), script)
    said = succeeds(user, "python3 base.py")
    assert said in ("database or disk is full\n", "disk I/O error\n")


def test_the_kernels_overlayfs_refuses_a_limit_it_cannot_keep(user: TestUser) -> None:
    said = user.refused(
        "run",
        "-l",
        user.small_system(),
        "-v",
        "/usr:/usr:ro",
        "--driver",
        "kernel",
        "--disk",
        "8m",
        "true",
    )
    assert said.startswith("--disk 8388608: ")
    assert said.endswith("use --driver fuse")
    auto = ("run", "-l", user.small_system(), "-v", "/usr:/usr:ro", "--driver", "auto")
    done = user.overlaykit(*auto, "--disk", "8m", "df", "-B1", "--output=size", "/")
    assert (done.returncode, done.stdout.split()[-1]) == (0, f"{8 * MIB}")


@pytest.mark.parametrize("size", ["1", "8x", "-1", "", "63k"])
def test_a_limit_that_is_none_is_named(user: TestUser, size: str) -> None:
    assert user.refused("run", f"--disk={size}", "true").startswith(f"--disk {size[:1]}")


def test_a_view_without_changes_has_none_to_limit(user: TestUser) -> None:
    assert "--read-only" in user.refused("run", "--read-only", "--disk", "8m", "true")
    with pytest.raises(namespace.BadLimit):
        View(disk=1)


def test_a_named_view_keeps_its_limit(user: TestUser) -> None:
    name = f"disk-{os.path.basename(user.scratch)[-8:]}"
    script = (
        "df -B1 --output=size,used / | tail -1; head -c 3M /dev/zero >>/var/tmp/x; sync /var/tmp/x"
    )
    first = user.succeeds("run", "--name", name, "--disk", "8m", "--", "bash", "-c", script).split()
    second = user.succeeds("start", "-a", name).split()
    user.succeeds("rm", name)
    assert first[0] == second[0] == f"{8 * MIB}"
    assert 3 * MIB <= int(second[1]) - int(first[1]) < 3 * MIB + (64 << 10)
