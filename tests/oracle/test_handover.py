"""Generated programs whose turns the kernel's overlayfs and ours take alternately, on one upper.

The number of programs is that of `test_oracle`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator

import pytest
from hypothesis import Phase, given, settings

from ..posix.sandbox import Failed, Hung, Sandbox
from ..posix.systems import KernelOverlay, Overlaykit, System
from .comparison import Disagreement, explain
from .handover import compare_relays, show_elsewhere
from .program import Program, programs, settings_of
from .wrong_systems import LosesWhiteouts, RoundsTimes

IDENTITIES = (False, True) if os.geteuid() == 0 else (True,)
TURNS = 2

ORACLE = settings_of(3)
CATCH = settings(ORACLE, max_examples=500, derandomize=True, phases=(Phase.generate,))


@pytest.fixture(
    scope="module", params=IDENTITIES, ids=lambda is_user: "user" if is_user else "root"
)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with contextlib.closing(Sandbox(unprivileged=request.param)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def directory(sandbox: Sandbox) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="overlaykit-handover-", dir="/var/tmp") as directory:
        if sandbox.unprivileged and os.geteuid() == 0:
            os.chown(directory, 1000, 1000)
        yield os.path.join(directory, "relay")


def _agree(sandbox: Sandbox, program: Program, differences: Callable[[], list[str]]) -> None:
    try:
        disagreements = sandbox.run(differences)
    except (Failed, Hung) as failure:  # without a result to compare
        disagreements = [str(failure)]
    if disagreements:
        raise Disagreement(explain(program, disagreements, unprivileged=sandbox.unprivileged))


def _relay(sandbox: Sandbox, ours: System, directory: str, how: settings) -> None:
    unprivileged = sandbox.unprivileged
    kernel = KernelOverlay(unprivileged)

    @how
    @given(programs(unprivileged=unprivileged))
    def agree(program: Program) -> None:
        def differences() -> list[str]:
            return compare_relays(
                program, kernel, ours, directory, turns=TURNS, unprivileged=unprivileged
            )

        _agree(sandbox, program, differences)

    agree()


def test_either_driver_shows_what_the_other_left_and_writes_on(
    sandbox: Sandbox, directory: str
) -> None:
    more = ("redirect_dir=off",) if sandbox.unprivileged else ()
    _relay(sandbox, Overlaykit(sandbox.unprivileged, more), directory, ORACLE)


@pytest.mark.parametrize("wrong", [LosesWhiteouts, RoundsTimes], ids=lambda wrong: wrong.name)
def test_the_relay_notices_a_driver_that(
    wrong: type[LosesWhiteouts], sandbox: Sandbox, directory: str
) -> None:
    with pytest.raises(Disagreement, match="shown by"):
        _relay(sandbox, wrong(unprivileged=sandbox.unprivileged), directory, CATCH)


@pytest.mark.parametrize("sandbox", [True], ids=["user"], indirect=True)
def test_the_kernel_shows_what_ours_wrote_for_a_user_but_what_is_documented(
    sandbox: Sandbox, directory: str
) -> None:
    """Ours has redirects and an index in a user namespace, where the kernel has neither."""

    @ORACLE
    @given(programs(unprivileged=True, comparable=False))
    def agree(program: Program) -> None:
        def differences() -> list[str]:
            return show_elsewhere(program, Overlaykit(True), KernelOverlay(True), directory)[1]

        _agree(sandbox, program, differences)

    agree()
