"""The plan of a view: which steps, in which order, without root; and the bytes that `_supervisor` reads."""

from __future__ import annotations

import errno
import glob
import os
import re
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlaykit import _native, privilege
from overlaykit.namespace import (
    Bind,
    Cgroups,
    Confinement,
    Device,
    End,
    LaunchSpec,
    RootMount,
    Terminal,
    Tmpfs,
    Ulimit,
    calls,
    failure,
    join,
    seccomp,
)
from overlaykit.namespace.accounts import Account
from overlaykit.namespace.contents import Data, Symlink
from overlaykit.namespace.launcher import SUPERVISOR
from overlaykit.namespace.plan import (
    FORMS,
    GROUPS_KEPT,
    GROUPS_SET,
    GROUPS_SET_IF_PERMITTED,
    LARGEST,
    MAGIC,
    SECTIONS,
    Plan,
    TooLarge,
)
from overlaykit.namespace.spec import Alone, Caller, Log, Reporting
from overlaykit.namespace.view_plan import plan_of

if TYPE_CHECKING:
    from overlaykit.namespace.plan import Step

CALLER = Caller(pid=77, umask=0o027, blocked=1 << 9, ignored=1)
REPORTING = Reporting(parent=20, status_write=21, reap_read=22)


FILTERS = (b"\6\0\0\0\0\0\xff\x7f", b"\6\0\0\0\0\0\xff\x7f" * 2)
"""Filters that allow every system call."""


def plan(
    *argv: str,
    user_namespace: int | None = None,
    caller: Caller = CALLER,
    listeners: dict[int, int] | None = None,
    supervision: Reporting | Alone = REPORTING,
    mount: int = 10,
    filters: Sequence[bytes] = FILTERS,
    **fields: Any,
) -> Plan:
    fields = {"env": (b"PATH=/bin::rel",), "hostname": "v"} | fields
    return plan_of(
        LaunchSpec(argv=argv or ("true",), **fields),
        RootMount(mount=mount, user_namespace=user_namespace),
        caller=caller,
        listeners=listeners or {},
        filters=filters,
        supervision=supervision,
    )


def section(plan: Plan, name: str) -> list[Step]:
    """The steps of a section."""
    begin = plan.steps.index(("section", SECTIONS.index(name)))
    ends = [at for at, step in enumerate(plan.steps) if step[0] == "section" and at > begin]
    return plan.steps[begin + 1 : min(ends, default=None)]


def names(steps: list[Step]) -> list[str]:
    return [str(step[0]) for step in steps]


def only(steps: list[Step], name: str) -> list[Step]:
    return [step for step in steps if step[0] == name]


def test_roots_view_reports_to_its_parent_and_ends_with_it() -> None:
    made = plan()
    assert made.steps[0] == ("section", 0)
    assert section(made, "plan") == [
        ("descriptor", "root 10", 10),
        ("descriptor", "status 21", 21),
        ("descriptor", "reap 22", 22),
        ("descriptor", "parent 20", 20),
        ("report", "status 21", "reap 22"),
        ("parent", "parent 20"),
    ]
    assert section(made, "monitor") == [
        ("unshare", _native.CLONE_NEWNET),
        ("unshare", _native.CLONE_NEWPID),
    ]
    assert made.inherited() == [10, 21, 22, 20]


def test_an_ordinary_users_view_enters_the_user_namespace_before_it_makes_others() -> None:
    made = plan(user_namespace=11)
    assert ("descriptor", "user namespace 11", 11) in section(made, "plan")
    assert section(made, "monitor") == [
        ("setns", "user namespace 11", _native.CLONE_NEWUSER),
        ("unshare", _native.CLONE_NEWNET),
        ("unshare", _native.CLONE_NEWPID),
    ]


def test_ports_are_published_from_within_the_views_network() -> None:
    made = plan(listeners={30: 80, 31: 53})
    assert section(made, "monitor") == [
        ("unshare", _native.CLONE_NEWNET),
        ("publish", "listener 30", 80),
        ("publish", "listener 31", 53),
        ("unshare", _native.CLONE_NEWPID),
    ]


