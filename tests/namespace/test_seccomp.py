"""The seccomp filters: their effect by an interpreter of BPF, and the profiles of users."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any

import pytest

from overlaykit.namespace import seccomp, seccomp_cache, seccomp_filter, seccomp_profile
from overlaykit.namespace.capabilities import NAMES
from overlaykit.namespace.confinement import KEPT, Confinement
from overlaykit.namespace.seccomp_rules import DEFAULT, MACHINE, TERMINAL

from .bpf import AARCH64, ALLOW, ERRNO, I386, X32, X86_64, action

NATIVE = {"x86_64": X86_64, "aarch64": AARCH64}[os.uname().machine]
KILLED = 0
EPERM, ENOSYS, EINVAL = (ERRNO | number for number in (errno.EPERM, errno.ENOSYS, errno.EINVAL))

if NATIVE != X86_64:
    pytest.skip("the numbers below are those of x86_64", allow_module_level=True)


def read(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, 1 << 20, 0)
    finally:
        os.close(descriptor)


def default(*more: str) -> bytes:
    """The default filter of a view that keeps these capabilities as well."""
    kept = KEPT | {NAMES.index(f"CAP_{name}") for name in more}
    return seccomp_filter.compiled(DEFAULT, kept)


@pytest.mark.parametrize(
    ("number", "arguments", "expected"),
    [
        (0, (), ALLOW),  # read
        (59, (), ALLOW),  # execve
        (435, (), ALLOW),  # clone3
        (165, (), ALLOW),  # mount
        (308, (), ALLOW),  # setns
        (272, (), ALLOW),  # unshare
        (250, (), ALLOW),  # keyctl
        (248, (), ENOSYS),  # add_key
        (425, (), ENOSYS),  # io_uring_setup
        (426, (), ENOSYS),  # io_uring_enter
        (427, (), ENOSYS),  # io_uring_register
        (323, (), EPERM),  # userfaultfd
        (321, (), EPERM),  # bpf
        (298, (), EPERM),  # perf_event_open
        (246, (), EPERM),  # kexec_load
        (320, (), EPERM),  # kexec_file_load
        (175, (), EPERM),  # init_module
        (313, (), EPERM),  # finit_module
        (304, (), EPERM),  # open_by_handle_at
        (170, (), EPERM),  # sethostname
        (164, (), EPERM),  # settimeofday
        (173, (), EPERM),  # ioperm
        (167, (), EPERM),  # swapon
        (161, (), ALLOW),  # chroot, with CAP_SYS_CHROOT
        (135, (0,), ALLOW),  # personality
        (135, (0x20008,), ALLOW),
        (135, (0x40000,), ENOSYS),  # ADDR_NO_RANDOMIZE
        (41, (2, 1, 0), ALLOW),  # socket: AF_INET
        (41, (1, 1, 0), ALLOW),  # AF_UNIX
        (41, (16, 3, 0), ALLOW),  # AF_NETLINK
        (41, (16, 3, 9), EINVAL),  # NETLINK_AUDIT
        (41, (40, 1, 0), EPERM),  # AF_VSOCK
        (41, (38, 5, 0), EPERM),  # AF_ALG
        (999, (), ENOSYS),  # a call of the future
    ],
)
def test_the_default_filter_does_what_podmans_does(
    number: int, arguments: tuple[int, ...], expected: int
) -> None:
    filters = [read(one) for one in seccomp.open_filters(Confinement())]
    assert action(filters[0], number, arguments) == expected
    assert action(filters[1], number, arguments) == ALLOW


@pytest.mark.parametrize(
    ("number", "capability", "without", "with_it"),
    [
        (304, "DAC_READ_SEARCH", EPERM, ALLOW),
        (170, "SYS_ADMIN", EPERM, ALLOW),
        (321, "BPF", EPERM, ALLOW),
        (321, "SYS_ADMIN", EPERM, ALLOW),
        (298, "PERFMON", EPERM, ALLOW),
        (175, "SYS_MODULE", EPERM, ALLOW),
        (163, "SYS_PACCT", EPERM, ALLOW),
        (312, "SYS_PTRACE", EPERM, ALLOW),
        (172, "SYS_RAWIO", EPERM, ALLOW),
        (164, "SYS_TIME", EPERM, ALLOW),
        (153, "SYS_TTY_CONFIG", EPERM, ALLOW),
    ],
)
def test_a_capability_allows_its_calls(
    number: int, capability: str, without: int, with_it: int
) -> None:
    assert action(default(), number) == without
    assert action(default(capability), number) == with_it


def test_a_view_without_a_capability_loses_its_calls() -> None:
    kept = KEPT - {NAMES.index("CAP_SYS_CHROOT")}
    assert action(seccomp_filter.compiled(DEFAULT, kept), 161) == EPERM


def test_audit_messages_are_sent_with_their_capability() -> None:
    assert action(default("AUDIT_WRITE"), 41, (16, 3, 9)) == ALLOW
    assert action(default("AUDIT_WRITE"), 41, (40, 1, 0)) == EPERM


def test_the_calls_of_32_bit_programs_and_of_x32_are_filtered_too() -> None:
    made = default()
    assert action(made, 3, architecture=I386) == ALLOW  # read
    assert action(made, 374, architecture=I386) == EPERM  # userfaultfd
    assert action(made, 425, architecture=I386) == ENOSYS  # io_uring_setup
    assert action(made, X32 | 0) == ALLOW
    assert action(made, X32 | 323) == EPERM
    assert action(made, 0, architecture=AARCH64) == KILLED


@pytest.mark.parametrize("number", [16, X32 | 514, 54])
@pytest.mark.parametrize("request_", [0x5412, 0x541C, 1 << 32 | 0x5412])
def test_no_input_is_pushed_into_a_terminal(number: int, request_: int) -> None:
    """The kernel ignores the upper half of the request (CVE-2019-10063)."""
    architecture = I386 if number == 54 else X86_64
    made = seccomp_filter.compiled(TERMINAL, KEPT)
    assert action(made, number, (0, request_), architecture) == EPERM
    assert action(made, number, (0, 0x5413), architecture) == ALLOW  # TIOCGWINSZ


def test_the_programs_of_a_machine_make_threads_and_no_namespaces() -> None:
    made = seccomp_filter.compiled(MACHINE, KEPT)
    assert action(made, 165, ()) == EPERM  # mount
    assert action(made, 435, ()) == ERRNO | errno.ENOSYS  # clone3
    for number in (56, 272):  # clone, unshare
        assert action(made, number, (0x200,)) == ALLOW  # CLONE_FS
        assert action(made, number, (0x10000200,)) == EPERM


def test_what_decides_about_the_filter_is_known_without_the_rules() -> None:
    """Else a view would get a prepared filter that is not its own."""
    named: set[int] = set()
    for rule in DEFAULT.rules:
        named |= rule.with_capabilities | rule.without_capabilities
    assert named == seccomp.CONDITIONAL


def test_the_prepared_filters_are_those_of_the_rules() -> None:
    for path, profile in zip(seccomp.PREPARED, (DEFAULT, TERMINAL, MACHINE), strict=True):
        with open(path, "rb") as file:
            assert file.read() == seccomp_filter.compiled(profile, KEPT)


ALLOW_ALL = {"defaultAction": "SCMP_ACT_ALLOW"}


def parsed(**fields: Any) -> bytes:
    return seccomp_filter.compiled(seccomp_profile.parse(ALLOW_ALL | fields), KEPT)


def test_a_profile_of_the_oci_form_is_understood() -> None:
    entry = {"names": ["mkdir", "unknown_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    made = parsed(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], syscalls=[entry])
    assert action(made, 83) == ERRNO | errno.ENOSPC
    assert action(made, 39, architecture=I386) == ERRNO | errno.ENOSPC
    assert action(made, 84) == ALLOW


def test_a_profile_of_podmans_form_is_understood() -> None:
    entries = [
        {"name": "mkdir", "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["unlink"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["arm64"]}},
        {
            "names": ["kill"],
            "action": "SCMP_ACT_KILL_PROCESS",
            "args": [{"index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 0xFF, "valueTwo": 9}],
        },
        {
            "names": ["personality"],
            "action": "SCMP_ACT_TRAP",
            "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": value} for value in (1, 2)],
        },
    ]
    architectures = [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}]
    made = parsed(archMap=architectures, syscalls=entries)
    assert [action(made, number) for number in (83, 84, 87)] == [EPERM, ALLOW, ALLOW]
    assert action(made, 62, (1, 0x109)) == 0x80000000
    assert action(made, 62, (1, 0x10A)) == ALLOW
    assert [action(made, 135, (value,)) for value in (1, 2, 3)] == [0x30000, 0x30000, ALLOW]
    assert action(made, 39, architecture=I386) == EPERM


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "Expecting value"),
        ("[]", "'list' object"),
        ("{}", "'defaultAction' is missing"),
        ('{"defaultAction": "SCMP_ACT_NOTIFY"}', "'SCMP_ACT_NOTIFY' is no action"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [1]}]}', "is no text"),
        (
            json.dumps(
                ALLOW_ALL
                | {
                    "syscalls": [
                        {
                            "names": ["read"],
                            "action": "SCMP_ACT_KILL",
                            "includes": {"caps": ["CAP_X"]},
                        }
                    ]
                }
            ),
            "'CAP_X' is no capability",
        ),
        (
            json.dumps(
                ALLOW_ALL
                | {
                    "syscalls": [
                        {
                            "names": ["read"],
                            "action": "SCMP_ACT_KILL",
                            "args": [{"index": 6, "op": "SCMP_CMP_EQ"}],
                        }
                    ]
                }
            ),
            "6 is the index of no argument",
        ),
    ],
)
def test_a_bad_profile_is_one_line_that_names_it(tmp_path: Any, text: str, named: str) -> None:
    path = os.path.join(tmp_path, "profile.json")
    with open(path, "w") as file:
        file.write(text)
    with pytest.raises(seccomp_profile.BadProfile) as caught:
        seccomp_profile.read(path)
    assert str(caught.value).startswith(f"--security-opt seccomp={path}: ")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "unconfined" in str(caught.value)


def profile(directory: Any, **fields: Any) -> str:
    path = os.path.join(directory, "profile.json")
    with open(path, "w") as file:
        json.dump(ALLOW_ALL | fields, file)
    return path


def test_a_filter_is_compiled_once_and_kept(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    entry = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}
    confinement = Confinement(seccomp=profile(tmp_path, syscalls=[entry]))
    (first,) = map(read, seccomp.open_filters(confinement))
    monkeypatch.setattr(seccomp_filter, "compiled", lambda *_: pytest.fail("compiled again"))
    assert list(map(read, seccomp.open_filters(confinement))) == [first]
    (name,) = os.listdir(seccomp_cache.directory())
    assert stat.S_IMODE(os.stat(os.path.join(seccomp_cache.directory(), name)).st_mode) == 0o600


def test_a_changed_profile_or_capability_gets_a_filter_of_its_own(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    refusing = [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]
    path = profile(tmp_path, syscalls=refusing)
    (one,) = map(read, seccomp.open_filters(Confinement(seccomp=path)))
    profile(tmp_path, syscalls=[refusing[0] | {"errnoRet": 5}])
    (other,) = map(read, seccomp.open_filters(Confinement(seccomp=path)))
    assert action(one, 83) == EPERM
    assert action(other, 83) == ERRNO | errno.EIO
    admin = Confinement(capabilities=KEPT | {NAMES.index("CAP_SYS_ADMIN")})
    default, terminal = map(read, seccomp.open_filters(admin))
    assert action(default, 170) == ALLOW
    assert action(terminal, 16, (0, 0x5412)) == EPERM


def test_a_filter_that_another_user_may_have_written_is_not_used(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    entry = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}
    confinement = Confinement(seccomp=profile(tmp_path, syscalls=[entry]))
    (good,) = map(read, seccomp.open_filters(confinement))
    (name,) = os.listdir(seccomp_cache.directory())
    kept = os.path.join(seccomp_cache.directory(), name)
    with open(kept, "wb") as file:
        file.write(bytes(8))
    os.chmod(kept, 0o622)
    assert list(map(read, seccomp.open_filters(confinement))) == [good]


def test_a_filter_is_made_where_nothing_can_be_kept(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    (made,) = map(read, seccomp.open_filters(Confinement(seccomp=profile(tmp_path))))
    assert action(made, 0) == ALLOW


def test_no_filter_is_opened_for_an_unconfined_command() -> None:
    assert seccomp.open_filters(Confinement(seccomp=None)) == []
