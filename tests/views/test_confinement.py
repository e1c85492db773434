"""What a command in a view may ask of the kernel, by default and with the options that change it."""

from __future__ import annotations

import json
import os

import pytest

from overlaykit import View
from overlaykit.namespace import Confinement

from .fixtures import only_as, only_with, with_both_drivers
from .user import TestUser, command

pytestmark = [pytest.mark.as_each_user, pytest.mark.in_each_variant]

STATUS = ("sh", "-c", "grep -E '^(CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | cut -f 2")
KEPT = "00000000800425fb"
SYS_ADMIN = 1 << 21


def status(user: TestUser, *options: str) -> list[str]:
    """Permitted and bounding capabilities, no_new_privs and the mode of seccomp."""
    return user.succeeds("run", *options, "--", *STATUS).split()


@with_both_drivers
def test_a_command_is_confined_by_default(user: TestUser) -> None:
    assert status(user) == [KEPT, KEPT, "1", "2"]


def test_init_has_no_filter_and_no_more_capabilities(user: TestUser) -> None:
    fields = "grep -E '^(CapPrm|CapBnd|Seccomp):' /proc/1/status | cut -f 2"
    assert user.succeeds("run", "--", "sh", "-c", fields).split() == [KEPT, KEPT, "0"]
    free = "--security-opt=no-new-privileges=false"
    assert user.succeeds("run", free, "--", "sh", "-c", fields).split() == [KEPT, KEPT, "0"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--cap-drop", "all"], "0000000000000000"),
        (["--cap-drop=ALL", "--cap-add=CAP_CHOWN,kill"], "0000000000000021"),
        (["--cap-add", "SYS_ADMIN"], f"{int(KEPT, 16) | SYS_ADMIN:016x}"),
        (["--cap-drop", "net_raw", "--cap-drop", "CAP_SETPCAP"], "00000000800404fb"),
    ],
)
def test_capabilities_are_added_and_dropped(
    user: TestUser, options: list[str], expected: str
) -> None:
    assert status(user, *options) == [expected, expected, "1", "2"]


@only_with(host=True)
def test_a_privileged_command_is_not_confined(user: TestUser) -> None:
    permitted, bounding, no_new_privs, seccomp = status(user, "--privileged")
    assert int(permitted, 16) & SYS_ADMIN
    assert permitted == bounding
    assert (no_new_privs, seccomp) == ("0", "0")
    covered = "awk '$5 ~ \"^/(proc|sys)/\" { print $5 }' /proc/self/mountinfo"
    covering = user.succeeds("run", "--privileged", "--", "sh", "-c", covered).split()
    assert covering in ([], ["/sys/fs/cgroup"])


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("no-new-privileges=false", [KEPT, KEPT, "0", "2"]),
        ("no-new-privileges:true", [KEPT, KEPT, "1", "2"]),
        ("seccomp=unconfined", [KEPT, KEPT, "1", "0"]),
    ],
)
def test_one_part_of_the_confinement_is_left_out(
    user: TestUser, option: str, expected: list[str]
) -> None:
    assert status(user, "--security-opt", option) == expected


@only_as("root")
def test_a_setuid_program_gains_privileges_only_where_that_is_asked_for(user: TestUser) -> None:
    """As sudo and newuidmap need it. An ordinary user's view may map no other user."""
    script = "cp /usr/bin/id /tmp/in-id && chmod 4755 /tmp/in-id && setpriv --reuid 77 --clear-groups /tmp/in-id -u"
    assert user.succeeds("run", "--", "sh", "-c", script) == "77\n"
    free = "--security-opt=no-new-privileges=false"
    assert user.succeeds("run", free, "--", "sh", "-c", script) == "0\n"


def test_a_profile_of_the_users_own_is_installed(user: TestUser) -> None:
    refused = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]}
    path = user.write(user.path("profile.json"), json.dumps(profile))
    script = "mkdir /tmp/in-x 2>&1 || true"
    for option in (path, os.path.relpath(path)):
        said = user.succeeds("run", f"--security-opt=seccomp={option}", "--", "sh", "-c", script)
        assert "No space left on device" in said


