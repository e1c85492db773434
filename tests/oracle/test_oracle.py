"""Generated programs on the kernel's overlayfs and on ours: same results, same trees, and each reads the other's disk.

`OVERLAYKIT_ORACLE_EXAMPLES` is the number of programs, with a new seed; the default is a few, with a fixed seed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator

import pytest
from hypothesis import Phase, given, seed, settings

from ..posix.sandbox import Failed, Hung, Sandbox
from ..posix.systems import KernelOverlay, Overlaykit, System
from ..posix.table import File
from .comparison import Disagreement, compare, explain
from .operations import LONG_AGO, Unlink
from .program import Program, programs, settings_of
from .slots import ChmodHeld, Hold, StatHeld, TouchHeld
from .wrong_systems import BreaksLinks, CannotMoveDirectories, LosesWhiteouts, WritesIntoTheLower

UNPRIVILEGED = os.geteuid() != 0
"""As root the kernel has redirects and an index; an ordinary user compares without them."""
OURS = Overlaykit(UNPRIVILEGED, more=("redirect_dir=off",) if UNPRIVILEGED else ())

ORACLE = settings_of(12)
TRIAL = settings(ORACLE, max_examples=20, derandomize=True)
CATCH = settings(
    ORACLE,
    max_examples=500,
    derandomize=False,
    phases=(Phase.generate,),
    report_multiple_bugs=False,
)
EARLY = 7
"""A seed with whose programs the faults of `wrong_systems` show early."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with contextlib.closing(Sandbox(unprivileged=UNPRIVILEGED)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def directory(sandbox: Sandbox) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="overlaykit-oracle-", dir="/var/tmp") as directory:
        yield directory


def _compare_with_the_kernel(
    sandbox: Sandbox,
    subject: System,
    directory: str,
    *how: Callable[[Callable[..., None]], Callable[..., None]],
    metacopy: bool = False,
) -> None:
    reference = KernelOverlay(UNPRIVILEGED, metacopy=metacopy)

    @given(programs(unprivileged=UNPRIVILEGED))
    def agree(program: Program) -> None:
        try:
            disagreements = sandbox.run(
                lambda: compare(program, reference, subject, directory, unprivileged=UNPRIVILEGED)
            )
        except (Failed, Hung) as failure:  # without a result to compare
            disagreements = [str(failure)]
        if disagreements:
            raise Disagreement(
                explain(program, disagreements, unprivileged=UNPRIVILEGED, metacopy=metacopy)
            )

    test: Callable[..., None] = agree
    for decorate in how:
        test = decorate(test)
    test()


def test_a_program_cannot_tell_our_overlay_from_the_kernels(
    sandbox: Sandbox, directory: str
) -> None:
    _compare_with_the_kernel(sandbox, OURS, directory, ORACLE)


@pytest.mark.skipif(UNPRIVILEGED, reason="the kernel makes no metacopies with userxattr")
@pytest.mark.long
def test_a_program_cannot_tell_our_metacopies_from_the_kernels(
    sandbox: Sandbox, directory: str
) -> None:
    ours = Overlaykit(UNPRIVILEGED, metacopy=True)
    _compare_with_the_kernel(sandbox, ours, directory, ORACLE, metacopy=True)


def test_a_change_of_a_lowers_file_without_a_name_is_a_documented_difference(
    sandbox: Sandbox, directory: str
) -> None:
    hold = (Hold(0, "a", "<"), Unlink("a"), TouchHeld(0, LONG_AGO), ChmodHeld(0, 0o604))
    program = Program(({"a": File(b"one")},), (*hold, StatHeld(0)))
    reference = KernelOverlay(UNPRIVILEGED)
    assert (
        sandbox.run(lambda: compare(program, reference, OURS, directory, unprivileged=UNPRIVILEGED))
        == []
    )


def test_the_oracle_finds_the_kernel_right(sandbox: Sandbox, directory: str) -> None:
    _compare_with_the_kernel(sandbox, KernelOverlay(UNPRIVILEGED), directory, TRIAL)


WRONG = [LosesWhiteouts, WritesIntoTheLower] + (
    [] if UNPRIVILEGED else [BreaksLinks, CannotMoveDirectories]
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_the_oracle_notices_a_file_system_that(
    wrong: type[LosesWhiteouts], sandbox: Sandbox, directory: str
) -> None:
    with pytest.raises(Disagreement, match="To reproduce:\n\n#!/bin/bash"):
        _compare_with_the_kernel(
            sandbox, wrong(unprivileged=UNPRIVILEGED), directory, CATCH, seed(EARLY)
        )
