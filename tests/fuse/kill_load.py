"""What programs do while the daemon of their mount is killed: each step checks what the ones before have left."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import tempfile
from collections.abc import Callable

_NAMES = 12


def fill(directory: str, clients: int) -> None:
    """Make the lower that the clients begin with."""
    for client in range(clients):
        home = os.path.join(directory, f"client{client}")
        os.makedirs(os.path.join(home, "tree", "below"))
        for number in range(_NAMES):
            with open(os.path.join(home, f"f{number}"), "wb") as file:
                file.write(b"lower %d\n" % number)
            with open(os.path.join(home, "tree", "below", f"f{number}"), "wb") as file:
                file.write(b"below %d\n" % number)


def run(directory: str, client: int, took: Callable[[], bool]) -> None:
    """Take steps in the client's part of the directory, while `took`, called before each, says so."""
    home = os.path.join(directory, f"client{client}")
    state = _Client(home, client)
    taken = 0
    with sqlite3.connect(os.path.join(home, "data.db"), isolation_level=None) as data:
        data.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, text TEXT)")
        while took():
            state.step()
            if taken % 10 == 0:
                data.execute("BEGIN")
                data.execute("INSERT INTO rows VALUES (?, ?)", (taken, "x" * (taken % 3000)))
                data.execute("COMMIT")
            taken += 1
        (rows,) = data.execute("SELECT count(*) FROM rows").fetchone()
        assert rows == (taken + 9) // 10
        assert data.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    data.close()
    state.check()


class _Client:
    """The files of one client, as they should be: name to content, below its home."""

    def __init__(self, home: str, seed: int) -> None:
        self._home = home
        self._random = random.Random(seed)
        self._files = {f"f{number}": b"lower %d\n" % number for number in range(_NAMES)}
        self._below = {f"f{number}": b"below %d\n" % number for number in range(_NAMES)}
        self._tree = "tree"
        self._open = os.open(self._path("f0"), os.O_RDWR | os.O_APPEND)
        self._opened = "f0"
        self._steps = [
            self._write,
            self._append,
            self._append_open,
            self._rename,
            self._remove,
            self._make_temporary,
            self._make_tree,
            self._move_tree,
            self._link,
            self._change_mode,
            self._read,
            self._read_below,
            self._list,
            self._exchange_by_link,
        ]

    def _path(self, *names: str) -> str:
        return os.path.join(self._home, *names)

    def step(self) -> None:
        self._random.choice(self._steps)()

    def check(self) -> None:
        """Compare all with what is there."""
        os.close(self._open)
        self._list()
        for name, content in self._files.items():
            assert _content(self._path(name)) == content, name
        assert sorted(os.listdir(self._path(self._tree, "below"))) == sorted(self._below)
        for name, content in self._below.items():
            assert _content(self._path(self._tree, "below", name)) == content, name

    def _any(self) -> str:
        return self._random.choice(sorted(self._files))

    def _new(self) -> str:
        return f"n{self._random.randrange(3 * _NAMES)}"

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.choice((0, 10, 5000, 70_000)))

    def _write(self) -> None:
        name, content = self._random.choice((self._any(), self._new())), self._bytes()
        if name == self._opened:
            return
        with open(self._path(name), "wb") as file:
            file.write(content)
            if self._random.random() < 0.2:
                file.flush()
                os.fsync(file.fileno())
        self._files[name] = content

    def _append(self) -> None:
        name, content = self._any(), self._bytes()
        with open(self._path(name), "ab") as file:
            file.write(content)
        self._files[name] += content
        if len(self._files[name]) > 1 << 20:
            os.truncate(self._path(name), 10)
            self._files[name] = self._files[name][:10]

    def _append_open(self) -> None:
        os.write(self._open, b"appended")
        self._files[self._opened] += b"appended"

    def _rename(self) -> None:
        old, new = self._any(), self._random.choice((self._any(), self._new()))
        if self._opened in (old, new) or old == new:
            return
        os.rename(self._path(old), self._path(new))
        self._files[new] = self._files.pop(old)
        assert not os.path.lexists(self._path(old))

    def _remove(self) -> None:
        name = self._any()
        if name == self._opened or len(self._files) < _NAMES:
            return
        with open(self._path(name), "rb") as file:
            os.unlink(self._path(name))
            assert os.fstat(file.fileno()).st_nlink == 0
            assert file.read() == self._files.pop(name)
        assert not os.path.lexists(self._path(name))

    def _make_temporary(self) -> None:
        content = self._bytes()
        fd, path = tempfile.mkstemp(dir=self._home)
        os.unlink(path)
        with open(fd, "w+b") as file:
            file.write(content)
            file.seek(0)
            assert file.read() == content
            assert os.fstat(file.fileno()).st_nlink == 0

    def _make_tree(self) -> None:
        path = self._path("made")
        os.mkdir(path)
        for number in range(5):
            with open(os.path.join(path, f"f{number}"), "xb") as file:
                file.write(b"%d" % number)
        os.symlink("f0", os.path.join(path, "link"))
        os.rename(path, path + "2")
        assert _content(os.path.join(path + "2", "link")) == b"0"
        for name in [*(f"f{number}" for number in range(5)), "link"]:
            os.unlink(os.path.join(path + "2", name))
        os.rmdir(path + "2")

    def _move_tree(self) -> None:
        moved = {"tree": "moved", "moved": "tree"}[self._tree]
        os.rename(self._path(self._tree), self._path(moved))
        self._tree = moved

    def _link(self) -> None:
        name, new = self._any(), self._new()
        if new in self._files:
            return
        os.link(self._path(name), self._path(new))
        assert os.stat(self._path(name)).st_nlink == 2
        os.unlink(self._path(new))

    def _exchange_by_link(self) -> None:
        name = self._any()
        os.symlink(name, self._path("symlink"))
        assert _content(self._path("symlink")) == self._files[name]
        os.unlink(self._path("symlink"))

    def _change_mode(self) -> None:
        mode = self._random.choice((0o600, 0o640, 0o755))
        path = self._path(self._any())
        os.chmod(path, mode)
        assert stat.S_IMODE(os.stat(path).st_mode) == mode

    def _read(self) -> None:
        name = self._any()
        assert _content(self._path(name)) == self._files[name]

    def _read_below(self) -> None:
        name = self._random.choice(sorted(self._below))
        assert _content(self._path(self._tree, "below", name)) == self._below[name]

    def _list(self) -> None:
        found = {name for name in os.listdir(self._home) if not name.startswith("data.db")}
        assert found == {*self._files, self._tree}


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
