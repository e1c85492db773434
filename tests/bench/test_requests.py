"""Bounds on the requests of the kernel for the work of programs, independent of load on the machine.

A warm stat, a missing name asked for again, a warm scan and a warm list cost none; neither does a warm read of an open
file, as `tests/fuse/test_caching.py` proves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

from overlaykit.bench.systems.ours import Ours
from overlaykit.bench.systems.system import Counts
from overlaykit.bench.workload import Context
from overlaykit.bench.workloads import workloads

from ..views.fixtures import IDENTITIES, only_as
from ..views.user import TestUser

pytestmark = only_as(IDENTITIES[0])

SCALE = 0.02

FREE = ("stat/warm", "missing/warm", "scan/warm", "list/warm")

BOUNDS: Mapping[str, float] = {
    "stat/first": 1.1,
    "missing/first": 1.1,
    "scan/first": 0.2,
    "list/first": 0.1,
    "list/second": 0.01,
    "read/first": 4.1,
    "read/warm": 3.0,
    "create/small": 6.8,
    "copy-up/small": 7.1,
    # One request is for the root, the first since the mount.
    "copy-up/big": 9.0,  # one is the FLUSH that the kernel sends once per mount
    "rename/upper": 4.0,
    "rename/lower": 5.1,
    "unlink/upper": 3.1,
    "unlink/lower": 4.1,
}
"""Requests of one operation; one request for a directory of a hundred files counts as a hundredth."""


IN_PYTHON: Mapping[str, float] = {
    "stat/first": 0.02,
    "missing/first": 0.02,
    "scan/first": 0.04,
    "list/first": 0.02,
    "read/first": 0.03,
    "read/warm": 0,
    "create/small": 0.05,
    "unlink/upper": 0.1,
    "rename/upper": 0.1,
    "tar/extract": 0.07,
    "width/create 1000": 0.05,
    "copy-up/small": 1.1,
    "rename/lower": 1.1,
    "unlink/lower": 1.1,
    "rm/lower": 1.1,
}
"""Requests of one operation that reach Python: those for the root, and the first one for a directory.

A copy-up, a rename and a removal of a lower's file take one.
"""

WRITTEN: Mapping[str, int] = {
    "unlink/lower": 1024,
    "rm/lower": 1024,
    "rename/lower": 4096 + 2048,
    "copy-up/small": 3 * 4096 + 2048,
}
"""Bytes that the daemon writes for one operation on files of 4 KiB, replies included, such as a page that is read."""


def counted(user: TestUser, name: str) -> tuple[int, Counts]:
    """The operations of one round of a workload, and its counts."""
    workload = next(one for one in workloads(SCALE) if one.name == name)
    context = Context(directory=tempfile.mkdtemp(dir=user.scratch), systems=[Ours()])
    with workload.open(context) as subjects:
        assert subjects[0].count is not None
        return workload.operations, subjects[0].count()


def test_workloads_keep_to_their_bounds_of_requests(user: TestUser) -> None:
    too_many = {}
    for name, bound in BOUNDS.items():
        operations, (requests, native, _) = counted(user, name)
        if waited_for(requests) + waited_for(native) > bound * operations:
            too_many[name] = (operations, requests, native)
    assert not too_many


def test_workloads_keep_to_their_bounds_of_requests_that_reach_python(user: TestUser) -> None:
    too_many = {}
    for name, bound in IN_PYTHON.items():
        operations, (requests, _, _) = counted(user, name)
        if waited_for(requests) > bound * operations:
            too_many[name] = (operations, requests)
    assert not too_many


def waited_for(requests: Mapping[str, int]) -> int:
    """The number of requests that a program waits for: the kernel sends the others later, also of the preparations."""
    return sum(requests.values()) - requests.get("forget", 0)


def test_workloads_keep_to_their_bounds_of_bytes_written(user: TestUser) -> None:
    too_much = {}
    for name, bound in WRITTEN.items():
        operations, (_, _, written) = counted(user, name)
        if written > bound * operations:
            too_much[name] = (operations, written)
    assert not too_much


def test_what_the_kernel_has_cached_costs_no_request(user: TestUser) -> None:
    for name in FREE:
        _, (requests, native, _) = counted(user, name)
        assert not requests, name
        assert not native, name