def test_mounts_are_made_before_the_root_changes_and_attached_after_it() -> None:
    steps = section(plan(), "init")
    order = names(steps)
    root = order.index("root")
    assert order[:5] == ["unshare", "private_mounts", "hostname", "loopback", "umask"]
    assert set(order[5:root]) == {"fresh", "clone"}
    assert "clone" not in order[root:]
    # Nothing but file systems in memory is made inside: the kernel wants to see a whole procfs for others.
    assert {step[2] for step in only(steps[root:], "fresh")} == {"tmpfs"}
    assert order[-8:] == [
        "attach",
        "hosts",
        "cover",
        "umask",
        "chdir",
        "session_keyring",
        "restrict_capabilities",
        "offer_namespaces",
    ]
    assert order.index("protect") < len(order) - 9


def test_every_mount_that_is_made_is_attached_once() -> None:
    binds = (Bind(source="/a", target="/b"),)
    caller = CALLER.replace(console="/dev/pts/3")
    for network in ("private", "host", "none"):
        steps = section(plan(network=network, binds=binds, caller=caller), "init")
        made = {step[1] for step in steps if step[0] in ("fresh", "clone")}
        used = [step[1] for step in steps if step[0] in ("attach", "bind")]
        (root,) = only(steps, "root")
        assert sorted([*used, *root[2:]]) == sorted(made)


def test_a_command_joins_a_view_without_a_mount_or_namespace_of_its_own() -> None:
    namespaces = join.Namespaces(
        user=30, network=31, processes=32, time=None, offered=((33, _native.CLONE_NEWNS),)
    )
    spec = LaunchSpec(argv=("true",), env=(b"PATH=/bin",))
    made = join.plan_of(spec, namespaces, caller=CALLER, filters=FILTERS[:1], supervision=REPORTING)
    assert section(made, "monitor") == [
        ("setns", "namespace 30", _native.CLONE_NEWUSER),
        ("setns", "namespace 31", _native.CLONE_NEWNET),
        ("setns", "namespace 32", _native.CLONE_NEWPID),
    ]
    steps = section(made, "init")
    order = ["setns", "umask", "chdir", "session_keyring", "restrict_capabilities"]
    assert names(steps) == order
    confined = ["no_new_privs", "seccomp", "exec"]
    assert names(section(made, "command"))[-3:] == confined
    assert steps[0] == ("setns", "namespace 33", _native.CLONE_NEWNS)
    alone = namespaces.replace(user=None, network=None)
    made = join.plan_of(spec, alone, caller=CALLER, filters=(), supervision=REPORTING)
    assert names(section(made, "monitor")) == ["setns"]


def test_a_view_in_the_hosts_network_keeps_its_name_and_may_clone_its_sysfs() -> None:
    made = plan(network="host")
    assert section(made, "monitor") == [("unshare", _native.CLONE_NEWPID)]
    steps = section(made, "init")
    assert not {"hostname", "loopback", "hosts"}.intersection(names(steps))
    assert [step for step in steps if step[1:2] == ("sys",)] == [
        ("fresh", "sys", "sysfs", 15, (), 4, "FILE_SYSTEM", "/sys"),
        ("clone", "sys", "/sys", _native.MOUNT_ATTR_RDONLY, 0, 0, 2, "FILE_SYSTEM", "/sys"),
        ("attach", "sys", "/sys", 0),
    ]
    (protect,) = only(steps, "protect")
    assert protect[4] == 2


def test_terminals_belong_to_the_usual_group_where_it_is_mapped() -> None:
    steps = section(plan(), "init")
    modes = ("ptmxmode", "0666", "mode", "0620")
    assert [step[4:6] for step in steps if step[1:2] == ("pts",) and step[0] == "fresh"] == [
        ((*modes, "gid", "5"), 1),
        (modes, 2),
    ]


def test_a_console_is_there_where_standard_input_is_a_terminal() -> None:
    assert "/dev/console" not in str(plan().steps)
    steps = section(plan(caller=CALLER.replace(console="/dev/pts/3")), "init")
    assert ("clone", "/dev/console", "/dev/pts/3", 0, 0, 0, 8, "FILE_SYSTEM", "/dev/pts/3") in steps
    assert ("attach", "/dev/console", "/dev/console", 0) in steps


