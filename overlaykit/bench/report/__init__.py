"""What a run found, shown: a table for the terminal, and a directory with JSON, plots and a page.

May import: `bench.results`, `overlaykit._native`, `overlaykit.errors`; never what measures. Start reading at `sections`
(how a run is divided), then `terminal` (the table) and `folder` (the directory, from `figures` and `page`).
"""

from overlaykit.bench.report.folder import (
    OutputTaken,
    OutputUnusable,
    PlotsNeedMatplotlib,
    check_output,
    write,
)
from overlaykit.bench.report.terminal import table

__all__ = [
    "OutputTaken",
    "OutputUnusable",
    "PlotsNeedMatplotlib",
    "check_output",
    "table",
    "write",
]
