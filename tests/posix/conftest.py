"""The harnesses of the table, one for each system, identity and disk; all are closed at the end."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Protocol

import pytest

from .disks import Disk
from .harness import Harness
from .sandbox import ORDINARY_UID, Sandbox
from .table import Identity


class HarnessOf(Protocol):
    """Return the harness of a system, an identity and the disk of its upper; `more`: overlaykit's options."""

    def __call__(
        self, system: str, identity: Identity, disk: Disk = "own", more: tuple[str, ...] = ()
    ) -> Harness: ...


@pytest.fixture(scope="session")
def harness_of() -> Iterator[HarnessOf]:
    """A function that returns the harness of a system and an identity; the session closes all harnesses."""
    with harnesses() as harness_of:
        yield harness_of


@contextlib.contextmanager
def harnesses() -> Iterator[HarnessOf]:
    made: dict[str, Harness] = {}
    sandboxes: dict[Identity, tuple[Sandbox, str]] = {}
    with contextlib.ExitStack() as cleanup:

        def sandbox_of(identity: Identity) -> tuple[Sandbox, str]:
            if identity not in sandboxes:
                # On a disk: an overlay needs xattrs and file handles, which /tmp may not have.
                directory = cleanup.enter_context(
                    tempfile.TemporaryDirectory(prefix="overlaykit-posix-", dir="/var/tmp")
                )
                sandbox = Sandbox(
                    unprivileged=identity == "userns", ordinary=identity == "ordinary"
                )
                cleanup.callback(sandbox.close)
                if identity != "root" and os.geteuid() == 0:
                    os.chown(directory, ORDINARY_UID, ORDINARY_UID)
                sandboxes[identity] = sandbox, directory
            return sandboxes[identity]

        def harness_of(
            system: str, identity: Identity, disk: Disk = "own", more: tuple[str, ...] = ()
        ) -> Harness:
            sandbox, directory = sandbox_of(identity)
            name = "-".join((system, disk, *more))
            key = f"{name}-{identity}"
            if key not in made:
                base = os.path.join(directory, name)
                harness = Harness(system, identity, sandbox, base, disk, more)
                cleanup.callback(harness.close)
                made[key] = harness
            return made[key]

        yield harness_of