def test_a_filter_that_refuses_execve_is_a_failure_with_a_name(user: TestUser) -> None:
    refused = {"names": ["execve"], "action": "SCMP_ACT_ERRNO"}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]}
    path = user.write(user.path("profile.json"), json.dumps(profile))
    said = user.refused("run", f"--security-opt=seccomp={path}", "--", "/bin/true", status=126)
    assert said.startswith("/bin/true: cannot be executed")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cap-add", "NOTHING"], "--cap-add NOTHING: there is no such capability"),
        (["--cap-drop", "CAP_"], "--cap-drop CAP_: there is no such capability"),
        (["--cap-add=KILL", "--cap-drop=KILL"], "--cap-drop CAP_KILL: it is added as well"),
        (["--security-opt", "seccomp="], "--security-opt seccomp=: a value is missing"),
        (["--security-opt", "seccomp=/none"], "--security-opt seccomp=/none: No such file"),
        (["--security-opt", "label=disable"], "--security-opt label=disable: 'label' is no option"),
        (["--security-opt", "mask=proc"], "--security-opt mask=proc: 'proc' is not an absolute"),
        (["--security-opt", "no-new-privileges=x"], "'x' is neither true nor false"),
    ],
)
def test_bad_options_are_one_line(user: TestUser, options: list[str], said: str) -> None:
    assert said in user.refused("run", *options, "--", "true")


def test_paths_of_proc_and_sys_are_covered(user: TestUser) -> None:
    """As podman covers them: what is missing on this machine stays missing."""
    masked = [path for path in Confinement().masked if os.path.exists(path)]
    assert {"/proc/keys", "/proc/timer_list"} <= set(masked)
    looked = "import os, sys\nfor p in sys.argv[1:]: print(os.listdir(p) if os.path.isdir(p) else open(p).read())"
    shown = user.succeeds("run", "--", "python3", "-c", looked, *masked).split()
    assert set(shown) <= {"[]"}
    written = (
        "import os, sys\nfor p in sys.argv[1:]: print(bool(os.statvfs(p).f_flag & os.ST_RDONLY))"
    )
    read_only = [path for path in Confinement().read_only if os.path.exists(path)]
    assert "/proc/sys" in read_only
    printed = user.succeeds("run", "--", "python3", "-c", written, *read_only).split()
    assert set(printed) == {"True"}


@only_with(host=True)
def test_paths_are_masked_and_unmasked_by_name(user: TestUser) -> None:
    shown = user.write(user.path("home", "shown"), "contents")
    hidden = user.directory("home", "directory", file="x")
    mask = f"mask={shown}:{hidden}"
    script = f"cat {shown}; ls -A {hidden}; cat /proc/keys | wc -c"
    assert user.succeeds("run", f"--security-opt={mask}", "--", "sh", "-c", script).split() == ["0"]
    count = user.succeeds("run", "--security-opt=unmask=/proc/k*", "--", "wc", "-c", "/proc/keys")
    assert int(count.split()[0]) > 0
    covered = "awk '$5 ~ \"^/proc/\" { print $5 }' /proc/self/mountinfo"
    every = user.succeeds("run", "--security-opt=unmask=ALL", "--", "sh", "-c", covered)
    assert every == ""
    left = user.succeeds("run", "--security-opt=unmask=/proc/sys", "--", "sh", "-c", covered)
    assert "/proc/sys" not in left.split()
    assert "/proc/bus" in left.split()


@only_with(driver="fuse")
def test_a_view_without_a_host_name_of_its_own_nests(user: TestUser) -> None:
    """The filter refuses sethostname(2) to a view in a view: it keeps the outer's name."""
    inner = (command(), "run", "--rm", "--name", "inner", "--", "hostname")
    assert user.succeeds("run", "--rm", "--name", "outer", "--", *inner) == "outer\n"


@only_with(host=True)
def test_each_command_of_a_view_may_have_a_confinement_of_its_own(user: TestUser) -> None:
    layers = ["host"]
    free = Confinement(seccomp=None, no_new_privs=False)
    with View(layers) as view:
        confined = view.run(STATUS, capture_output=True, text=True).stdout.split()
        unconfined = view.run(STATUS, capture_output=True, text=True, confinement=free)
    assert confined[2:] == ["1", "2"]
    assert unconfined.stdout.split()[2:] == ["0", "0"]
    with View(layers, confinement=free) as view:
        assert view.run(STATUS, capture_output=True, text=True).stdout.split()[2:] == ["0", "0"]


@only_as("root")
def test_the_capabilities_that_a_caller_lacks_are_not_added(user: TestUser) -> None:
    lost = ("setpriv", "--bounding-set=-sys_time", "--inh-caps=-sys_time", command())
    shown = user.program([*lost, "run", "--cap-add=SYS_TIME", "--", *STATUS]).split()
    assert shown[:2] == [KEPT, KEPT]
