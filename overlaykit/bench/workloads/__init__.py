"""The workloads on files, the same for every system.

Start reading at `files` (the base classes); `names`, `contents`, `streams`, `programs`, `growth` and `clients` are the
workloads, `material` makes their files.
"""

from __future__ import annotations

from overlaykit.bench.workload import Workload
from overlaykit.bench.workloads import clients, contents, growth, names, programs, streams


def workloads(scale: float = 1.0) -> list[Workload]:
    """All workloads, in the order of the report. A scale below 1.0 means fewer and smaller files."""
    return [
        *(names.Stat(state, scale) for state in ("cold", "first", "warm")),
        *(names.Missing(state, scale) for state in ("first", "warm")),
        *(names.Scan(state, scale) for state in ("cold", "first", "warm")),
        *(names.List(state, scale) for state in ("first", "second", "warm")),
        names.LongList("first", scale),
        *(contents.Read(state, scale) for state in ("cold", "first", "warm")),
        contents.Create(scale),
        *(contents.Unlink(where, scale) for where in ("upper", "lower")),
        *(contents.Rename(where, scale) for where in ("upper", "lower")),
        contents.CopyUpSmall(scale),
        contents.CopyUpBig(scale),
        *(streams.Stream(kind, scale) for kind in streams.kinds()),
        programs.Untar(scale),
        programs.RemoveTree(scale),
        *(programs.GitStatus(state, scale) for state in ("first", "warm")),
        *(programs.ImportStdlib(state) for state in ("first", "warm")),
        programs.Sqlite(scale),
        programs.Build(scale),
        *growth.workloads(scale),
        *(clients.Clients(number, scale) for number in clients.NUMBERS),
    ]
