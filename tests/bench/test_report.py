"""The reports of a run: the table, and the directory with data, plots and a page."""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from rich.console import Console

from overlaykit import codec
from overlaykit.bench.report import OutputTaken, OutputUnusable, PlotsNeedMatplotlib, table, write
from overlaykit.bench.report.claims import claims
from overlaykit.bench.results import Cost, Report

from .report_example import report

pytestmark = pytest.mark.xdist_group("report")


@pytest.fixture(scope="module", autouse=True)
def own_matplotlib(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep matplotlib's font cache in a temporary directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a report."""
    path = os.path.join(tmp_path_factory.mktemp("written"), "report")
    write(report(), path)
    return path


class Page(HTMLParser):
    """The text, the ids and the external references of a page, and its open elements."""

    VOID = frozenset({"meta", "br", "hr", "img", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words = ""
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self._open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def printed(*, terminal: bool, width: int = 100) -> str:
    text = io.StringIO()
    console = Console(
        file=text,
        width=width,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
    )
    console.print(table(report()))
    return text.getvalue()


def small() -> Report:
    """A report without plots, which are slow."""
    whole = report()
    names = list(whole.workloads)[:2]
    return whole.replace(
        workloads={name: whole.workloads[name] for name in names},
        costs=tuple(
            cost.replace(requests=None)
            for cost in whole.costs
            if cost.workload in names and cost.system == "overlaykit"
        ),
        series=(),
    )


def page(directory: str) -> Page:
    with open(os.path.join(directory, "index.html"), encoding="utf-8") as file:
        return Page(file.read())


def everything(directory: str) -> dict[str, bytes]:
    """The contents of a directory's files."""
    contents = {}
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), "rb") as file:
            contents[name] = file.read()
    return contents


def test_the_table_fits_a_hundred_columns_with_six_systems() -> None:
    lines = printed(terminal=False).splitlines()
    assert max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)


def test_a_pipe_gets_the_table_without_colours() -> None:
    assert "\x1b" not in printed(terminal=False)
    assert "\x1b" in printed(terminal=True)


def test_the_table_has_every_workload_its_best_and_its_requests() -> None:
    text = printed(terminal=False, width=250)
    assert all(name in text for name in report().workloads)
    row = next(line for line in text.splitlines() if line.startswith("stat/warm"))
    assert row.split()[1:4] == ["1.00", "µs*", "1.66"]
    assert row.split()[-1] == "none"
    lines = text.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("copy-up/small"))
    assert lines[at].split()[-1] == "6.00"  # of which two are native
    assert lines[at + 1].split()[-2:] == ["4.00", "Python"]


def test_the_table_lists_what_was_left_out_with_the_reason() -> None:
    text = printed(terminal=False, width=250)
    assert "left out: fio/randwrite-direct-8: there is no fio: apt-get install fio" in text
    assert "left out: kernel <overlayfs>: mount needs root; run it as root" in text
    assert (
        "git/status first on unionfs-fuse: exit status 128: fatal: not a [git] repository" in text
    )


def test_launchers_have_a_table_of_their_own() -> None:
    headings = [
        line for line in printed(terminal=False).splitlines() if line.startswith("workload")
    ]
    assert [("mergerfs" in line, "podman" in line) for line in headings] == [
        (True, False),
        (False, True),
    ]


def test_the_figures_can_be_read_back(written: str) -> None:
    assert codec.convert(json.loads(everything(written)["report.json"]), Report) == report()


def test_one_report_gives_the_same_files_each_time(written: str, tmp_path: str) -> None:
    again = os.path.join(tmp_path, "again")
    write(report(), again)
    assert everything(again) == everything(written)


def test_the_page_is_sound_and_fetches_nothing(written: str) -> None:
    shown = page(written)
    assert not {"script", "link", "img", "iframe", "object"} & set(shown.tags)
    assert all(link.startswith("#") for link in shown.links)
    assert {link[1:] for link in shown.links} <= set(shown.ids)
    assert len(shown.ids) == len(set(shown.ids))


def test_the_page_has_every_workload_system_and_reason_as_it_is_named(written: str) -> None:
    words, run = page(written).words, report()
    assert all(name in words and what in words for name, what in run.workloads.items())
    assert all(name in words and what in words for name, what in run.systems.items())
    assert all(left.system in words and left.why in words for left in run.left_out)
    assert run.machine.processor in words
    assert "4.00 in Python" in words


