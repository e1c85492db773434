"""A synthetic report with ties, zeros, rates, curves, gaps and names that need escaping."""

from __future__ import annotations

import random

from overlaykit.bench.results import Cost, LeftOut, Machine, Report, Series

SYSTEMS = {
    "plain": "a directory",
    "overlayfs": "mount -t overlay -o lowerdir={lower},upperdir={upper},workdir={work} overlay {target}",
    "overlaykit": "overlaykit mount -o lowerdir={lower},upperdir={upper},workdir={work} {target}",
    "fuse-overlayfs": "fuse-overlayfs -o lowerdir={lower},upperdir={upper},workdir={work} {target}",
    "unionfs-fuse": "unionfs -o cow {upper}=RW:{lower}=RO {target}",
    "mergerfs": "mergerfs {upper}=RW:{lower}=NC {target}",
}
FACTORS = {
    "plain": 1.0,
    "overlayfs": 1.08,
    "overlaykit": 2.4,
    "fuse-overlayfs": 3.1,
    "unionfs-fuse": 7.7,
    "mergerfs": 5.2,
}
LAUNCHERS = {
    "unshare": "unshare --mount --pid --fork true",
    "bwrap": "bwrap --unshare-all --ro-bind / / true",
    "podman": "podman run --rm --rootfs /:O true",
}
TIMES = {
    "stat/cold": 3.1e-6,
    "stat/warm": 0.9e-6,
    "missing/first": 0.7e-6,
    "scan/first": 0.21,
    "scan/warm": 0.08,
    "list/first": 0.004,
    "read/first": 21e-6,
    "read/warm": 8e-6,
    "create/small": 31e-6,
    "copy-up/small": 95e-6,
    "rename/lower": 9e-6,
    "git/status first": 0.031,
    "<script>alert('&')</script> [bold]names[/bold] $x$": 1.2e-3,
}


def report() -> Report:
    """The same at every call."""
    chance = random.Random(4)
    costs = [
        Cost(
            workload=workload,
            system=system,
            unit="s",
            operations=10_000,
            values=_rounds(chance, seconds * _factor(chance, factor)),
            requests=_requests(workload) if system == "overlaykit" else None,
            native=_native(workload) if system == "overlaykit" else None,
        )
        for workload, seconds in TIMES.items()
        for system, factor in FACTORS.items()
        if (workload, system) != ("git/status first", "unionfs-fuse")
    ]
    costs += [
        Cost(
            workload="fio/seqread-warm-buffered-1",
            system=system,
            unit="B/s",
            more_is_better=True,
            values=_rounds(chance, 2.9e9 / factor),
        )
        for system, factor in FACTORS.items()
    ]
    for lowers in (1, 10, 100):
        costs += [
            Cost(
                workload=f"depth/stat {lowers}",
                system=system,
                unit="s",
                values=_rounds(chance, 2e-6 * factor * (1 + lowers * factor / 50)),
            )
            for system, factor in FACTORS.items()
        ]
    costs += [
        Cost(
            workload="start/end",
            system=system,
            unit="s",
            values=_rounds(chance, seconds),
        )
        for system, seconds in (
            ("plain", 0.001),
            ("overlaykit", 0.29),
            ("unshare", 0.0029),
            ("bwrap", 0.0041),
            ("podman", 0.31),
        )
    ]
    for views, size in ((1, 41e6), (10, 24e6), (100, 22e6)):
        costs.append(
            Cost(workload=f"memory/view {views}", system="overlaykit", unit="B", values=(size,))
        )
        costs.append(
            Cost(workload=f"disk/view {views}", system="overlaykit", unit="B", values=(0.0,))
        )
    names = dict.fromkeys(cost.workload for cost in costs)
    return Report(
        machine=Machine(
            kernel="6.18.0",
            processor="A Processor & Sons <2.4 GHz>",
            cores=2,
            memory=24 << 30,
            python="3.11.2",
            file_system="ext4",
            uid=0,
            programs={"fuse-overlayfs": "1.10", "git": "2.39.5"},
        ),
        started=1_795_400_000,
        baseline="plain",
        rounds=5,
        systems=SYSTEMS | LAUNCHERS,
        workloads={name: f"what {name} does, in a line" for name in names},
        costs=tuple(costs),
        series=(
            Series(
                name="stat by depth",
                axis="lowers",
                points=tuple((n, f"depth/stat {n}") for n in (1, 10, 100)),
            ),
            Series(
                name="memory of a view",
                axis="views",
                points=tuple((n, f"memory/view {n}") for n in (1, 10, 100)),
            ),
            Series(
                name="disk of a view",
                axis="views",
                points=tuple((n, f"disk/view {n}") for n in (1, 10, 100)),
            ),
        ),
        left_out=(
            LeftOut("", "fio/randwrite-direct-8", "there is no fio: apt-get install fio"),
            LeftOut("kernel <overlayfs>", "", "mount needs root; run it as root"),
            LeftOut(
                "unionfs-fuse", "git/status first", "exit status 128: fatal: not a [git] repository"
            ),
        ),
    )


def _factor(chance: random.Random, factor: float) -> float:
    return 1.0 if factor == 1 else factor * chance.uniform(0.35, 3)


def _rounds(chance: random.Random, around: float) -> tuple[float, ...]:
    return tuple(around * chance.uniform(0.9, 1.15) for _ in range(5))


def _requests(workload: str) -> dict[str, int]:
    if "warm" in workload:
        return {"lookup": 0, "getattr": 0}
    if workload.startswith("scan"):
        return {"lookup": 2, "opendir": 400, "readdirplus": 800, "releasedir": 400}
    return {"lookup": 10_000, "open": 10_000, "read": 10_000, "release": 9_990, "getattr": 12}


def _native(workload: str) -> dict[str, int]:
    return {"getattr": 20_000} if workload.startswith("copy-up") else {}
