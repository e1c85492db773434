"""From the command to the page: the report shows the results."""

from __future__ import annotations

import json
import os

from overlaykit import codec
from overlaykit.bench.results import Report

from ..views.fixtures import only_as
from ..views.user import TestUser


@only_as("ordinary user")
def test_a_report_shows_the_results_of_its_run(user: TestUser) -> None:
    chosen = ["--only", "missing/warm", "--only", "start/end"]
    systems = ["--system", "plain", "--system", "overlaykit"]
    directory = user.path("report")
    printed = user.succeeds(
        "bench", "--quick", "--rounds", "2", *chosen, *systems, "--output", directory
    )
    names = os.listdir(directory)
    assert {"ratios-1.svg", "requests.svg"} <= set(names)
    with open(os.path.join(directory, "report.json"), "rb") as file:
        found = codec.convert(json.loads(file.read()), Report)
    with open(os.path.join(directory, "index.html"), encoding="utf-8") as file:
        page = file.read()
    assert list(found.workloads) == ["missing/warm", "start/end"]
    assert all(name in page and what in page for name, what in found.workloads.items())
    rows = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    assert rows["missing/warm"].rstrip().endswith("none")
    assert "bwrap" in rows["workload"]