def test_every_plot_is_a_file_and_on_the_page(written: str) -> None:
    plots = {name: text for name, text in everything(written).items() if name.endswith(".svg")}
    names = " ".join(plots)
    assert all(kind in names for kind in ("ratios-1", "growth-1-stat-by-depth", "requests"))
    assert page(written).tags.count("svg") == len(plots)
    for text in plots.values():
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_report_with_nothing_in_it_is_shown_too(tmp_path: str) -> None:
    empty = report().replace(costs=(), series=(), left_out=(), workloads={})
    write(empty, os.path.join(tmp_path, "report"))
    assert "0 workloads" in page(os.path.join(tmp_path, "report")).words
    Console(file=io.StringIO()).print(table(empty))


def test_a_directory_with_other_files_is_left_alone(tmp_path: str) -> None:
    with open(os.path.join(tmp_path, "thesis.tex"), "w") as file:
        file.write("years of work")
    with pytest.raises(OutputTaken) as refused:
        write(small(), str(tmp_path))
    assert str(refused.value).startswith(f"--output {tmp_path}: it holds thesis.tex, ")
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_pictures_that_are_not_of_a_report_are_left_alone(tmp_path: str) -> None:
    with open(os.path.join(tmp_path, "drawing.svg"), "w"):
        pass
    with pytest.raises(OutputTaken):
        write(small(), str(tmp_path))


def test_an_older_report_is_replaced_as_a_whole(tmp_path: str) -> None:
    path = os.path.join(tmp_path, "report")
    write(report(), path)
    newer = small()
    write(newer, path)
    assert codec.convert(json.loads(everything(path)["report.json"]), Report) == newer
    assert not any(name.startswith("growth") for name in os.listdir(path))
    assert os.listdir(tmp_path) == ["report"]


def test_a_full_disk_leaves_the_older_report_and_no_half_of_the_new_one(tmp_path: str) -> None:
    path = os.path.join(tmp_path, "report")
    write(small(), path)
    before = everything(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["index.html"]) - 1, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(small(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert everything(path) == before
    assert os.listdir(tmp_path) == ["report"]


@pytest.mark.parametrize(
    ("name", "why"),
    [("missing/report", "there is no directory"), ("file", "Not a directory")],
)
def test_an_impossible_output_is_refused_in_a_line(tmp_path: str, name: str, why: str) -> None:
    with open(os.path.join(tmp_path, "file"), "w"):
        pass
    with pytest.raises(OutputUnusable, match=why) as refused:
        write(small(), os.path.join(tmp_path, name))
    assert "\n" not in str(refused.value)


def test_without_matplotlib_the_error_names_the_way_out(
    tmp_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotsNeedMatplotlib, match=r"overlaykit\[bench\]"):
        write(small(), os.path.join(tmp_path, "report"))
    assert os.listdir(tmp_path) == []


def compared(prefix: str, processor: str) -> Report:
    """A run with the workloads of `bench.views.comparison`."""
    costs: dict[tuple[str, str], dict[str, float]] = {
        (processor, "s"): {"plain": 1.0, "view": 1.02, "view, kernel": 1.5, "machine": 3.0},
        ("memory", "B"): {"view": 10 << 20, "view, kernel": 0, "machine": 150 << 20},
        ("storage", "B"): {"view": 0, "machine": 1 << 20},
    }
    return report().replace(
        workloads={f"{prefix}{name}": "" for name, _ in costs},
        costs=tuple(
            Cost(
                workload=f"{prefix}{name}",
                system=system,
                unit=unit,
                values=(value * 0.97, value, value * 1.03),
            )
            for (name, unit), values in costs.items()
            for system, value in values.items()
        ),
    )


@pytest.mark.parametrize(
    ("prefix", "processor"), [("machine/", "processor"), ("", "command: processor")]
)
def test_what_is_said_of_machines_stands_beside_what_was_measured(
    prefix: str, processor: str
) -> None:
    found = [line.partition("; measured: ")[2] for line in claims(compared(prefix, processor))]
    assert found == [
        "view +2.0% (within the noise), view, kernel +50.0%, machine +200.0%.",
        "view 0 B, machine 1.00 MiB.",
        "view 10.0 MiB, view, kernel 0 B, machine 150 MiB.",
        "view 15.0 times.",
    ]


def test_a_run_without_machines_says_nothing_of_them() -> None:
    assert claims(report()) == []