def test_shared_paths_are_attached_after_all_else() -> None:
    binds = (
        Bind(source="/data", target="/mnt/data", read_only=True),
        Bind(source="/etc", target="/mnt"),
    )
    steps = section(plan(binds=binds), "init")
    assert [step for step in steps if step[0] == "clone" and str(step[1]).startswith("bind")] == [
        ("clone", "bind /mnt/data", "/data", 1, 0, 0, 0, "BIND_SOURCE", "/data"),
        ("clone", "bind /mnt", "/etc", 0, 0, 0, 0, "BIND_SOURCE", "/etc"),
    ]
    assert steps[names(steps).index("hosts") + 1 :][:5] == [
        ("cover", "/etc/hostname", "v\n", 0),
        ("bind", "bind /mnt/data", "/mnt/data"),
        ("bind", "bind /mnt", "/mnt"),
        ("attach_binds",),
        ("umask", 0o027),
    ]


@pytest.mark.parametrize(("keep", "flag"), [(False, 0), (True, 1)])
def test_a_kept_upper_gets_the_changes_of_the_hosts_file(keep: bool, flag: int) -> None:
    assert ("hosts", "v", "", flag) in section(plan(keep=keep), "init")


def test_the_command_inherits_what_the_caller_has() -> None:
    made = plan(cwd="/srv", cwd_required=True, umask=0o077)
    assert [step for step in section(made, "init") if step[0] in ("umask", "chdir")] == [
        ("umask", 0o022),
        ("umask", 0o077),
        ("chdir", "/srv", 1),
    ]
    candidates = ("/bin/true", "true", "rel/true")
    assert section(made, "command") == [
        ("ignored", 1),
        ("blocked", 1 << 9),
        ("no_new_privs",),
        ("seccomp", FILTERS[0]),
        ("seccomp", FILTERS[1]),
        ("exec", ("true",), (b"PATH=/bin::rel",), candidates, 0),
    ]


@pytest.mark.parametrize(
    ("name", "env", "candidates"),
    [
        ("./a/b", (), ("./a/b",)),
        ("", (b"PATH=/bin",), ()),
        ("a", (b"PATH=/x", b"PATH=/y"), ("/x/a",)),
        ("a", (b"PATH=",), None),
        ("a", (), None),
    ],
)
def test_a_command_is_looked_up_as_execvp_does(
    name: str, env: tuple[bytes, ...], candidates: tuple[str, ...] | None
) -> None:
    default = ("/usr/local/sbin/a", "/usr/local/bin/a", "/usr/sbin/a", "/usr/bin/a")
    (execute,) = only(plan(name, env=env).steps, "exec")
    expected = (*default, "/sbin/a", "/bin/a") if candidates is None else candidates
    assert execute[3] == expected


def test_sockets_of_the_caller_are_passed_on_to_the_commands_process_id() -> None:
    own = (b"LISTEN_PIDFDID=5", b"LISTEN_PID=77", b"LISTEN_FDS=1")
    (execute,) = only(plan("/a", env=own).steps, "exec")
    assert execute[2:] == ((b"LISTEN_PID=", b"LISTEN_FDS=1"), ("/a",), 1)
    others = (b"LISTEN_PID=78",)
    (execute,) = only(plan("/a", env=others).steps, "exec")
    assert execute[2:] == (others, ("/a",), 0)


def test_descriptors_are_passed_redirected_and_closed() -> None:
    made = plan(
        descriptors=(7, 5, 7, 1),
        redirected={1: 7, 2: 9},
        caller=CALLER.replace(closed=frozenset({0, 1})),
    )
    assert [step for step in section(made, "plan") if str(step[1]).startswith("descr")] == [
        ("descriptor", "descriptor 5", 5),
        ("descriptor", "descriptor 7", 7),
        ("descriptor", "descriptor 9", 9),
    ]
    assert section(made, "command")[1:-5] == [
        ("standard", 1, "descriptor 7"),
        ("standard", 2, "descriptor 9"),
        ("close_standard", 0b001),
        ("pass", "descriptor 5"),
        ("pass", "descriptor 7"),
    ]


