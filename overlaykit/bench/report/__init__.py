"""Reports of a run: a table for the terminal, and a directory with JSON, plots and a page.

May import: `bench.results`, `overlaykit._native`, `overlaykit.errors`; never the measuring modules. Start
reading at `sections` (the parts of a run), then `terminal` (the table) and `folder` (the directory).
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
