"""An ordinary user becomes root of a view, or gets the reason why not."""

from __future__ import annotations

import os

import pytest

from overlaykit import namespace
from overlaykit.namespace import doctor

from .harness import LaunchHarness

pytestmark = pytest.mark.as_each_user


def in_a_user_namespace(body: object) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            namespace.enter()
            assert callable(body)
            body()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_ordinary_user_is_root_inside_and_owns_what_they_own(harness: LaunchHarness) -> None:
    def body() -> None:
        assert (os.getuid(), os.getgid()) == (0, 0)
        assert os.stat(harness.scratch).st_uid == 0

    in_a_user_namespace(body)


def test_working_user_namespaces_have_nothing_to_diagnose(harness: LaunchHarness) -> None:
    del harness
    assert namespace.diagnose() is None


def test_the_sysctl_that_switches_user_namespaces_off_is_named_with_the_way_out(
    harness: LaunchHarness,
) -> None:
    del harness

    def body() -> None:
        with open("/proc/sys/user/max_user_namespaces", "w") as limit:  # of this namespace alone
            limit.write("0")
        refused = namespace.diagnose()
        assert refused is not None
        assert str(refused) == (
            "user namespaces do not work here: the limit user.max_user_namespaces is 0; "
            "raise it with: sysctl -w user.max_user_namespaces=15000"
        )
        assert refused.exit_code == 125

    in_a_user_namespace(body)


def test_the_doctor_finds_everything_working_where_views_work(harness: LaunchHarness) -> None:
    del harness
    answers = doctor.checks()
    assert [answer.name for answer in answers if not answer.ok] == []
    assert {"user namespaces", "PID namespaces", "network namespaces", "a fresh /proc"} <= {
        a.name for a in answers
    }


def test_the_doctor_says_what_is_switched_off(harness: LaunchHarness) -> None:
    del harness

    def body() -> None:
        with open("/proc/sys/user/max_net_namespaces", "w") as limit:
            limit.write("0")
        (broken,) = [answer for answer in doctor.checks() if not answer.ok]
        assert broken.name == "network namespaces"
        assert broken.detail == "No space left on device"
        assert broken.fix

    in_a_user_namespace(body)