def test_a_supervisor_without_a_parent_reports_by_a_program_and_cleans_up() -> None:
    made = plan(
        supervision=Alone(
            report=("/python", "-m", "x"),
            env=(b"A=1",),
            abort_on=(40,),
            hold=(41, 42),
            end=End(
                written=43,
                remove=((44, "scratch"),),
                remove_if_empty=((44, "registry"),),
                remove_opened=42,
            ),
        )
    )
    assert section(made, "plan") == [
        ("descriptor", "root 10", 10),
        ("descriptor", "watched 40", 40),
        ("descriptor", "held 41", 41),
        ("descriptor", "held 42", 42),
        ("descriptor", "directory 44", 44),
        ("descriptor", "daemon 43", 43),
        ("front", ("/python", "-m", "x"), (b"A=1",)),
        ("abort_on", "watched 40"),
        ("hold", "held 41"),
        ("hold", "held 42"),
        ("hold", "directory 44"),
    ]
    assert section(made, "end") == [
        ("restrict_capabilities", 1 << privilege.CAP_DAC_OVERRIDE | 1 << privilege.CAP_FOWNER),
        ("await", "daemon 43"),
        ("remove", "directory 44", "scratch"),
        ("remove_if_empty", "directory 44", "registry"),
        ("remove_opened", "held 42"),
    ]
    confined = ["no_new_privs", "seccomp", "seccomp"]
    assert names(section(made, "command")) == ["ignored", "blocked", *confined, "exec"]


def test_the_command_confines_itself_just_before_it_is_executed() -> None:
    made = plan(confinement=Confinement(capabilities=frozenset({0, 5})))
    assert ("restrict_capabilities", 0b100001) in section(made, "init")
    assert names(section(made, "command"))[-4:] == ["no_new_privs", "seccomp", "seccomp", "exec"]


def test_a_filter_is_installed_with_capabilities_where_privileges_may_grow() -> None:
    made = plan(confinement=Confinement(no_new_privs=False))
    assert "restrict_capabilities" not in names(section(made, "init"))
    order = ["blocked", "seccomp", "seccomp", "restrict_capabilities", "exec"]
    assert names(section(made, "command"))[-5:] == order


def test_a_release_is_told_before_the_filters_hold() -> None:
    made = section(plan(release="6.1"), "command")
    assert names(made)[-5:] == ["no_new_privs", "release", "seccomp", "seccomp", "exec"]
    free = Confinement(no_new_privs=False, seccomp=None)
    made = section(plan(release="6.1", confinement=free, filters=()), "command")
    assert names(made)[-3:] == ["release", "restrict_capabilities", "exec"]


def test_an_unconfined_command_has_nothing_covered_and_no_filter() -> None:
    free = Confinement(no_new_privs=False, seccomp=None, masked=(), read_only=(), machine=False)
    made = plan(confinement=free, filters=())
    assert not {"no_new_privs", "seccomp", "protect"}.intersection(names(made.steps))
    assert "restrict_capabilities" in names(section(made, "init"))


def test_a_bind_has_the_options_of_its_mounts() -> None:
    bind = Bind(
        source="/a",
        target="/b",
        read_only=True,
        attributes=frozenset({"nosuid"}),
        cleared=frozenset({"noexec", "nodev"}),
    )
    assert (
        "clone",
        "bind /b",
        "/a",
        _native.MOUNT_ATTR_RDONLY | _native.MOUNT_ATTR_NOSUID,
        _native.MOUNT_ATTR_NOEXEC | _native.MOUNT_ATTR_NODEV,
        0,
        0,
        "BIND_OPTIONS",
        "/a",
    ) in section(plan(binds=(bind,)), "init")


def test_a_bind_that_receives_mounts_is_cloned_while_the_hosts_still_pass_them_on() -> None:
    binds = tuple(
        Bind(source="/a", target=f"/{kind}", propagation=kind)
        for kind in ("private", "slave", "shared")
    )
    steps = section(plan(binds=binds), "init")
    cloned = {step[1]: at for at, step in enumerate(steps) if step[0] == "clone"}
    private = names(steps).index("private_mounts")
    assert cloned["bind /slave"] < private < cloned["bind /private"]
    assert [steps[cloned[f"bind /{kind}"]][5] for kind in ("slave", "shared")] == [1 << 19, 1 << 20]


def test_hidden_paths_are_covered_before_others_are_shared_at_them() -> None:
    steps = section(plan(hidden=("/keys",), binds=(Bind(source="/a", target="/keys"),)), "init")
    assert ("hide", ("/keys",)) in steps
    assert names(steps).index("hide") < names(steps).index("attach_binds")


