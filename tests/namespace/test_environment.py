"""Environments as lists of entries."""

from __future__ import annotations

import os

import pytest

from overlaykit.namespace import environment
from overlaykit.namespace.environment import WorkingDirectoryDeleted

GIVEN = (b"A=1", b"B", b"A=2", b"AB=3", b"=A=4")


def test_of_two_entries_with_one_name_the_first_counts() -> None:
    assert environment.get(GIVEN, "A") == "1"
    assert environment.get(GIVEN, "AB") == "3"
    assert environment.get(GIVEN, "B") is None


def test_a_variable_that_is_set_takes_the_place_of_all_of_its_name() -> None:
    assert environment.replace(GIVEN, "A", "\udcff=") == (
        b"A=\xff=",
        b"B",
        b"AB=3",
        b"=A=4",
    )
    assert environment.replace(GIVEN, "NEW", "") == (*GIVEN, b"NEW=")
    assert environment.replace(GIVEN, "A", None) == (b"B", b"AB=3", b"=A=4")


def test_a_deleted_working_directory_is_named(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = os.path.join(tmp_path, "gone")
    os.mkdir(gone)
    monkeypatch.chdir(gone)
    assert environment.current_directory() == gone
    os.rmdir(gone)
    with pytest.raises(WorkingDirectoryDeleted, match=f"^{gone}: "):
        environment.current_directory()
    monkeypatch.undo()
