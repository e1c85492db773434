"""PostgreSQL: initdb and pgbench with the data directory in a view end with the rows of a plain directory."""

from __future__ import annotations

import contextlib
import glob
import os
import select
from collections.abc import Iterator

import pytest

from ..fuse.mounted import mounted
from ..overlay.stack import Stack
from ..posix.sandbox import ORDINARY_UID
from .programs import run

SECONDS = 900
SOMEBODY = f"{ORDINARY_UID}"
AS_SOMEBODY = {
    False: ("setpriv", "--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups"),
    True: ("unshare", "--user", f"--map-user={SOMEBODY}", f"--map-group={SOMEBODY}"),
}
"""The server refuses to run as root, also as root of a user namespace."""

ROWS = """
SELECT sum(abalance), count(*) FROM pgbench_accounts;
SELECT * FROM pgbench_tellers ORDER BY tid;
SELECT * FROM pgbench_branches ORDER BY bid;
SELECT tid, bid, aid, delta FROM pgbench_history ORDER BY 1, 2, 3, 4;
"""


class Server:
    """A database below `directory`, with data checksums, so that lost bytes are detected."""

    def __init__(self, directory: str, sockets: str, *, unprivileged: bool) -> None:
        self._data = os.path.join(directory, "data")
        self._sockets = sockets
        self._become = AS_SOMEBODY[unprivileged]
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        if not found:
            pytest.fail("there is no PostgreSQL: run 'make proofs', which installs it")
        self._programs = found[-1]

    def run(self, program: str, *arguments: str) -> str:
        path = os.path.join(self._programs, program)
        return run(*self._become, path, *arguments, where=self._sockets, PGHOST=self._sockets)

    def initialize(self) -> None:
        self.run(
            "initdb", "--data-checksums", "--username=somebody", "--auth=trust", "-D", self._data
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        options = f"-k {self._sockets} -c listen_addresses="
        log = os.path.join(self._sockets, "log")
        self.run("pg_ctl", "-D", self._data, "-o", options, "-l", log, "-w", "start")
        with open(os.path.join(self._data, "postmaster.pid"), encoding="ascii") as file:
            server = os.pidfd_open(int(file.readline()))
        try:
            yield
        finally:
            self.run("pg_ctl", "-D", self._data, "-m", "fast", "-w", "stop")
            # pg_ctl waits for the end of postmaster.pid, which the server removes before it leaves the directory.
            select.select([server], [], [])
            os.close(server)

    def bench(self) -> None:
        self.run("pgbench", "-U", "somebody", "-i", "-s", "2", "-q", "postgres")
        transactions = ("-c", "4", "-t", "500", "--random-seed=1")
        self.run("pgbench", "-U", "somebody", *transactions, "postgres")

    def rows(self) -> str:
        return self.run("psql", "-U", "somebody", "-At", "-c", ROWS, "postgres")

    def check(self) -> None:
        self.run("pg_checksums", "--check", "-D", self._data)


def test_a_database_in_a_view_has_the_rows_of_one_on_a_plain_directory(stack: Stack) -> None:
    os.chmod(stack.directory, 0o755)
    lower = stack.add({})
    places = {
        name: os.path.join(root, "place")
        for name, root in (("lower", lower), ("plain", stack.directory))
    }
    places["sockets"] = os.path.join(stack.directory, "sockets")
    for path in places.values():
        os.mkdir(path)
        if not stack.unprivileged:
            os.chown(path, ORDINARY_UID, ORDINARY_UID)
    plain = Server(places["plain"], places["sockets"], unprivileged=stack.unprivileged)
    plain.initialize()
    with plain.running():
        plain.bench()
        expected = plain.rows()
    with mounted(stack) as mount:
        server = Server(mount.path("place"), places["sockets"], unprivileged=stack.unprivileged)
        server.initialize()
        with server.running():
            server.bench()
            assert server.rows() == expected
    with mounted(stack):  # at the same place
        server.check()
        with server.running():
            assert server.rows() == expected