@pytest.mark.parametrize(
    ("network", "shared", "scoped"),
    [("host", False, True), ("host", True, False), ("private", False, False)],
)
def test_abstract_sockets_of_the_hosts_network_are_out_of_reach(
    network: str, shared: bool, scoped: bool
) -> None:
    made = plan(network=network, abstract_sockets=shared)
    assert ("scope_sockets" in names(section(made, "command"))) == scoped


def of_all_kinds() -> list[Step]:
    """Steps of plans that have almost all there are."""
    steps: list[Step] = []
    alone = Alone(
        report=("a",),
        env=(),
        abort_on=(40,),
        hold=(41,),
        end=End(
            written=43,
            limits=((44, 1 << 31),),
            remove=((44, "s"),),
            remove_if_empty=((44, "r"),),
            status=(44, "status"),
        ),
        announce=45,
        input=53,
        log=Log(stdout=46, stderr=47, directory=44, name="log", limit=1),
    )
    steps += plan(
        user_namespace=11,
        listeners={30: 80},
        hidden=("/c",),
        writable=("/w",),
        binds=(Bind(source="/a", target="/b"),),
        descriptors=(5,),
        redirected={1: 7},
        caller=CALLER.replace(closed=frozenset({0})),
        supervision=alone,
        cgroups=Cgroups(
            paths=("/c",), directories=((48, "c"),), locks=(49,), joins=(50,), out_of_memory=51
        ),
    ).steps
    steps += plan(
        terminal=Terminal(interactive=True),
        account=Account(user=1, group=2, groups=(3,)),
        ulimits=(Ulimit(name="nofile", soft=10, hard=10),),
        grace=1000,
        json_status=45,
        data=(Data(52, "/d"),),
        time_offsets="monotonic 1 0\n",
        processors=frozenset({0, 65}),
        release="6.1",
        symlinks=(Symlink("a", "/b"),),
        supervision=alone,
    ).steps
    steps += plan(network="host", supervision=alone).steps
    return steps


def test_steps_stand_in_sections_that_may_have_them() -> None:
    steps = of_all_kinds()
    current = "plan"
    for name, *arguments in steps:
        if name == "section":
            assert isinstance(arguments[0], int)
            current = SECTIONS[arguments[0]]
        assert current in FORMS[str(name)][2].split()
    assert set(FORMS) - set(names(steps)) == {
        "report",
        "parent",
        "helper",
        "connect",
        "hint",
        "remove_opened",
    }


def test_a_terminal_is_the_commands_alone_and_replaces_the_callers_streams() -> None:
    caller = CALLER.replace(console="/dev/pts/9", closed=frozenset({0}))
    made = plan(
        terminal=Terminal(interactive=False),
        caller=caller,
        supervision=Alone(report=("a",), env=()),
    )
    assert only(section(made, "plan"), "terminal") == [("terminal", 0)]
    init = section(made, "init")
    assert init.index(("attach", "pts", "/dev/pts", 0)) + 1 == init.index(("pty", 0, 1))
    assert "/dev/console" not in [step[2] for step in only(init, "attach")]
    assert names(section(made, "command"))[:3] == ["ignored", "session", "blocked"]


def test_a_new_session_has_no_terminal_of_the_views() -> None:
    assert only(section(plan(new_session=True), "command"), "session") == [("session", 0)]
    assert only(section(plan(), "command"), "session") == []


def mask(confinement: Confinement) -> int:
    return sum(1 << capability for capability in confinement.capabilities)


def test_another_user_gives_up_what_it_needs_to_become_one() -> None:
    to_become = sum(
        1 << n for n in (privilege.CAP_SETUID, privilege.CAP_SETGID, privilege.CAP_SETPCAP)
    )
    confinement = Confinement(capabilities=frozenset({privilege.CAP_CHOWN}))
    made = plan(
        account=Account(user=1, group=2, groups=(3, 4)),
        ulimits=(Ulimit(name="nofile", soft=10, hard=20),),
        descriptors=(5,),
        confinement=confinement,
    )
    kept = mask(confinement)
    restrictions = only(section(made, "init"), "restrict_capabilities")
    assert restrictions == [("restrict_capabilities", kept | to_become)]
    assert section(made, "command")[1:-1] == [
        ("pass", "descriptor 5"),
        ("limit", 7, 10, 20, "nofile"),
        ("blocked", CALLER.blocked),
        ("no_new_privs",),
        ("user", 1, 2, GROUPS_SET, kept, struct.pack("=II", 3, 4)),
        ("seccomp", FILTERS[0]),
        ("seccomp", FILTERS[1]),
    ]


