"""What `make kernels` and `make proofs` run in a guest, and what they leave out there.

Under emulation a test takes ten times as long or more, and what does not depend on the kernel is left out: `make test`
runs it on the kernel of the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from overlaykit.machine.boot import Threads

EXAMPLES: Final = 20
"""Programs that each test of the oracle makes."""

SUITES: Final[Mapping[str, tuple[str, ...]]] = {
    # Without the plan's form: mutated bytes, which the program refuses before any system call of interest.
    "native": ("tests/native", "--deselect=tests/native/test_supervisor_plan.py"),
    # Without the plan's form, and without repetitions that look for leaks over many launches.
    "namespace": (
        "tests/namespace",
        "--deselect=tests/namespace/test_plan.py",
        "-k=not twenty_launches and not leaves_no_zombie",
    ),
    # The drivers (what overlayfs takes), containers (an upper on an overlay), what doctor finds, the server (pidfds of
    # peers), views in views, and the life of a view. Without options and places, which the launcher decides before it
    # mounts, and without kills at every moment, which take hours.
    "views": (
        "tests/views/test_container.py",
        "tests/views/test_driver.py",
        "tests/views/test_nested.py",
        "tests/views/test_view.py",
        "tests/cli/test_doctor.py",
        "-k=not fifty_views",
    ),
    # The server's way to know its clients. A guest has control groups of version 2 alone.
    "server": ("tests/views/test_server.py", "-k=not freezer"),
    # Limits by control groups of version 2 alone, which the machine of the tests may not have.
    "limits": ("tests/cli/test_limits_of_views.py",),
    # Limits of what uppers take by project quota, which the machine of the tests may not have either.
    "quota": ("tests/views/project_quota.py",),
    # On the kernel's overlayfs and on ours. Without the plain directory, which only tests the table, and without the
    # ordinary user's mount, whose requests are those of a user namespace.
    "posix": ("tests/posix", "-k=kernel-root or overlaykit-root or overlaykit-userns"),
    "oracle": ("tests/oracle",),
}
"""Arguments of pytest by the suite's name."""

_PATCHES_THE_KERNEL: Final = ("limits",)
"""Each group of processors, and each quota of their time, switches static keys: text of the kernel is patched."""


def threads(suite: str) -> Threads:
    """How many threads run the processors of an emulated guest (boot.Machine)."""
    return "single" if suite in _PATCHES_THE_KERNEL else "multi"


def command(suite: str) -> list[str]:
    """The command that runs a suite in a guest. A test that takes ten minutes writes where it is."""
    return [
        *(sys.executable, "-m", "pytest", "--all", "-q", "-p", "no:cacheprovider", "-n", "2"),
        *("--dist=loadgroup", "-o", "faulthandler_timeout=600", *SUITES[suite]),
    ]


def variables() -> dict[str, str]:
    """The environment of the suites."""
    return {"OVERLAYKIT_ORACLE_EXAMPLES": str(EXAMPLES), "OVERLAYKIT_TEST_PATIENCE": "20"}
