"""The runner is fair, leaves out subjects that fail, and counts requests."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from overlaykit.bench.results import LeftOut, Report
from overlaykit.bench.runner import Runner
from overlaykit.bench.selection import Plan
from overlaykit.bench.systems.system import Counts
from overlaykit.bench.workload import Context, Point, Subject, Unfit, Unit
from overlaykit.errors import Error

from ..views.fixtures import only_as
from ..views.user import TestUser

pytestmark = only_as("ordinary user")  # the user makes no difference

NAMES = ("a", "b", "c", "d")


@dataclass
class Numbers:
    """A workload whose values are the numbers of the calls. `failing`: name -> round and exception."""

    name: str = "numbers/all"
    warms: bool = False
    most_rounds: int | None = None
    point: Point | None = None
    failing: dict[str, tuple[int, BaseException]] = field(default_factory=dict)
    what: str = "count"
    unit: Unit = "s"
    more_is_better: bool = False
    operations: int = 1
    calls: list[str] = field(default_factory=list)
    counting: tuple[str, ...] = ("a",)
    counted: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def open(self, context: Context) -> Iterator[Sequence[Subject]]:
        self.directories.append(context.directory)
        assert os.listdir(context.directory) == []

        def subject(name: str) -> Subject:
            def measure() -> float:
                self.calls.append(name)
                round_ = self.calls.count(name)
                if name in self.failing and self.failing[name][0] == round_:
                    raise self.failing[name][1]
                return float(round_)

            def count() -> Counts:
                self.counted.append(name)
                return Counts({"lookup": len(self.calls)}, {"read": 5}, 3400)

            return Subject(
                name=name,
                what=f"what {name} is",
                measure=measure,
                count=count if name in self.counting else None,
            )

        yield [subject(name) for name in NAMES]


class Impossible(Numbers):
    @contextlib.contextmanager
    def open(self, context: Context) -> Iterator[Sequence[Subject]]:
        raise Unfit("needs a missing program")
        yield []


class Mistake(Error):
    message = "{0}: wrong: do it right"


def run(user: TestUser, *workloads: Numbers, rounds: int = 3) -> Report:
    return ran(Runner(planned(*workloads, rounds=rounds), parent=user.scratch))


def planned(*workloads: Numbers, rounds: int = 3) -> Plan:
    return Plan(workloads=workloads, systems=[], left_out=[], baseline="a", rounds=rounds)


def ran(runner: Runner) -> Report:
    runner.run()
    found = runner.report()
    assert found is not None
    return found


def test_every_subject_runs_once_a_round_in_random_order(user: TestUser) -> None:
    workload = Numbers()
    found = run(user, workload, rounds=20)
    each = [tuple(workload.calls[start : start + 4]) for start in range(0, 80, 4)]
    assert all(sorted(order) == list(NAMES) for order in each)
    assert len(set(each)) > 1
    assert [cost.system for cost in found.costs] == list(NAMES)
    assert found.costs[0].values == tuple(map(float, range(1, 21)))
    assert found.systems["a"] == "what a is"


def test_a_warm_up_round_is_not_counted(user: TestUser) -> None:
    found = run(user, Numbers(warms=True))
    assert {cost.values for cost in found.costs} == {(2.0, 3.0, 4.0)}


def test_requests_are_counted_once_in_an_untimed_round(user: TestUser) -> None:
    workload = Numbers()
    found = run(user, workload)
    assert workload.counted == ["a"]
    assert [cost.requests for cost in found.costs] == [{"lookup": 12}, None, None, None]
    assert [cost.native for cost in found.costs] == [{"read": 5}, None, None, None]
    assert [cost.written for cost in found.costs] == [3400, None, None, None]


def test_a_steady_workload_is_measured_less_often(user: TestUser) -> None:
    assert run(user, Numbers(most_rounds=1)).costs[0].values == (1.0,)
    assert run(user, Numbers(most_rounds=9)).costs[0].values == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (Unfit("is too small"), "is too small"),
        (OSError(30, "Read-only file system"), "Read-only file system"),
        (Mistake("x"), "x: wrong: do it right"),
        (subprocess.CalledProcessError(2, ["/bin/tar"], stderr=b"a\ntar: bad\n"), "tar: bad"),
        (subprocess.CalledProcessError(2, ["/bin/tar"]), "tar: ended with 2"),
    ],
)
def test_a_subject_that_fails_is_left_out_with_the_reason(
    user: TestUser, error: Exception, why: str
) -> None:
    workload = Numbers(failing={"b": (2, error)})
    found = run(user, workload)
    assert found.left_out == (LeftOut("b", "numbers/all", why),)
    assert [cost.system for cost in found.costs] == ["a", "c", "d"]
    assert workload.calls.count("b") == 2


def test_the_reason_names_files_as_the_workload_does(user: TestUser) -> None:
    class InTheMount(Numbers):
        @contextlib.contextmanager
        def open(self, context: Context) -> Iterator[Sequence[Subject]]:
            path = os.path.join(context.directory, "peer-1234", "tmp5678", "target", "d/f")
            self.failing = {"a": (1, OSError(30, "Read-only file system", path))}
            with super().open(context) as subjects:
                yield subjects

    assert run(user, InTheMount()).left_out[0].why == "d/f: Read-only file system"


def test_an_impossible_workload_is_left_out_with_the_reason(user: TestUser) -> None:
    found = run(user, Impossible(name="impossible/all"), Numbers())
    assert found.left_out == (LeftOut("", "impossible/all", "needs a missing program"),)
    assert len(found.costs) == 4
    assert list(found.workloads) == ["impossible/all", "numbers/all"]


def test_an_error_in_the_benchmark_is_not_hidden(user: TestUser) -> None:
    with pytest.raises(ZeroDivisionError):
        run(user, Numbers(failing={"a": (1, ZeroDivisionError())}))
    assert not [name for name in os.listdir(user.scratch) if name.startswith("overlaykit")]


def test_results_before_an_interruption_are_reported(user: TestUser) -> None:
    workloads = [Numbers(name=f"n/{number}") for number in range(4)]
    workloads[1].point = workloads[2].point = Point(series="n", axis="things", size=1)
    workloads[2].failing = {"b": (2, KeyboardInterrupt())}
    runner = Runner(planned(*workloads), parent=user.scratch)
    assert runner.report() is None
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    found = runner.report()
    assert found is not None
    assert [cost.workload for cost in found.costs] == ["n/0"] * 4 + ["n/1"] * 4
    assert found.left_out == tuple(
        LeftOut("", name, "the run ended before") for name in ("n/2", "n/3")
    )
    assert [series.points for series in found.series] == [((1, "n/1"),)]
    assert not [name for name in os.listdir(user.scratch) if name.startswith("overlaykit")]


def test_workloads_of_several_sizes_make_a_series(user: TestUser) -> None:
    workloads = [
        Numbers(name=f"n/{size}", point=Point(series="n", axis="things", size=size))
        for size in (10, 1)
    ]
    (series,) = run(user, *workloads).series
    assert (series.name, series.axis) == ("n", "things")
    assert series.points == ((1, "n/1"), (10, "n/10"))


def test_the_directory_is_removed_and_the_machine_described(user: TestUser) -> None:
    workload = Numbers()
    found = run(user, workload)
    assert not os.path.exists(workload.directories[0])
    assert found.machine.kernel == os.uname().release
    assert found.machine.uid == os.geteuid()
    assert found.machine.memory > 1 << 20
    assert found.machine.programs["overlaykit"]