def test_filters_that_need_a_capability_come_before_another_user() -> None:
    confinement = Confinement(no_new_privs=False)
    made = plan(account=Account(user=1, group=2, groups=()), confinement=confinement)
    assert only(section(made, "init"), "restrict_capabilities") == []
    assert section(made, "command")[-4:-1] == [
        ("seccomp", FILTERS[0]),
        ("seccomp", FILTERS[1]),
        ("user", 1, 2, GROUPS_SET_IF_PERMITTED, mask(confinement), b""),
    ]


def test_groups_of_the_caller_stay_without_others() -> None:
    made = plan(account=Account(user=1, group=2, groups=None))
    ((_, _, _, kind, *_),) = only(section(made, "command"), "user")
    assert kind == GROUPS_KEPT


def test_devices_and_memory_are_mounted_in_the_order_of_the_binds() -> None:
    made = plan(
        binds=(Bind(source="/a", target="/b/c"),),
        devices=(Device(source="/dev/x", target="/dev/y"),),
        tmpfs=(Tmpfs(target="/b", options=("size", "1m")),),
        shm_size="8m",
    )
    init = section(made, "init")
    assert [step[2] for step in only(init, "bind")] == ["/b/c", "/dev/y", "/b"]
    assert init.index(("attach_binds",)) > init.index(("bind", "tmpfs /b", "/b"))
    assert [step[4] for step in only(init, "fresh") if step[1] in ("/dev/shm", "tmpfs /b")] == [
        ("mode", "1777", "size", "8m"),
        ("size", "1m"),
    ]


def decoded(raw: bytes) -> list[tuple[int, list[bytes]]]:
    """The records of an encoded plan: code and arguments."""
    magic, version, size = struct.unpack_from("=16sII", raw)
    assert (magic, version, size) == (MAGIC, 1, len(raw))
    at = struct.calcsize("=16sII")
    records = []
    while at < len(raw):
        code, count = struct.unpack_from("=HH", raw, at)
        at += 4
        arguments = []
        for _ in range(count):
            (length,) = struct.unpack_from("=I", raw, at)
            arguments.append(raw[at + 4 : at + 4 + length])
            at += 4 + length
        records.append((code, arguments))
    assert at == len(raw)
    return records


def test_the_bytes_are_those_of_the_steps() -> None:
    made = Plan()
    made.section("plan")
    made.descriptor("one", 3)
    made.descriptor("two", 1 << 40)
    made.front(["\udcff", ""], [b"A=\xff"])
    made.hold("two")
    made.hint("é")
    made.attach_binds()
    assert decoded(made.encode()) == [
        (1, [struct.pack("=Q", 0)]),
        (2, [struct.pack("=I", 0), struct.pack("=Q", 3)]),
        (2, [struct.pack("=I", 1), struct.pack("=Q", 1 << 40)]),
        (4, [b"\xff\0\0", b"A=\xff\0"]),
        (7, [struct.pack("=I", 1)]),
        (60, ["é".encode() + b"\0"]),
        (21, []),
    ]


def test_a_zero_byte_in_a_name_is_refused_before_the_program_sees_it() -> None:
    made = Plan()
    made.hostname("a\0b")
    with pytest.raises(ValueError, match="null byte"):
        made.encode()


def test_a_plan_that_is_too_large_is_refused() -> None:
    with pytest.raises(TooLarge):
        plan("a", "b" * LARGEST).encode()


def test_each_failure_of_the_program_has_words() -> None:
    found = set()
    # All but guest_*.c, whose failures views/guest.py words.
    for path in glob.glob(os.path.join(os.path.dirname(__file__), "../../native/[!g]*.c")):
        with open(path) as file:
            found |= set(re.findall(r'\bfail(?:_with)?\("(\w*)"', file.read()))
    for step in of_all_kinds():
        found |= {str(one[5]) for one in calls.lowered(step) if one[0] == "call"}
    assert {"ROOT", "DAEMON"} <= found
    for name in found - {failure.DAEMON}:
        assert str(failure.error_of(name, errno.EIO, "subject"))


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
PATHS = TEXT.map(lambda text: "/" + text)
OPEN = st.sampled_from(range(3, 20))
"""Descriptors of the program's own; the test opens them."""


