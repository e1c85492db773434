"""How long it takes to start and end an isolated command: ours beside bubblewrap, podman and unshare.

    python -m bench.start [--rounds N] [--json]

Every contender runs `true` once in each round, in an order that is drawn anew: what else the machine does meanwhile
hits all of them alike. The first round warms caches and is not counted. Those that are not installed, or do not work
here, are left out and said so. Compare ratios; times belong to a machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Contender:
    """A way to run `true`."""

    name: str
    argv: tuple[str, ...]
    what: str
    """What it sets up, which is not the same for all."""


@dataclass(frozen=True)
class Result:
    """Times in seconds. `ratio`: the median as a multiple of bubblewrap's, or of the first contender's without it."""

    name: str
    what: str
    command: str
    rounds: int
    median: float
    fastest: float
    slowest: float
    spread: float
    """The distance between the first and the third quartile."""
    ratio: float


def contenders() -> list[Contender]:
    """Ours, and those of the others that are installed."""
    ours = os.path.join(os.path.dirname(sys.executable), "overlaykit")
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    known = [
        Contender(
            "bwrap",
            ("bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"),
            "namespaces; the host's root, read-only, no layers",
        ),
        Contender(
            "overlaykit",
            (ours, "run", "--", "true"),
            "namespaces, an init, a layered root that can be written to",
        ),
        Contender(
            "overlaykit, read-only",
            (ours, "run", "--read-only", "--network", "none", "--", "true"),
            "the same without an upper",
        ),
        Contender(
            "unshare",
            ("unshare", *user, "--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "true"),
            "namespaces alone",
        ),
        Contender(
            "podman",
            ("podman", "run", "--rm", "--network=none", "--rootfs", "/:O", "true"),
            "namespaces, cgroups, a layered root that can be written to",
        ),
    ]
    return [contender for contender in known if shutil.which(contender.argv[0])]


def measure(contender: Contender) -> float:
    """Seconds from start to end. Raises CalledProcessError if it fails."""
    began = time.perf_counter()
    subprocess.run(
        contender.argv,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    return time.perf_counter() - began


def race(rounds: int) -> tuple[list[Result], list[str]]:
    """The results, fastest first, and what was left out."""
    entered, left_out = [], []
    for contender in contenders():
        try:
            measure(contender)
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip().partition("\n")[0]
            left_out.append(f"{contender.name} does not work here: {reason}")
        else:
            entered.append(contender)
    times: dict[str, list[float]] = {contender.name: [] for contender in entered}
    for _ in range(rounds):
        for contender in random.sample(entered, len(entered)):
            times[contender.name].append(measure(contender))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    base = medians.get("bwrap") or next(iter(medians.values()))
    results = []
    for contender in entered:
        taken = times[contender.name]
        first, _, third = statistics.quantiles(taken, n=4, method="inclusive")
        results.append(
            Result(
                name=contender.name,
                what=contender.what,
                command=" ".join((os.path.basename(contender.argv[0]), *contender.argv[1:])),
                rounds=rounds,
                median=medians[contender.name],
                fastest=min(taken),
                slowest=max(taken),
                spread=third - first,
                ratio=medians[contender.name] / base,
            )
        )
    return sorted(results, key=lambda result: result.median), left_out


def show(results: list[Result], left_out: list[str]) -> None:
    """Print a plain table: it is meant to be pasted."""
    width = max(len(result.name) for result in results)
    print(
        f"{'':{width}}  {'median':>9}  {'fastest':>9}  {'spread':>9}  {'ratio':>7}  what is set up"
    )
    for result in results:
        print(
            f"{result.name:{width}}  {result.median * 1e3:6.1f} ms  {result.fastest * 1e3:6.1f} ms"
            f"  {result.spread * 1e3:6.1f} ms  {result.ratio:6.1f}x  {result.what}"
        )
    print(
        f"\n{results[0].rounds} rounds of `true`; Linux {platform.release()}, {os.cpu_count()} cores,",
        end=" ",
    )
    print(f"Python {platform.python_version()}, uid {os.geteuid()}; spread: between the quartiles")
    for line in left_out:
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.start", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--rounds", type=int, default=20, metavar="N", help="default: 20; at least 2"
    )
    parser.add_argument("--json", action="store_true", help="for programs: an object")
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("a spread takes at least 2 rounds")
    results, left_out = race(args.rounds)
    if args.json:
        machine = {
            "kernel": platform.release(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        print(
            json.dumps(
                {"machine": machine, "results": [asdict(r) for r in results], "left_out": left_out},
                indent=2,
            )
        )
    else:
        show(results, left_out)


if __name__ == "__main__":
    main()
