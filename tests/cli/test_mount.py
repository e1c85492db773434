"""`overlaykit mount`: the options and errors of `mount -t overlay`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from overlaykit import _native
from overlaykit.fuse.kernel_version import version_of
from overlaykit.rmtree import rmtree_path
from overlaykit.views.options import table

from ..views.fixtures import only_as
from ..views.serving import kept_mount
from ..views.user import TestUser
from ..views.user import command as user_command


@dataclass
class MountDirs:
    """Directories to be merged, and one to mount on."""

    lower: str
    upper: str
    work: str
    target: str

    @property
    def options(self) -> str:
        return f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"


def make_dirs(user: TestUser) -> MountDirs:
    lower = user.directory("lower", file="from the lower\n", other="other\n")
    names = [user.directory(name) for name in ("upper", "work", "target")]
    return MountDirs(lower, *names)


@contextlib.contextmanager
def mounted(user: TestUser, options: str, target: str) -> Iterator[None]:
    user.succeeds("mount", "-o", options, target)
    try:
        yield
    finally:
        user.succeeds("umount", target)


def contents(*names: str) -> str:
    with open(os.path.join(*names)) as file:
        return file.read()


def test_layers_are_merged_and_changes_go_to_the_upper(user: TestUser) -> None:
    dirs = make_dirs(user)
    with mounted(user, dirs.options, dirs.target):
        assert sorted(os.listdir(dirs.target)) == ["file", "other"]
        user.write(os.path.join(dirs.target, "file"), "changed\n")
        os.unlink(os.path.join(dirs.target, "other"))
        assert os.listdir(dirs.target) == ["file"]
    assert os.listdir(dirs.target) == []
    assert contents(dirs.lower, "file") == "from the lower\n"
    assert contents(dirs.upper, "file") == "changed\n"
    with mounted(user, dirs.options, dirs.target):
        assert os.listdir(dirs.target) == ["file"]
        assert contents(dirs.target, "file") == "changed\n"


@pytest.mark.parametrize(
    ("said", "creates"),
    [
        ((), "native"),
        (("-o", "data_plane=off"), "python"),
        (("--data-plane", "off"), "python"),
        (("-o", "data_plane=off", "--data-plane", "on"), "native"),
    ],
)
def test_a_mount_may_do_without_its_data_plane(
    user: TestUser, said: tuple[str, ...], creates: str
) -> None:
    dirs = make_dirs(user)
    user.succeeds("mount", *said, "-o", dirs.options, "--name", "m", dirs.target)
    try:
        for name in ("made", "next"):
            user.write(os.path.join(dirs.target, name), "new\n")
            assert contents(dirs.target, name) == "new\n"
        found = json.loads(user.succeeds("stats", "--requests", "--json", "m"))
        assert creates in {one["by"] for one in found if one["request"] == "create"}
        native = {one["request"] for one in found if one["by"] == "native"}
        # Of those three nothing is implemented.
        assert bool(native - {"opendir", "ioctl", "other"}) == (creates == "native")
    finally:
        user.succeeds("umount", dirs.target)
    assert contents(dirs.upper, "made") == "new\n"


def test_with_data_auto_the_kernel_writes_where_it_can(user: TestUser) -> None:
    dirs = make_dirs(user)
    user.succeeds("mount", "--data", "auto", "-o", dirs.options, "--name", "m", dirs.target)
    try:
        user.write(os.path.join(dirs.target, "made"), "new\n")
        user.write(os.path.join(dirs.target, "file"), "changed\n")
        found = json.loads(user.succeeds("stats", "--requests", "--json", "m"))
        can = user.is_root and version_of(os.uname().release) >= (6, 9)
        assert ("write" in {one["request"] for one in found}) == (not can)
    finally:
        user.succeeds("umount", dirs.target)
    assert contents(dirs.upper, "file") == "changed\n"
    assert contents(dirs.lower, "file") == "from the lower\n"


def test_a_later_mount_does_not_keep_an_earlier_one(user: TestUser) -> None:
    dirs = make_dirs(user)
    later = user.directory("later")
    user.succeeds("mount", "-o", dirs.options, dirs.target)
    try:
        with mounted(user, f"lowerdir={dirs.lower}", later):
            user.succeeds("umount", dirs.target)
            assert contents(later, "file") == "from the lower\n"
    finally:
        if os.path.ismount(dirs.target):
            user.succeeds("umount", dirs.target)


@only_as("root")
def test_umount_reports_that_another_mount_namespace_holds_the_mount(user: TestUser) -> None:
    dirs = make_dirs(user)
    user.succeeds("mount", "-o", dirs.options, dirs.target)
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        umount = user.start("umount", dirs.target, stderr=subprocess.PIPE)
        assert umount.stderr is not None
        assert "another mount namespace" in umount.stderr.readline()
        assert os.listdir(dirs.target) == []
    finally:
        holder.communicate(b"")
    assert umount.wait() == 0
    umount.stderr.close()


def test_the_lower_named_first_is_the_top(user: TestUser) -> None:
    dirs = make_dirs(user)
    top = user.directory("to:p", file="from the top\n")
    escaped = top.replace(":", "\\:")
    with mounted(user, f"lowerdir={escaped}:{dirs.lower}", dirs.target):
        assert contents(dirs.target, "file") == "from the top\n"
        assert contents(dirs.target, "other") == "other\n"


@pytest.mark.parametrize("read_only", ["lowerdir={lower}", "{options},ro"])
def test_a_mount_without_an_upper_or_with_ro_refuses_to_write(
    user: TestUser, read_only: str
) -> None:
    dirs = make_dirs(user)
    options = read_only.format(lower=dirs.lower, options=dirs.options)
    with mounted(user, options, dirs.target):
        changes: tuple[Callable[[], object], ...] = (
            lambda: os.mkdir(os.path.join(dirs.target, "new")),
            lambda: os.unlink(os.path.join(dirs.target, "file")),
            lambda: os.chmod(os.path.join(dirs.target, "file"), 0o600),
        )
        for change in changes:
            with pytest.raises(OSError, match="Read-only file system"):
                change()
    assert os.listdir(dirs.upper) == []


@only_as("root")  # the kernel's overlayfs is mounted as a comparison
def test_the_kernels_overlayfs_and_overlaykit_use_each_others_uppers(user: TestUser) -> None:
    dirs = make_dirs(user)
    os.mkdir(os.path.join(dirs.lower, "directory"))
    with mounted(user, dirs.options, dirs.target):
        os.unlink(os.path.join(dirs.target, "file"))
        os.rename(os.path.join(dirs.target, "directory"), os.path.join(dirs.target, "renamed"))
        user.write(os.path.join(dirs.target, "ours"), "ours\n")
    options = f"{dirs.options},redirect_dir=on"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, dirs.target], check=True)
    try:
        assert sorted(os.listdir(dirs.target)) == ["other", "ours", "renamed"]
        os.unlink(os.path.join(dirs.target, "other"))
        user.write(os.path.join(dirs.target, "theirs"), "theirs\n")
    finally:
        subprocess.run(["umount", dirs.target], check=True)
    with mounted(user, dirs.options, dirs.target):
        assert sorted(os.listdir(dirs.target)) == ["ours", "renamed", "theirs"]


def test_an_unknown_option_is_reported_by_name(user: TestUser) -> None:
    dirs = make_dirs(user)
    for option in "metacopied", "lowerdir-=/x", "rO":
        line = user.refused("mount", "-o", f"{dirs.options},{option}", dirs.target)
        assert line.startswith(
            f"mount option {option}: not one of lowerdir=, lowerdir+=, upperdir=, workdir=, "
        )
    line = user.refused("mount", "-o", f"{dirs.options},nfs_export=on", dirs.target)
    assert line == (
        "mount option nfs_export=on: refused: a FUSE mount like this one cannot be exported over NFS"
    )


def test_ro_binds_although_another_o_comes_after_it(user: TestUser) -> None:
    dirs = make_dirs(user)
    user.succeeds("mount", "-o", "ro", "-o", dirs.options, dirs.target)
    try:
        with pytest.raises(OSError, match="Read-only file system"):
            user.write(os.path.join(dirs.target, "new"), "")
    finally:
        user.succeeds("umount", dirs.target)
    assert os.listdir(dirs.upper) == []


def test_options_without_an_effect_are_accepted(user: TestUser) -> None:
    dirs = make_dirs(user)
    needless = [
        known.spelling.replace("*", "anything").split("|")[0]
        for known in table.KNOWN
        if known.row.effect is table.Effect.IGNORED
    ]
    with mounted(user, f"{dirs.options},{','.join(needless)}", dirs.target):
        assert contents(dirs.target, "file") == "from the lower\n"


def test_an_option_that_does_less_than_it_says_is_noted(user: TestUser) -> None:
    dirs = make_dirs(user)
    done = user.overlaykit("mount", "-o", f"{dirs.options},metacopy=on", dirs.target)
    try:
        line = "mount option metacopy=on: copy-up copies the data too, as only root's marks tell"
        assert done.stderr == ("" if user.is_root else f"overlaykit: {line}\n")
        assert done.returncode == 0
    finally:
        user.succeeds("umount", dirs.target)


def test_mount_flags_bind_programs(user: TestUser) -> None:
    dirs = make_dirs(user)
    os.symlink("file", os.path.join(dirs.lower, "link"))
    for name, mode in ("program", 0o755), ("raised", 0o4755):
        shutil.copy("/bin/true", os.path.join(dirs.lower, name))
        os.chmod(os.path.join(dirs.lower, name), mode)
    flags = ["noexec", "noatime", "sync"]
    if user.is_root:
        flags += ["nosymfollow", "nodev", "nosuid", "nodiratime", "dirsync"]
    with mounted(user, f"{dirs.options},{','.join(flags)}", dirs.target):
        shown = user.program(["findmnt", "-no", "OPTIONS", dirs.target]).strip().split(",")
        assert set(flags) <= set(shown)
        with pytest.raises(PermissionError):
            subprocess.run([os.path.join(dirs.target, "program")], check=True)
        if user.is_root:
            with pytest.raises(OSError, match="Too many levels of symbolic links"):
                contents(dirs.target, "link")
    with mounted(user, f"{dirs.options},noexec,exec", dirs.target):
        subprocess.run([os.path.join(dirs.target, "program")], check=True)
        shown = user.program(["findmnt", "-no", "OPTIONS", dirs.target]).strip().split(",")
        assert ("nosuid" in shown) is ("nodev" in shown) is not user.is_root


@only_as("ordinary user")
def test_what_fusermount3_cannot_do_is_refused(user: TestUser) -> None:
    dirs = make_dirs(user)
    line = user.refused("mount", "-o", f"{dirs.options},nosymfollow", dirs.target)
    assert line == (
        "mount option nosymfollow: fusermount3 has no such option: as an ordinary user, leave it out"
    )
    done = user.overlaykit("mount", "-o", f"{dirs.options},allow_other", dirs.target)
    if done.returncode:  # depends on the machine
        assert "user_allow_other" in done.stderr
    else:
        user.succeeds("umount", dirs.target)


def test_a_source_with_a_comma_is_shown_as_it_is(user: TestUser) -> None:
    dirs = make_dirs(user)
    with mounted(user, rf"{dirs.options},fsname=a\,b\\c", dirs.target):
        assert user.program(["findmnt", "-rno", "SOURCE", dirs.target]) == "a,b\\x5cc\n"


@pytest.mark.parametrize("name", ["co:lon", "com,ma", "back\\slash", "a b", 'quo"te', "line\nfeed"])
def test_directories_may_have_any_name(user: TestUser, name: str) -> None:
    lower, upper, work, target = (user.directory(f"{part}{name}") for part in ("l", "u", "w", "t"))
    user.write(os.path.join(lower, "file"), "from the lower\n")
    quoted = {
        key: re.sub(r"([\\:,])", r"\\\1", path)
        for key, path in (("lowerdir", lower), ("upperdir", upper), ("workdir", work))
    }
    options = ",".join(f"{key}={path}" for key, path in quoted.items())
    with mounted(user, options, target):
        user.write(os.path.join(target, "new"), "new\n")
        assert contents(target, "file") == "from the lower\n"
    assert contents(upper, "new") == "new\n"


@only_as("root")  # the kernel's overlayfs is mounted as a comparison
@pytest.mark.parametrize(
    "quoted",
    [
        *("lowerdir={}/a\\:b:{}/z", "lowerdir={}/a\\,b:{}/z", "lowerdir={}/a\\\\b:{}/z"),
        *("lowerdir={}/a\\b:{}/z", "lowerdir={}/a\\\\:{}/z", "lowerdir={}/a\\ b:{}/z"),
        *("lowerdir+={}/a:b,lowerdir+={}/z", "lowerdir+={}/a\\b,lowerdir+={}/z"),
        *("lowerdir={}/z,upperdir={}/a:b", "lowerdir={}/z,upperdir={}/a\\:b"),
        *("lowerdir={}/z,upperdir={}/a\\,b", "lowerdir={}/z,upperdir={}/a\\\\b"),
        "lowerdir={}/z,upperdir={}/a\\b",
    ],
)
def test_a_quoted_directory_is_the_one_that_the_kernel_means(user: TestUser, quoted: str) -> None:
    for name in "a:b", "a,b", "a\\b", "ab", "a\\", "a b", "z":
        user.directory(name, which=name)
    target, work = user.directory("target"), user.directory("work")
    options = quoted.format(user.scratch, user.scratch)
    if "upperdir" in options:
        options += f",workdir={work}"
    subprocess.run(["mount", "-i", "-t", "overlay", "-o", options, "none", target], check=True)
    meant = contents(target, "which")
    subprocess.run(["umount", target], check=True)
    with mounted(user, options, target):
        assert contents(target, "which") == meant


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            "ro",
            "mount option lowerdir: missing: name the directories to be merged, top first, as lowerdir=A:B",
        ),
        (
            "lowerdir=/usr,upperdir=/x",
            "mount option upperdir: upperdir and workdir go together: give both or neither",
        ),
        (
            "lowerdir=/usr,redirect_dir=x",
            "mount option redirect_dir=x: give one of on, off, follow, nofollow",
        ),
    ],
)
def test_invalid_options_are_reported(user: TestUser, options: str, line: str) -> None:
    assert user.refused("mount", "-o", options, make_dirs(user).target) == line


def test_upper_and_work_on_different_file_systems_are_refused(user: TestUser) -> None:
    dirs = make_dirs(user)
    with another_file_system() as work:
        options = f"lowerdir={dirs.lower},upperdir={dirs.upper},workdir={work}"
        assert user.refused("mount", "-o", options, dirs.target) == (
            f"upper {dirs.upper} and work {work} are on different file systems:"
            " choose a work directory on the upper's"
        )


@contextlib.contextmanager
def another_file_system() -> Iterator[str]:
    """A directory on a file system of its own: the tmpfs that every Linux has (shm_overview(7))."""
    directory = f"/dev/shm/overlaykit-test-{os.getpid()}"
    os.mkdir(directory)
    try:
        yield directory
    finally:
        rmtree_path(directory)


def test_an_upper_inside_a_lower_does_not_show_in_it(user: TestUser) -> None:
    dirs = make_dirs(user)
    upper, work = user.directory("lower", "upper"), user.directory("lower", "work")
    options = f"lowerdir={dirs.lower},upperdir={upper},workdir={work}"
    done = user.overlaykit("mount", "-o", options, dirs.target)
    try:
        assert (done.returncode, done.stderr) == (
            0,
            f"overlaykit: upper {upper}: lies inside the lower {dirs.lower}, which does not show it\n",
        )
        user.write(os.path.join(dirs.target, "new"), "new\n")
        user.write(os.path.join(dirs.target, "file"), "changed\n")
        assert sorted(os.listdir(dirs.target)) == ["file", "new", "other", "upper", "work"]
        for hidden in "upper", "work":
            with pytest.raises(OSError, match="Too many levels of symbolic links"):
                os.stat(os.path.join(dirs.target, hidden))
    finally:
        user.succeeds("umount", dirs.target)
    assert sorted(os.listdir(upper)) == ["file", "new"]
    assert contents(dirs.lower, "file") == "from the lower\n"
    assert sorted(os.listdir(dirs.lower)) == ["file", "other", "upper", "work"]


@only_as("root")  # an ordinary user's lower shows what is mounted in it
def test_the_machines_root_is_a_lower_where_upper_and_target_are_on_another_disk(
    user: TestUser,
) -> None:
    with another_file_system() as directory:
        for name in "upper", "work", "target":
            os.mkdir(os.path.join(directory, name))
        options = f"lowerdir=/,upperdir={directory}/upper,workdir={directory}/work"
        with mounted(user, options, f"{directory}/target"):
            assert os.listdir(f"{directory}/target/usr/bin") != []
            assert os.listdir(f"{directory}/target/dev/shm") == []
            os.unlink(f"{directory}/target/etc/passwd")
            assert not os.path.exists(f"{directory}/target/etc/passwd")
        assert os.path.exists("/etc/passwd")
        assert os.listdir(f"{directory}/upper") == ["etc"]


def test_a_target_that_is_not_empty_is_covered_with_a_warning(user: TestUser) -> None:
    dirs = make_dirs(user)
    full = user.directory("full", hidden="")
    done = user.overlaykit("mount", "-o", dirs.options, full)
    try:
        assert (done.returncode, done.stderr) == (
            0,
            f"overlaykit: {full}: not empty: what it holds is hidden until this is unmounted\n",
        )
        assert sorted(os.listdir(full)) == ["file", "other"]
    finally:
        user.succeeds("umount", full)
    assert os.listdir(full) == ["hidden"]


@only_as("root")  # an ordinary user's daemon would wait for itself in the lower
def test_a_lower_can_be_the_target_itself(user: TestUser) -> None:
    dirs = make_dirs(user)
    with mounted(user, dirs.options, dirs.lower):
        user.write(os.path.join(dirs.lower, "file"), "changed\n")
        os.unlink(os.path.join(dirs.lower, "other"))
    assert contents(dirs.lower, "file") == "from the lower\n"
    assert contents(dirs.upper, "file") == "changed\n"
    assert sorted(os.listdir(dirs.lower)) == ["file", "other"]


def test_the_upper_can_be_the_target_itself(user: TestUser) -> None:
    dirs = make_dirs(user)
    with mounted(user, dirs.options, dirs.upper):
        assert sorted(os.listdir(dirs.upper)) == ["file", "other"]
        user.write(os.path.join(dirs.upper, "new"), "new\n")
        os.mkdir(os.path.join(dirs.upper, "directory"))
    assert sorted(os.listdir(dirs.upper)) == ["directory", "new"]


def test_a_target_inside_the_upper_is_refused_because_it_would_hang(user: TestUser) -> None:
    dirs = make_dirs(user)
    for layer in dirs.upper, dirs.work:
        target = os.path.join(layer, "inside")
        os.mkdir(target)
        assert user.refused("mount", "-o", dirs.options, target) == (
            f"mountpoint {target} lies inside {layer}, where changes go: choose one outside of it"
        )
        os.rmdir(target)


@only_as("root")  # bind mounts
@pytest.mark.parametrize("outer", ["upper", "work"])
def test_a_lower_that_another_mount_shows_is_not_written_to(user: TestUser, outer: str) -> None:
    dirs = make_dirs(user)
    inside = user.directory(outer, "inside", precious="kept\n")
    bound = user.directory("bound")
    subprocess.run(["mount", "--bind", inside, bound], check=True)
    try:
        options = f"lowerdir={bound},upperdir={dirs.upper},workdir={dirs.work}"
        line = user.refused("mount", "-o", options, dirs.target)
        assert line.startswith(f"lower {bound} lies inside {user.path(outer)}, where changes go")
    finally:
        subprocess.run(["umount", bound], check=True)
    assert contents(inside, "precious") == "kept\n"


GIVEN = [
    "{name}",
    "./{name}",
    "/proc/self/cwd/{name}",
    "/proc/thread-self/cwd/{name}",
    "/dev/fd/{fd}",
]


@pytest.mark.parametrize("given", GIVEN)
def test_paths_are_resolved_as_the_callers(user: TestUser, given: str) -> None:
    dirs = make_dirs(user)
    names = {"lowerdir": dirs.lower, "upperdir": dirs.upper, "workdir": dirs.work}
    with contextlib.ExitStack() as closing:
        paths = {}
        for key, path in (*names.items(), ("target", dirs.target)):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            closing.callback(os.close, fd)
            os.set_inheritable(fd, True)
            paths[key] = given.format(name=os.path.basename(path), fd=fd)
        target = paths.pop("target")
        options = ",".join(f"{key}={path}" for key, path in paths.items())
        user.succeeds("mount", "-o", options, target, cwd=user.scratch, close_fds=False)
    try:
        assert contents(dirs.target, "file") == "from the lower\n"
        user.write(os.path.join(dirs.target, "new"), "new\n")
        explained = user.succeeds("explain", dirs.target, "/file")
        assert os.path.join(dirs.lower, "file") in explained
    finally:
        user.succeeds("umount", dirs.target)
    assert os.listdir(dirs.upper) == ["new"]


def test_a_deleted_lower_is_merged(user: TestUser) -> None:
    dirs = make_dirs(user)
    fds = []
    for _ in range(2):
        gone = user.directory("gone")
        fds.append(os.open(gone, os.O_RDONLY | os.O_DIRECTORY))
        os.rmdir(gone)
    options = f"lowerdir=/dev/fd/{fds[0]}:/dev/fd/{fds[1]}:{dirs.lower}"
    user.succeeds("mount", "-o", options, dirs.target, pass_fds=fds)
    for fd in fds:
        os.close(fd)
    assert contents(dirs.target, "file") == "from the lower\n"
    user.succeeds("umount", dirs.target)


def test_a_relative_directory_in_a_deleted_working_directory_is_reported(user: TestUser) -> None:
    dirs = make_dirs(user)
    gone = user.directory("gone")
    command = f"cd {gone}; rmdir {gone}; exec {user_command()} mount -o lowerdir=x {dirs.target}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        125,
        "overlaykit: layer x: No such file or directory: give a directory that can be read\n",
    )


def test_hundreds_of_lowers_can_be_merged(user: TestUser) -> None:
    """More than SCM_MAX_FD, the limit of one message, and as many as the kernel merges."""
    dirs = make_dirs(user)
    names = [user.directory("many", str(number)) for number in range(500)]
    for number in 0, 250, 499:
        user.write(os.path.join(names[number], f"in-{number}"), "")
    os.chdir(user.path("many"))
    with mounted(user, f"lowerdir={':'.join(map(str, range(500)))}", dirs.target):
        assert sorted(os.listdir(dirs.target)) == ["in-0", "in-250", "in-499"]


def test_a_missing_layer_or_upper_is_reported(user: TestUser) -> None:
    dirs = make_dirs(user)
    missing = user.path("missing")
    assert user.refused("mount", "-o", f"lowerdir={dirs.lower}:{missing}", dirs.target) == (
        f"layer {missing}: No such file or directory: give a directory that can be read"
    )
    options = f"lowerdir={dirs.lower},upperdir={missing},workdir={dirs.work}"
    assert user.refused("mount", "-o", options, dirs.target) == (
        f"upper {missing}: No such file or directory:"
        " give a directory that can be written to, on a file system with extended attributes"
    )
    options = f"lowerdir={dirs.lower},upperdir={dirs.upper},workdir={missing}"
    assert user.refused("mount", "-o", options, dirs.target) == (
        f"work {missing}: No such file or directory:"
        " give an empty directory that can be written to, on the upper's file system"
    )


def test_a_missing_mountpoint_is_reported(user: TestUser) -> None:
    dirs = make_dirs(user)
    missing, file = user.path("missing"), os.path.join(dirs.lower, "file")
    assert user.refused("mount", "-o", f"lowerdir={dirs.lower}", missing) == (
        f"{missing}: no such directory to mount on: create it first"
    )
    assert user.refused("mount", "-o", f"lowerdir={dirs.lower}", file) == (
        f"{file}: is no directory: name one to mount on"
    )


def test_a_mountpoint_in_a_deleted_working_directory_is_reported(user: TestUser) -> None:
    dirs = make_dirs(user)
    gone = user.directory("gone")
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    for target, deleted in (("m", "the working directory"), (".", "this directory")):
        os.makedirs(gone, exist_ok=True)
        done = subprocess.run(
            [
                "sh",
                "-c",
                script,
                gone,
                user_command(),
                "mount",
                "-o",
                f"lowerdir={dirs.lower}",
                target,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (
            125,
            f"overlaykit: {target}: {deleted} has been deleted: change to another directory\n",
        )


@only_as("root")  # fusermount3 mounts on no FUSE
def test_a_mount_upon_a_mount_hides_it_until_it_is_unmounted(user: TestUser) -> None:
    dirs = make_dirs(user)
    other = user.directory("other", file="from the other\n")
    with mounted(user, dirs.options, dirs.target):
        done = user.overlaykit("mount", "-o", f"lowerdir={other}", dirs.target)
        try:
            assert done.returncode == 0
            assert done.stderr == (
                f"overlaykit: {dirs.target}: an overlaykit mount is there already: "
                "it is hidden until this one is unmounted\n"
            )
            assert contents(dirs.target, "file") == "from the other\n"
            assert other in user.succeeds("explain", dirs.target, "/file")
        finally:
            user.succeeds("umount", dirs.target)
        assert contents(dirs.target, "file") == "from the lower\n"
        assert dirs.lower in user.succeeds("explain", dirs.target, "/file")


def test_a_mount_upon_a_dead_one_is_refused(user: TestUser) -> None:
    dirs = make_dirs(user)
    user.succeeds("mount", "-o", dirs.options, dirs.target)
    os.kill(kept_mount(dirs.target).keeper, signal.SIGKILL)
    user.wait_for_descendants()
    dead = f"{dirs.target}: a mount is there whose daemon has ended: 'overlaykit umount {dirs.target}' first"
    assert user.refused("mount", "-o", dirs.options, dirs.target) == dead
    assert user.refused("explain", dirs.target, "/file") == dead
    assert user.refused("stats", "--requests", dirs.target) == dead
    user.succeeds("umount", dirs.target)
    with mounted(user, dirs.options, dirs.target):
        assert contents(dirs.target, "file") == "from the lower\n"


@only_as("ordinary user")
def test_a_mountpoint_that_fusermount3_refuses_is_reported(user: TestUser) -> None:
    dirs = make_dirs(user)
    os.chmod(dirs.target, 0o555)
    done = user.overlaykit("mount", "-o", f"lowerdir={dirs.lower}", dirs.target)
    assert done.returncode == 125
    of_helper, ours = done.stderr.splitlines()
    assert of_helper.startswith("fusermount3: ")
    assert ours == (
        f"overlaykit: mounting on {dirs.target}: fusermount3 says above why not: "
        "choose a directory of your own, or use 'overlaykit run'"
    )


def test_an_upper_of_a_running_mount_is_refused(user: TestUser) -> None:
    dirs = make_dirs(user)
    second = user.directory("second")
    with mounted(user, dirs.options, dirs.target):
        assert user.refused("mount", "-o", dirs.options, second) == (
            f"upper {dirs.upper} is in use by the mount at {dirs.target}:"
            f" 'overlaykit umount {dirs.target}' first, or choose another upper"
        )


def test_a_mountpoint_inside_a_lower_works_or_is_refused_but_never_hangs(user: TestUser) -> None:
    lower = user.directory("lower", file="contents\n")
    target = user.directory("lower", "target")
    if user.is_root:
        with mounted(user, f"lowerdir={lower}", target):
            assert contents(target, "file") == "contents\n"
            assert os.listdir(os.path.join(target, "target")) == []
    else:
        assert user.refused("mount", "-o", f"lowerdir={lower}", target) == (
            f"mountpoint {target} lies inside the lower {lower}: as an ordinary user, choose one outside of it"
        )


@only_as("ordinary user")
def test_a_missing_fusermount3_is_reported_with_its_package(
    user: TestUser,
) -> None:
    if user.is_root:
        return
    dirs = make_dirs(user)
    line = user.refused(
        *("mount", "-o", f"lowerdir={dirs.lower}", dirs.target),
        env=os.environ | {"PATH": dirs.lower},
    )
    assert line == (
        f"mounting on {dirs.target} takes root or fusermount3:"
        " install the package fuse3, or use 'overlaykit run'"
    )


@pytest.mark.parametrize(
    ("lower", "upper", "work", "line"),
    [
        ("lower", "both", "both", "upper {both} and work {both} lie in one another"),
        ("lower", "both/work", "both", "upper {both}/work and work {both} lie in one another"),
        ("both/work", "upper", "both", "lower {both}/work lies inside {both}, where changes go"),
        ("both/low", "both", "work", "lower {both}/low lies inside {both}, where changes go"),
        ("lower", "upper", "both", "work {both}: holds low, which is no work of a mount"),
    ],
)
def test_directories_that_would_change_each_other_are_refused(
    user: TestUser, lower: str, upper: str, work: str, line: str
) -> None:
    make_dirs(user)
    both = user.directory("both")
    for name in ("low", "work"):
        os.mkdir(os.path.join(both, name))
        user.write(os.path.join(both, name, "precious"), "kept\n")
    paths = [user.path(*path.split("/")) for path in (lower, upper, work)]
    options = "lowerdir={},upperdir={},workdir={}".format(*paths)
    assert user.refused("mount", "-o", options, user.path("target")).startswith(
        line.format(both=both)
    )
    assert all(contents(both, name, "precious") == "kept\n" for name in ("low", "work"))


def test_a_lower_that_is_a_file_is_refused(user: TestUser) -> None:
    dirs = make_dirs(user)
    file = os.path.join(dirs.lower, "file")
    assert user.refused("mount", "-o", f"lowerdir={file}", dirs.target) == (
        f"layer {file}: Not a directory: give a directory that can be read"
    )


@pytest.mark.parametrize(
    "option", ["squash_to_uid=99999999999", "gidmapping=0:0:99999999999", "uidmapping=1:2"]
)
def test_ids_out_of_range_are_refused(user: TestUser, option: str) -> None:
    dirs = make_dirs(user)
    line = user.refused("mount", "-o", f"lowerdir={dirs.lower},{option}", dirs.target)
    assert line.startswith(f"mount option {option}: ")


def test_xattr_permissions_keeps_modes_in_an_attribute(user: TestUser) -> None:
    dirs = make_dirs(user)
    with mounted(user, f"{dirs.options},xattr_permissions=2", dirs.target):
        os.chmod(os.path.join(dirs.target, "file"), 0o601)
        assert os.stat(os.path.join(dirs.target, "file")).st_mode & 0o7777 == 0o601
    kept = os.getxattr(os.path.join(dirs.upper, "file"), "user.containers.override_stat")
    assert kept.endswith(b":601")


@only_as("root")
def test_owners_are_shown_as_the_options_map_them(user: TestUser) -> None:
    dirs = make_dirs(user)
    os.chown(os.path.join(dirs.lower, "file"), 5, 6)
    for option, uid, gid in (
        ("squash_to_root", 0, 0),
        ("squash_to_uid=7,squash_to_gid=8", 7, 8),
        ("uidmapping=:5:1005:1:0:0:1,gidmapping=6:1006:1", 1005, 1006),
    ):
        with mounted(user, f"lowerdir={dirs.lower},{option}", dirs.target):
            st = os.stat(os.path.join(dirs.target, "file"))
            assert (st.st_uid, st.st_gid) == (uid, gid)


@only_as("root")  # an ordinary user cannot mount such a disk
def test_an_upper_on_a_disk_without_attributes_is_refused_with_the_fix(
    user: TestUser,
) -> None:
    dirs = make_dirs(user)
    disk = user.directory("disk")
    _native.mount("disk", disk, "ramfs", 0)
    try:
        upper, work = os.path.join(disk, "upper"), os.path.join(disk, "work")
        os.mkdir(upper)
        os.mkdir(work)
        lack = f"upper {upper}: its file system keeps no extended attributes for markers"
        options = f"lowerdir={dirs.lower},upperdir={upper},workdir={work}"
        line = user.refused("mount", "-o", options, dirs.target)
        assert line == f"{lack}: give whiteout=aufs, or put it on another file system"
        line = user.refused("run", "--upper", upper, "true")
        assert line == f"{lack}: choose one elsewhere"
        for _ in range(2):
            with mounted(user, f"{options},whiteout=aufs", dirs.target):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(dirs.target, "file"))
                assert os.listdir(dirs.target) == ["other"]
        assert os.listdir(upper) == [".wh.file"]
    finally:
        _native.umount2(disk, 0)
