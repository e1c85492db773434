"""The man pages of man/ are those of the commands' parsers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CHECKOUT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
PAGES = sorted(os.listdir(os.path.join(CHECKOUT, "man")))


def test_the_pages_are_up_to_date(tmp_path: os.PathLike[str]) -> None:
    script = os.path.join(CHECKOUT, "setup", "manpages.py")
    subprocess.run([sys.executable, script, tmp_path], cwd=CHECKOUT, check=True)
    assert sorted(os.listdir(tmp_path)) == PAGES
    for name in PAGES:
        with (
            open(os.path.join(tmp_path, name), encoding="utf-8") as made,
            open(os.path.join(CHECKOUT, "man", name), encoding="utf-8") as kept,
        ):
            assert made.read() == kept.read(), f"{name}: run 'make man'"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_formats_without_warnings(name: str) -> None:
    path = os.path.join(CHECKOUT, "man", name)
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", path], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_no_word_of_the_parsers_own(name: str) -> None:
    with open(os.path.join(CHECKOUT, "man", name), encoding="utf-8") as page:
        assert "SUPPRESS" not in page.read()
