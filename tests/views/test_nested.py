"""Views and user namespaces inside a view: overlaykit itself and other programs that make containers."""

from __future__ import annotations

import os
import shlex

from .fixtures import only_as, only_with
from .user import TestUser, command

# The kernel refuses a view's files to the users of another one.
pytestmark = only_with(driver="fuse")

LEVELS = 3
NAMESPACES = (
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--pid",
    "--ipc",
    "--net",
    "--fork",
)


def nested(levels: int, *arguments: str) -> list[str]:
    """The arguments of a command that runs `levels` views deep."""
    inner = [command(), "run", "--"] * (levels - 1)
    return ["run", "--", *inner, *arguments]


def at_each_level(user: TestUser, levels: int, script: str) -> str:
    """The output of a script in a view, in a view inside that, and so on."""
    file = user.write(
        user.path("at-each-level"),
        f"{script}\ntest $1 = 1 || exec {command()} run -- sh -e $0 $(($1 - 1))\n",
    )
    return user.succeeds("run", "--", "sh", "-e", file, str(levels))


def in_a_user_namespace(script: str) -> str:
    return f"{shlex.join(NAMESPACES)} sh -ec {shlex.quote(script)}"


def test_views_nest(user: TestUser) -> None:
    outside = user.write(user.path("home", "file"), "of the host")
    script = (
        f"echo changed > {outside} && echo new > /opt/new && cat {outside} /opt/new /proc/1/comm"
    )
    printed = user.succeeds(*nested(LEVELS, "sh", "-c", script))
    assert printed.splitlines()[:2] == ["changed", "new"]
    with open(outside) as file:
        assert file.read() == "of the host"
    assert not os.path.exists("/opt/new")


def test_files_are_deleted_and_moved_in_a_nested_view(user: TestUser) -> None:
    home = user.path("home")
    os.makedirs(f"{home}/d/sub")
    user.write(f"{home}/d/sub/file", "in a directory")
    user.write(f"{home}/gone", "deleted")
    script = (
        f"cd {home} && rm gone && ! cat gone 2> /dev/null && mv d e && cat e/sub/file && "
        "rm -r e && mkdir d && ls -A . d"
    )
    printed = user.succeeds(*nested(2, "sh", "-ec", script))
    assert printed.splitlines()[0] == "in a directory" + ".:"
    assert "gone" not in printed
    assert printed.endswith("\nd:\n")
    with open(f"{home}/d/sub/file") as file:
        assert file.read() == "in a directory"


def test_each_level_has_its_own_changes(user: TestUser) -> None:
    run = f"{command()} run -- sh -ec"
    assert (
        user.succeeds(
            "run",
            "--",
            "sh",
            "-ec",
            f"echo 1 > /opt/level; {run} 'cat /opt/level; echo 2 > /opt/level; cat /opt/level'; cat /opt/level",
        )
        == "1\n2\n1\n"
    )


def test_views_of_one_name_run_at_each_level(user: TestUser) -> None:
    user.set_deadline(180)  # three launchers start in turn
    inner = (command(), "run", "--rm", "--name", "same", "--")
    ps = f"{command()} ps --json"
    assert (
        user.succeeds("run", "--rm", "--name", "same", "--", *inner, *inner, "hostname") == "same\n"
    )
    assert user.succeeds("run", "--rm", "--name", "same", "--", "sh", "-c", ps).strip() == "[]"


def test_a_nested_view_keeps_its_changes_in_an_upper(user: TestUser) -> None:
    changes, kept = user.directory("changes"), user.path("home", "kept")
    inner = f"{command()} run --upper {kept} -- sh -c"
    script = f"mkdir {kept} && {inner} 'echo first > /opt/f' && {inner} 'cat /opt/f'"
    assert user.succeeds("run", "--upper", changes, "--", "sh", "-ec", script) == "first\n"


def test_layers_are_made_in_a_view(user: TestUser) -> None:
    """With their owners if every user is mapped, else as an ordinary user makes them."""
    run = f"{command()} run -l made -l host -- stat -c %u:%g:%a /f"
    script = (
        "cd /tmp && touch f && chmod 4755 f && tar --owner=33 --group=44 -cf made.tar f && "
        f"{command()} layer add made tar:made.tar && {run} && {command()} layer rm made && "
        f"mkdir d && cp -p f d && {command()} layer add made dir:d && {run}"
    )
    made = "33:44:4755\n0:0:4755\n" if user.is_root else "0:0:755\n0:0:755\n"
    assert user.succeeds("run", "--", "sh", "-ec", script) == made


