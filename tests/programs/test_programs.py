"""Unmodified programs in a view over the host work as on a plain directory, and the host stays unchanged.

Each test runs a shell script in a directory of the user: first in a view, then, if it changes no other directory, on
the directory itself. Both print the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterator

import pytest

from ..views.user import TestUser
from .host import SYSTEM, manifest

GIT = "git -c user.name=alice -c user.email=alice@example.org -c init.defaultBranch=main"


@contextlib.contextmanager
def untouched(*directories: str) -> Iterator[None]:
    """Check that the block changes neither the host's files nor these directories."""
    before = manifest((*SYSTEM, *directories))
    yield
    after = manifest((*SYSTEM, *directories))
    assert {path for path in {*before, *after} if before.get(path) != after.get(path)} == set()


def in_a_view(user: TestUser, script: str, *options: str) -> str:
    """The output of a script in a view over the host, which leaves the host unchanged."""
    with untouched(user.path("place")):
        return user.succeeds(
            "run", *options, "-w", user.path("place"), "--", "sh", "-euc", f"exec 2>&1\n{script}"
        )


def on_the_host(user: TestUser, script: str) -> str:
    """The output of a script on the directory itself."""
    return user.program(["sh", "-euc", f"exec 2>&1\n{script}"], cwd=user.path("place"))


def test_git_clones_a_repository_and_finds_it_unchanged(user: TestUser) -> None:
    place = user.directory("place", readme="hello\n", program="#!/bin/sh\n")
    os.chmod(os.path.join(place, "program"), 0o755)
    os.symlink("readme", os.path.join(place, "link"))
    for number in range(100):
        user.write(os.path.join(user.directory("place", f"d{number}"), "file"), f"{number}\n")
    user.program(
        ["sh", "-euc", f"{GIT} init -q; {GIT} add .; {GIT} commit -qm first; {GIT} gc -q"],
        cwd=place,
    )
    script = (
        "git status --short --branch\n"  # of lower files
        "git clone -q . ../clone\n"
        "cd ../clone\n"
        "git status --short --branch\n"
        f"echo more >>readme; {GIT} commit -qam second; git status --short --branch; git fsck --strict\n"
        f"{GIT} checkout -q -b branch HEAD~1; cat readme; {GIT} merge -q main; cat readme\n"
        "git log --format=%s; git ls-files -s\n"
    )
    seen = in_a_view(user, script)
    assert "second\nfirst\n" in seen
    assert seen == on_the_host(user, script)


def wheel(user: TestUser) -> str:
    """A wheel with a module and a command, made without network and build back end."""
    path = user.path("place", "wheels", "greeting-1.0-py3-none-any.whl")
    os.makedirs(os.path.dirname(path))
    files = {
        "greeting.py": "def main():\n    print('hello from', __file__)\n",
        "greeting-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        "greeting-1.0.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        "greeting-1.0.dist-info/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
    }
    record = "".join(f"{name},,\n" for name in files) + "greeting-1.0.dist-info/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, "greeting-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return path


@pytest.mark.long
def test_python_makes_a_virtual_environment_and_pip_installs_a_wheel(user: TestUser) -> None:
    user.set_deadline(300)
    wheel(user)
    script = (
        "/usr/bin/python3 -m venv env\n"
        "env/bin/pip --isolated --disable-pip-version-check --no-cache-dir install -q --no-index"
        " --find-links wheels greeting\n"
        "env/bin/greet\n"
        "env/bin/pip --isolated --disable-pip-version-check uninstall -q -y greeting\n"
        "test ! -e env/bin/greet\n"
    )
    printed = in_a_view(user, script)
    module = user.path("place", "env", "lib")
    assert printed.splitlines()[-1].startswith(f"hello from {module}/python3")
    assert os.listdir(user.path("place")) == ["wheels"]


MAKEFILE = """
program: main.o part.o libshared.so
\t$(CC) -o $@ main.o part.o -L. -lshared -Wl,-rpath,.
libshared.so: shared.c
\t$(CC) -shared -fPIC -o $@ $<
%.o: %.c part.h
\t$(CC) -O1 -c -o $@ $<
clean:
\trm -f *.o *.so program
"""


def test_a_c_program_is_built_with_make(user: TestUser) -> None:
    sources = {
        "Makefile": MAKEFILE,
        "part.h": "int part(void);\nint shared(void);\n",
        "part.c": '#include "part.h"\nint part(void) { return 40; }\n',
        "shared.c": "int shared(void) { return 2; }\n",
        "main.c": (
            '#include <stdio.h>\n#include "part.h"\n'
            'int main(void) { return printf("%d\\n", part() + shared()) < 0; }\n'
        ),
    }
    user.directory("place", **sources)
    script = (
        "make -s -j2; ./program\n"
        "make -s -q && echo up to date\n"
        "sed -i s/40/50/ part.c; make -s; ./program\n"  # make compares times
        "make -s clean; ls\n"
    )
    seen = in_a_view(user, script)
    assert seen.startswith("42\nup to date\n52\n")
    assert seen == on_the_host(user, script)


