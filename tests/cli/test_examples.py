"""The examples of each --help are command lines that the command takes."""

from __future__ import annotations

import importlib
import shlex

import pytest

from overlaykit.cli.commands import COMMANDS, MOUNT_HELPER
from overlaykit.cli.examples import EXAMPLES


def test_each_command_has_examples_in_its_help() -> None:
    assert set(EXAMPLES) == {*COMMANDS, MOUNT_HELPER}
    for name in COMMANDS:
        text = importlib.import_module(f"overlaykit.cli.{name}").parser().format_help()
        assert "\nexamples:\n" in text, name


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_is_taken_by_its_command(name: str) -> None:
    parser = importlib.import_module(f"overlaykit.cli.{name}").parser()
    for line, what in EXAMPLES[name]:
        program, command, *arguments = shlex.split(line)
        assert (program, command) == ("overlaykit", name)
        parser.parse_args(arguments)
        assert what == what.strip().rstrip(".")
