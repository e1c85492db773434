from __future__ import annotations

import os
import pathlib

from overlaykit.namespace.spec import Log
from overlaykit.views.recording import LogWriter, record_status

LIMIT = 200


def records(path: pathlib.Path) -> list[bytes]:
    """Without their times."""
    return [line.partition(b" ")[2] for line in path.read_bytes().splitlines()]


def log(directory: pathlib.Path, limit: int = 1 << 20) -> Log:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    return Log(stdout=-1, stderr=-1, directory=descriptor, name="log", limit=limit)


def test_each_line_is_a_record_and_a_long_one_several(tmp_path: pathlib.Path) -> None:
    writer = LogWriter(log(tmp_path), at_once=False)
    writer.write("stdout", b"one\ntw")
    writer.write("stderr", b"error\n")
    writer.write("stdout", b"o\n" + b"x" * 20000 + b"\nend")
    writer.write("stdout", b"")
    writer.finish()
    writer.finish()
    assert records(tmp_path / "log") == [
        b"stdout F one",
        b"stderr F error",
        b"stdout F two",
        b"stdout P " + b"x" * 16384,
        b"stdout F " + b"x" * (20000 - 16384),
        b"stdout P end",
    ]


def test_a_line_of_a_terminal_is_there_before_it_ends(tmp_path: pathlib.Path) -> None:
    LogWriter(log(tmp_path), at_once=True).write("stdout", b"prompt> ")
    assert records(tmp_path / "log") == [b"stdout P prompt> "]


def test_a_log_keeps_as_much_again_of_what_came_before(tmp_path: pathlib.Path) -> None:
    out, _ = LogWriter(log(tmp_path, LIMIT), at_once=False).sinks()
    for number in range(20):
        out(b"%d\n" % number)
    kept = [*records(tmp_path / "log.1"), *records(tmp_path / "log")]
    assert kept[-1] == b"stdout F 19"
    assert all((tmp_path / name).stat().st_size <= LIMIT for name in ("log", "log.1"))


def test_a_disk_that_takes_nothing_does_not_hold_the_command_up(tmp_path: pathlib.Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    writer = LogWriter(log(tmp_path), at_once=False)
    writer.write("stdout", b"lost\n")
    (tmp_path / "status").symlink_to("/dev/full")
    record_status((os.open(tmp_path, os.O_PATH), "status"), 3)
    assert sorted(os.listdir(tmp_path)) == ["log", "status"]
