"""The directory of a report: report.json, plots and a page, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import shutil
from typing import TYPE_CHECKING, Final

from overlaykit import _native, codec
from overlaykit.errors import Error

if TYPE_CHECKING:
    from overlaykit.bench.results import Report

_DATA: Final = "report.json"
_PAGE: Final = "index.html"
_PLOT: Final = ".svg"


class OutputTaken(Error):
    message = "--output {0}: it holds {1}, which is not part of a report: name a new or an empty directory"


class OutputUnusable(Error):
    message = "--output {0}: {1}: name a new directory, in one that you may write to"


class PlotsNeedMatplotlib(Error):
    message = (
        "--output {0}: the plots need matplotlib: install 'overlaykit[bench]', or leave --output "
        "out"
    )


def check_output(directory: str) -> None:
    """Check before a run that `directory` is new, empty or a report, and can be written.

    Raises: OutputTaken, OutputUnusable, PlotsNeedMatplotlib.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise PlotsNeedMatplotlib(directory)
    path = os.path.realpath(directory)
    if not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
        raise OutputUnusable(directory, _why_not(os.path.dirname(path)))
    try:
        names = sorted(os.listdir(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputUnusable(directory, error.strerror) from None
    strange = [name for name in names if not _is_ours(name, names)]
    if strange:
        raise OutputTaken(directory, strange[0])


def write(report: Report, directory: str) -> None:
    """Write report.json, a plot for each figure (SVG), and index.html, which needs no other file.

    An existing report is replaced in one step. `codec.convert(json.loads(text), Report)` reads the JSON back, in the
    order of workloads and systems.

    Raises: as `check_output`; OSError, with nothing changed.
    """
    check_output(directory)
    from overlaykit.bench.report import canvas, counts, growth, page, ratios

    with canvas.style():
        drawings = [*ratios.draw(report), *growth.draw(report), *counts.draw(report)]
    files = {
        _DATA: codec.encode_pretty(report).encode() + b"\n",
        _PAGE: page.page(report, drawings).encode(),
        **{drawing.name + _PLOT: drawing.svg.encode() for drawing in drawings},
    }
    _put(files, os.path.realpath(directory))


def _put(files: dict[str, bytes], path: str) -> None:
    parent, name = os.path.split(path)
    made = os.path.join(parent, f".{name}.{os.getpid()}.new")
    os.mkdir(made)
    try:
        for file_name, contents in files.items():
            with open(os.path.join(made, file_name), "xb") as file:
                file.write(contents)
        try:
            os.rename(made, path)  # to a new name, or over an empty directory
        except OSError:
            here = _native.AT_FDCWD
            _native.renameat2(here, made, here, path, _native.RENAME_EXCHANGE)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(made)  # the unfinished report, or the replaced one


def _is_ours(name: str, names: list[str]) -> bool:
    """Whether a file name is that of a report's file; plots count only beside report.json."""
    return name in (_DATA, _PAGE) or (name.endswith(_PLOT) and _DATA in names)


def _why_not(parent: str) -> str:
    return (
        os.strerror(errno.EACCES)
        if os.path.isdir(parent)
        else "there is no directory to make it in"
    )