def test_sqlite_works_in_wal_mode(user: TestUser) -> None:
    database = user.path("place", "data.db")
    user.directory("place")
    user.program(
        [
            "sqlite3",
            database,
            "CREATE TABLE t(n INTEGER PRIMARY KEY, s TEXT); INSERT INTO t VALUES (0, 'lower')",
        ]
    )
    # The writers of a WAL map its -shm file, and lock it.
    script = r"""
/usr/bin/python3 - <<'EOF'
import os, sqlite3
print(sqlite3.connect("data.db").execute("PRAGMA journal_mode=WAL").fetchone()[0])
children = []
for writer in range(4):
    if os.fork() == 0:
        connection = sqlite3.connect("data.db", timeout=60, isolation_level=None)
        for _ in range(50):
            connection.execute("INSERT INTO t(s) VALUES (?)", (f"writer {writer}",))
        os._exit(0)
for _ in range(4):
    assert os.wait()[1] == 0
reader = sqlite3.connect("data.db")
print(sorted(os.listdir(".")))
print(reader.execute("SELECT s, count(*) FROM t GROUP BY s").fetchall())
EOF
sqlite3 data.db 'PRAGMA wal_checkpoint(TRUNCATE); PRAGMA integrity_check; SELECT count(*) FROM t'
"""
    seen = in_a_view(user, script)
    assert seen.startswith("wal\n['data.db', 'data.db-shm', 'data.db-wal']\n")
    assert seen.endswith("ok\n201\n")
    assert seen == on_the_host(user, script)


def test_tar_unpacks_the_same_tree_as_on_a_plain_directory(user: TestUser) -> None:
    user.directory("place")
    plain = user.directory("plain")
    archive = user.path("place", "tree.tar")
    user.program(["tar", "-C", "/usr/share", "-cf", archive, "zoneinfo"])
    user.program(["tar", "-C", plain, "-xf", archive])
    script = (
        f"tar -xf tree.tar; diff -r --no-dereference zoneinfo {plain}/zoneinfo\n"
        'listed() { cd "$1"; find zoneinfo ! -type d -printf "%P %y %m %s %T@ %n %l\\n" | sort; }\n'
        f"(listed .) >ours; (listed {plain}) >plain; cmp ours plain; wc -l <ours; rm ours plain\n"
        "rm -r zoneinfo; ls\n"
    )
    count, *rest = in_a_view(user, script).splitlines()
    assert int(count) > 300  # the number depends on the machine
    assert rest == ["tree.tar"]


PACKAGE = {
    "DEBIAN/control": (
        "Package: overlaykit-greeting\nVersion: 1\nArchitecture: all\nMaintainer: n <n@o>\nDescription: x\n"
    ),
    "DEBIAN/postinst": "#!/bin/sh\necho configured >/etc/overlaykit-greeting.done\n",
    "DEBIAN/conffiles": "/etc/overlaykit-greeting.conf\n",
    "etc/overlaykit-greeting.conf": "greeting=hello\n",
    "usr/bin/overlaykit-greeting": "#!/bin/sh\n. /etc/overlaykit-greeting.conf\necho $greeting\n",
}


def test_dpkg_installs_and_removes_a_package(user: TestUser) -> None:
    user.directory("place")
    tree = user.directory("tree")
    for name, text in PACKAGE.items():
        path = os.path.join(tree, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.chmod(user.write(path, text), 0o755 if text.startswith("#!") else 0o644)
    deb = user.path("place", "greeting.deb")
    user.program(["dpkg-deb", "--root-owner-group", "--build", tree, deb])
    script = (
        "dpkg -i greeting.deb >log 2>&1 || { cat log; exit 1; }\n"
        "overlaykit-greeting; cat /etc/overlaykit-greeting.done\n"
        "dpkg -s overlaykit-greeting | grep Status; dpkg -V overlaykit-greeting\n"
        "dpkg --purge overlaykit-greeting >log 2>&1 || { cat log; exit 1; }\n"
        "ls /usr/bin/overlaykit-greeting /etc/overlaykit-greeting.conf 2>/dev/null || echo gone\n"
    )
    assert in_a_view(user, script) == "hello\nconfigured\nStatus: install ok installed\ngone\n"


CHANGE_BOTH = """
import errno, hashlib
try:
    open("big", "r+b")
except OSError as error:
    print(errno.errorcode[error.errno])
print(hashlib.sha256(open("big", "rb").read()).hexdigest())
open("small", "a").write("changed")
print(open("small").read())
"""


def test_a_full_disk_during_copy_up_fails_the_open_and_damages_no_file(
    user: TestUser,
) -> None:
    data = os.urandom(3 << 20)
    place = user.directory("place", big=data, small="small, ")
    full = user.directory("full")
    upper = os.path.join(full, "upper")
    with untouched(place):
        done = user.changed_machine(
            f"mount -t tmpfs -o size=2m small {full}; mkdir {upper}",
            *("run", "--upper", upper, "-w", place, "--", "/usr/bin/python3", "-c", CHANGE_BOTH),
            then=f"find {full} -type f",
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "ENOSPC",
        hashlib.sha256(data).hexdigest(),
        "small, changed",
        f"{upper}{place}/small",
    ]