def test_doctor_finds_nothing_missing_in_a_view(user: TestUser) -> None:
    lines = user.succeeds("run", "--", command(), "doctor").splitlines()
    assert all(line.startswith("ok    ") for line in lines)
    fuse = f"test -c /dev/fuse && {command()} run -- test -c /dev/fuse"
    user.succeeds("run", "--", "sh", "-c", fuse)


def test_a_user_namespace_in_a_view_mounts_what_it_mounts_outside(user: TestUser) -> None:
    script = (
        "mkdir -p /tmp/in-m && mount -t tmpfs t /tmp/in-m && cd /tmp/in-m && mkdir l u w o "
        "&& mount -t overlay -o userxattr,lowerdir=l,upperdir=u,workdir=w o o && touch o/file && ls u && cd / "
        "&& mount -t proc p /proc && test $$ = 1 && test -d /proc/1 "
        "&& mount -t devpts d /dev/pts && mount -t mqueue q /dev/mqueue && mount --bind /opt /mnt "
        "&& mount -t sysfs -o ro s /sys && test -e /sys/class/net/lo"
    )
    assert at_each_level(user, 2, in_a_user_namespace(script)) == "file\n" * 2


def test_a_user_namespace_in_a_view_mounts_an_overlay_by_fuse(user: TestUser) -> None:
    script = (
        "cd $(mktemp -d) && mkdir l u w o && echo below > l/file && "
        "export XDG_RUNTIME_DIR= && "
        f"{command()} mount -o lowerdir=l,upperdir=u,workdir=w o && cat o/file && echo above > o/file && "
        f"{command()} umount o && cat u/file"
    )
    assert at_each_level(user, 2, in_a_user_namespace(script)) == "below\nabove\n" * 2


def test_bubblewrap_runs_in_a_view(user: TestUser) -> None:
    sandbox = "bwrap --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp --unshare-all"
    script = f"touch /tmp/in-x; test -d /proc/1; ! touch /opt/x 2> /dev/null; {sandbox} echo in a sandbox in one"
    line = f"{sandbox} sh -ec {shlex.quote(script)}"
    assert at_each_level(user, 2, line) == "in a sandbox in one\n" * 2


def test_no_path_leads_to_the_whole_procfs(user: TestUser) -> None:
    """A view shows its own mounts only, each with its parent; the root's parent is not shown."""
    lines = user.succeeds("run", "cat", "/proc/self/mountinfo").splitlines()
    fields = [line.split() for line in lines]
    assert [one[4] for one in fields].count("/proc") == 1
    assert [one[4] for one in fields if one[-3] == "proc" and one[3] == "/"] == ["/proc"]
    shown = {one[0] for one in fields}
    assert [one[4] for one in fields if one[1] not in shown] == ["/"]
    script = "for p in /../proc /proc/self/root/../proc; do test $p -ef /proc || exit 1; done"
    user.succeeds("run", "sh", "-c", script)


@only_as("root")
def test_the_machines_procfs_is_protected_from_its_root_at_each_level(user: TestUser) -> None:
    """Root of a nested view is the machine's root, which procfs lets write."""
    script = "for f in sys/vm/swappiness sysrq-trigger; do (: >> /proc/$f) 2> /dev/null && echo $f; done; id -u"
    assert at_each_level(user, LEVELS, script) == "0\n" * LEVELS


@only_as("root")
def test_a_root_without_capabilities_runs_views(user: TestUser) -> None:
    """Root of a container without CAP_SYS_ADMIN, or with it but without other capabilities, is no full root."""
    for lost in ("-sys_admin", "-net_admin", "-mknod,-net_admin"):
        drop = ("setpriv", "--bounding-set", lost, "--inh-caps", lost, command())
        script = "echo x > /opt/new && test -O /opt/new && stat -c %u /etc/passwd"
        assert user.program([*drop, "run", "--", "sh", "-ec", script]) == "0\n"


@only_as("root")
def test_a_nested_root_gives_files_to_any_user(user: TestUser) -> None:
    script = "touch /opt/f && chown 1234:65534 /opt/f && stat -c %u:%g /opt/f && setpriv --reuid 77 id -u"
    assert at_each_level(user, LEVELS, script) == "1234:65534\n77\n" * LEVELS
