"""Every workload on files runs on overlaykit and on a plain directory."""

from __future__ import annotations

import fnmatch

import pytest

from overlaykit.bench.results import Report
from overlaykit.bench.runner import Runner
from overlaykit.bench.selection import Plan
from overlaykit.bench.systems import custom, known
from overlaykit.bench.workload import Workload
from overlaykit.bench.workloads import workloads

from ..views.fixtures import IDENTITIES, only_as
from ..views.user import TestUser

TINY = 0.002

LIKE_OTHERS = (
    *(f"{group}/first" for group in ("scan", "list", "read", "missing", "git")),
    *("python/warm", "width/* 1000", "clients/read [148]"),
    "fio/*",
)
"""Patterns of workloads that resemble another one, which the test skips."""

SPARED = "fio/randwrite-buffered-1"
SYSTEMS = ("plain", "overlaykit")


def run(user: TestUser, chosen: list[Workload]) -> Report:
    systems, left_out = custom.read(SYSTEMS, [], *known.known())
    plan = Plan(workloads=chosen, systems=systems, left_out=left_out, baseline="plain", rounds=1)
    runner = Runner(plan, parent=user.scratch)
    runner.run()
    found = runner.report()
    assert found is not None
    return found


def tiny() -> dict[str, Workload]:
    return {workload.name: workload for workload in workloads(TINY)}


def is_like_others(name: str) -> bool:
    return name != SPARED and any(fnmatch.fnmatchcase(name, like) for like in LIKE_OTHERS)


def is_cold(name: str) -> bool:
    return name.partition("/")[2].startswith(("cold", "seqread-cold"))


GROUPS = sorted({name.partition("/")[0] for name in tiny()})


@only_as(IDENTITIES[0])
@pytest.mark.parametrize("group", GROUPS)
def test_each_workload_is_measured_on_every_system(user: TestUser, group: str) -> None:
    check_each_is_measured(
        user,
        [
            workload
            for name, workload in tiny().items()
            if name.startswith(f"{group}/") and not is_like_others(name) and not is_cold(name)
        ],
    )


# It empties the caches of the whole machine: also those that another test counts on.
@pytest.mark.long
@only_as(IDENTITIES[0])
def test_each_workload_is_measured_with_empty_caches(user: TestUser) -> None:
    chosen = {name: workload for name, workload in tiny().items() if is_cold(name)}
    check_each_is_measured(user, [*chosen.values()])


def check_each_is_measured(user: TestUser, chosen: list[Workload]) -> None:
    assert chosen
    found = run(user, chosen)
    takes_root = {one.workload for one in found.left_out}
    assert takes_root <= {workload.name for workload in chosen if is_cold(workload.name)}
    assert not (user.is_root and takes_root), found.left_out
    for workload in chosen:
        for system in SYSTEMS:
            cost = found.cost(workload.name, system)
            if workload.name in takes_root:
                assert cost is None
                continue
            assert cost is not None
            assert min(cost.values) > 0
            assert (cost.requests is not None) == (system == "overlaykit")


@only_as("ordinary user")
def test_an_ordinary_user_measures_without_root(user: TestUser) -> None:
    names = ("stat/first", "create/small", "git/warm", "clients/read 2")
    found = run(user, [tiny()[name] for name in names])
    assert found.left_out == ()
    assert len(found.costs) == len(names) * len(SYSTEMS)


def test_names_are_unique_and_say_in_one_line_what_is_done() -> None:
    every = workloads()
    assert len({workload.name for workload in every}) == len(every)
    for workload in every:
        assert workload.what
        assert "\n" not in workload.what
        assert "/" in workload.name


def test_a_full_run_goes_as_far_as_a_hundred_layers_a_million_names_and_eight_clients() -> None:
    sizes: dict[str, list[int]] = {}
    for workload in workloads():
        if workload.point is not None:
            sizes.setdefault(workload.point.axis, []).append(workload.point.size)
    assert {axis: max(of) for axis, of in sizes.items()} == {
        "lowers": 100,
        "names in the directory": 1_000_000,
        "client processes": 8,
    }