ATTRIBUTES = st.frozensets(st.sampled_from(["noexec", "nosuid", "nodev"]))
CONFINEMENTS = st.builds(
    Confinement,
    capabilities=st.frozensets(st.integers(0, 40)),
    no_new_privs=st.booleans(),
    masked=st.lists(PATHS, max_size=2).map(tuple),
    read_only=st.lists(PATHS, max_size=2).map(tuple),
    machine=st.booleans(),
    left=st.lists(PATHS, max_size=2).map(tuple),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan that a launch can make, of descriptors that are open in a child."""
    targets = draw(st.lists(PATHS, max_size=4, unique=True))
    alone = Alone(
        report=tuple(draw(st.lists(TEXT, min_size=1, max_size=3))),
        env=(b"A=1",),
        abort_on=tuple(draw(st.sets(OPEN, max_size=2))),
        hold=tuple(draw(st.sets(OPEN, max_size=2))),
        end=End(
            written=draw(st.none() | OPEN),
            remove=tuple(draw(st.lists(st.tuples(OPEN, st.just("a")), max_size=2))),
            remove_if_empty=tuple(draw(st.lists(st.tuples(OPEN, st.just("b")), max_size=2))),
        ),
    )
    return plan(
        *draw(st.lists(TEXT, min_size=1, max_size=4)),
        env=tuple(map(os.fsencode, draw(st.lists(TEXT, max_size=4)))),
        cwd=draw(PATHS),
        cwd_required=draw(st.booleans()),
        network=draw(st.sampled_from(("private", "host", "none"))),
        binds=tuple(
            Bind(
                source=draw(PATHS),
                target=target,
                read_only=draw(st.booleans()),
                attributes=draw(ATTRIBUTES),
                cleared=draw(ATTRIBUTES),
                propagation=draw(st.sampled_from(["private", "slave", "shared"])),
            )
            for target in targets
        ),
        descriptors=tuple(draw(st.lists(OPEN, max_size=4))),
        redirected=draw(st.dictionaries(st.sampled_from((0, 1, 2)), OPEN)),
        umask=draw(st.none() | st.integers(0, 0o777)),
        keep=draw(st.booleans()),
        user_namespace=draw(st.none() | st.just(20)),
        listeners={
            21 + at: port
            for at, port in enumerate(draw(st.sets(st.integers(1, 65535), max_size=3)))
        },
        caller=Caller(
            pid=1,
            umask=draw(st.integers(0, 0o777)),
            blocked=draw(st.integers(0, 2**64 - 1)),
            ignored=draw(st.integers(0, 2**64 - 1)),
            closed=draw(st.frozensets(st.sampled_from((0, 1, 2)))),
            console=draw(st.none() | PATHS),
        ),
        supervision=draw(
            st.just(alone) | st.just(Reporting(parent=24, status_write=25, reap_read=26))
        ),
        mount=27,
        hidden=tuple(draw(st.lists(PATHS, max_size=2))),
        filters=draw(st.sampled_from([(), FILTERS[:1], FILTERS])),
        confinement=draw(CONFINEMENTS),
    )


@settings(max_examples=100, deadline=None)
@given(made=plans())
def test_the_program_understands_every_plan(made: Plan) -> None:
    """It checks a plan, open descriptors included, and carries nothing out."""
    encoded = os.memfd_create("plan")
    null = os.open(os.devnull, os.O_RDONLY)
    program = os.open(seccomp.PREPARED[0], os.O_RDONLY)
    try:
        os.write(encoded, made.encode())
        child = os.posix_spawn(
            SUPERVISOR,
            [SUPERVISOR, "40", "--check"],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, encoded, 40),
                *((os.POSIX_SPAWN_DUP2, program, number) for number in (28, 29)),
                *((os.POSIX_SPAWN_DUP2, null, number) for number in range(3, 28)),
            ],
        )
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, made.steps
    finally:
        os.close(encoded)
        os.close(null)
        os.close(program)
