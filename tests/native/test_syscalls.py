"""Each wrapper does what its man page says, as root and in an ordinary user's namespace."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import select
import signal
import socket
import stat
import threading
from types import FrameType

import pytest

from overlaykit import _native, attributes, handles

from ..posix.syscalls import MS_BIND, MS_REMOUNT, PR_SET_PDEATHSIG
from .sandbox import become_ordinary, needs_root, on_image, refused, run, sandboxed

HERE = _native.AT_FDCWD
AT_SYMLINK_FOLLOW = 0x400
CLOSE_RANGE_CLOEXEC = 1 << 2
MS_MOVE = 0x2000
PR_SET_NO_NEW_PRIVS = 38


def write(path: str, content: str = "") -> None:
    with open(path, "w") as file:
        file.write(content)


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


# ---- every wrapper ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/etc", b"/etc", pathlib.Path("/etc")], ids=repr)
def test_a_path_may_be_str_bytes_or_pathlike(path: str | bytes | pathlib.Path) -> None:
    assert attributes.statx(HERE, path, 0, _native.STATX_BASIC_STATS).ino == os.stat("/etc").st_ino


def test_a_name_that_is_not_utf8_is_found(tmp_path: pathlib.Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(name)
    for path in (name, os.fsdecode(name)):
        assert (
            attributes.statx(HERE, path, 0, _native.STATX_BASIC_STATS).ino == os.stat(path).st_ino
        )


def test_an_error_names_the_path_as_it_was_given() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        _native.openat2(HERE, b"/nonexistent", os.O_RDONLY)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == b"/nonexistent"


def test_an_error_of_two_paths_names_both() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        _native.renameat2(HERE, "/nonexistent", HERE, "/neither")
    assert (caught.value.filename, caught.value.filename2) == ("/nonexistent", "/neither")


def test_a_name_is_never_cut_at_a_nul() -> None:
    with pytest.raises(ValueError, match="null byte"):
        _native.openat2(HERE, "/etc\0/passwd", os.O_RDONLY)


@pytest.mark.parametrize("lacking", [False, True], ids=["as it is", "before Linux 6.13"])
def test_the_attributes_of_a_name_are_listed_however_many(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, lacking: bool
) -> None:
    def missing(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(attributes, "_LACKING", set())
    if lacking:
        monkeypatch.setattr(_native, "listxattrat", missing)
    many = [b"user.%0100d" % number for number in range(5)]
    (tmp_path / "file").touch()
    (tmp_path / "many").touch()
    (tmp_path / "link").symlink_to("many")
    (tmp_path / "dangling").symlink_to("missing")
    for name in many:
        os.setxattr(tmp_path / "many", name, b"")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        for name, expected in ((b"file", []), (b"many", many), (b"link", []), (b"dangling", [])):
            assert sorted(attributes.xattr_names_at(fd, name)) == expected
        with pytest.raises(FileNotFoundError):
            attributes.xattr_names_at(fd, b"missing")
    finally:
        os.close(fd)


def test_a_file_system_without_attributes_has_none() -> None:
    fd = os.open("/proc", os.O_PATH)
    try:
        assert attributes.xattr_names_at(fd, b"version") == []
    finally:
        os.close(fd)


@pytest.mark.parametrize("flags", [-1, 1 << 32])
def test_flags_that_do_not_fit_are_refused_rather_than_cut(flags: int) -> None:
    with pytest.raises(OverflowError):
        _native.renameat2(HERE, "a", HERE, "b", flags)


def test_a_call_that_blocks_lets_other_threads_run(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    opened: list[int] = []
    thread = threading.Thread(
        target=lambda: opened.append(_native.openat2(HERE, tmp_path / "fifo", os.O_RDONLY))
    )
    thread.start()
    writer = os.open(tmp_path / "fifo", os.O_WRONLY)  # opens once the thread is in its call
    thread.join()
    os.close(writer)
    os.close(opened[0])


@sandboxed
def test_a_signal_does_not_fail_a_call_that_blocks() -> None:
    os.mkfifo("fifo")
    ends: list[int] = []

    def let_a_writer_in(_number: int, _frame: FrameType | None) -> None:
        ends.append(os.open("fifo", os.O_RDWR))

    signal.signal(signal.SIGALRM, let_a_writer_in)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    _native.openat2(HERE, "fifo", os.O_RDONLY)
    assert ends


@sandboxed
def test_an_exception_from_a_signal_handler_ends_a_call_that_blocks() -> None:
    os.mkfifo("fifo")
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(KeyboardInterrupt):
        _native.openat2(HERE, "fifo", os.O_RDONLY)


# ---- files ------------------------------------------------------------------------------------


@sandboxed
def test_openat2_cannot_be_led_out_of_a_directory() -> None:
    os.mkdir("layer")
    write("outside", "secret")
    write("layer/inside")
    os.symlink("../outside", "layer/up")
    os.symlink("/outside", "layer/root")
    layer = os.open("layer", os.O_PATH)
    os.close(_native.openat2(layer, "inside", os.O_RDONLY, 0, _native.RESOLVE_BENEATH))
    for name in ("../outside", "up", "root", "/mnt/outside"):
        with refused(errno.EXDEV):
            _native.openat2(layer, name, os.O_RDONLY, 0, _native.RESOLVE_BENEATH)
    with refused(errno.ELOOP):
        _native.openat2(layer, "up", os.O_RDONLY, 0, _native.RESOLVE_NO_SYMLINKS)
    with pytest.raises(FileNotFoundError):
        _native.openat2(layer, "root", os.O_RDONLY, 0, _native.RESOLVE_IN_ROOT)


@sandboxed
def test_openat2_creates_with_the_mode_asked_for_and_closes_on_exec() -> None:
    os.umask(0o027)
    fd = _native.openat2(HERE, "new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


@sandboxed
def test_renameat2_moves_keeps_and_exchanges() -> None:
    write("a", "A")
    _native.renameat2(HERE, "a", HERE, "b")
    write("a", "new A")
    with pytest.raises(FileExistsError):
        _native.renameat2(HERE, "a", HERE, "b", _native.RENAME_NOREPLACE)
    _native.renameat2(HERE, "a", HERE, "b", _native.RENAME_EXCHANGE)
    assert (read("a"), read("b")) == ("A", "new A")


@sandboxed
def test_renameat2_leaves_a_whiteout() -> None:
    write("a", "A")
    _native.renameat2(HERE, "a", HERE, "b", _native.RENAME_WHITEOUT)
    left = os.lstat("a")
    assert stat.S_ISCHR(left.st_mode)
    assert left.st_rdev == 0


@sandboxed
def test_statx_agrees_with_stat() -> None:
    write("file", "content")
    os.symlink("file", "link")
    os.mknod("fifo", stat.S_IFIFO | 0o600)
    for name in ("file", "link", "fifo", ".", "/dev/null", "/etc/passwd"):
        found = attributes.statx(
            HERE, name, _native.AT_SYMLINK_NOFOLLOW, _native.STATX_BASIC_STATS | _native.STATX_BTIME
        )
        expected = os.lstat(name)
        assert (found.ino, found.dev) == (expected.st_ino, expected.st_dev), name
        assert found.mask & _native.STATX_BASIC_STATS == _native.STATX_BASIC_STATS
    link = os.open("link", os.O_PATH | os.O_NOFOLLOW)
    empty = attributes.statx(link, "", _native.AT_EMPTY_PATH, _native.STATX_BASIC_STATS)
    assert empty.ino == os.lstat("link").st_ino


@sandboxed
def test_entries_gives_names_kinds_and_inodes_until_the_end() -> None:
    os.mkdir("many")
    for number in range(500):
        write(f"many/{number:03}-\N{SNOWMAN}")
    os.symlink("x", "many/link")
    os.mknod("many/fifo", stat.S_IFIFO | 0o600)
    os.mkdir("many/directory")
    fd = os.open("many", os.O_RDONLY)
    found: list[tuple[bytes, int, int]] = []
    portions = 0
    while portion := attributes.entries(fd, 4096):
        found += portion
        portions += 1
    assert portions > 1
    assert attributes.entries(fd, 4096) == []
    expected = {name: os.lstat(b"many/" + name) for name in os.listdir(b"many")}
    assert len(found) == len(expected)
    for name, kind, inode in found:
        assert (kind, inode) == (stat.S_IFMT(expected[name].st_mode), expected[name].st_ino), name


@sandboxed
def test_entries_of_an_empty_directory_is_at_its_end_at_once() -> None:
    os.mkdir("empty")
    fd = os.open("empty", os.O_RDONLY)
    assert attributes.entries(fd, 32) == []  # room for `.` or `..`, not for both
    os.lseek(fd, 0, os.SEEK_SET)
    with refused(errno.EINVAL):
        attributes.entries(fd, 8)
    with refused(errno.EBADF):
        attributes.entries(os.open("empty", os.O_PATH), 4096)
    with refused(errno.ENOTDIR):
        write("file")
        attributes.entries(os.open("file", os.O_RDONLY), 4096)


@on_image("mkfs.ext4", "-q", "-O", "^filetype")
def test_entries_gives_no_kind_where_the_directory_does_not_hold_it() -> None:
    write("file")
    found = {name: kind for name, kind, _ in attributes.entries(os.open(".", os.O_RDONLY), 4096)}
    assert found[b"file"] == 0


@sandboxed
def test_fstatfs_gives_the_kind_of_the_file_system() -> None:
    assert (
        attributes.file_system_of(os.open("/proc", os.O_PATH)) == 0x9FA0
    )  # linux/magic.h: PROC_SUPER_MAGIC
    with refused(errno.EBADF):
        attributes.file_system_of(-1)


@sandboxed
def test_statx_gives_the_mount_id_and_the_birth_time() -> None:
    mask = _native.STATX_MNT_ID | _native.STATX_BTIME
    found = attributes.statx(HERE, ".", 0, mask)
    assert found.mask & mask == mask
    assert found.mnt_id != attributes.statx(HERE, "/", 0, mask).mnt_id
    fd = os.open(".", os.O_PATH)
    assert f"mnt_id:\t{found.mnt_id}\n" in read(f"/proc/self/fdinfo/{fd}")
    assert found.btime_ns > 1_700_000_000_000_000_000


@sandboxed
def test_times_are_exact_from_before_the_epoch_to_beyond_64_bits_of_nanoseconds() -> None:
    write("file")
    for time_ns in (-1, 0, 1, 1_700_000_000_123_456_789, 10_000_000_000_999_999_999):
        attributes.set_times(HERE, "file", time_ns, time_ns + 1)
        found = attributes.stat_or_none(HERE, "file")
        assert found is not None
        assert (found.st_atime_ns, found.st_mtime_ns) == (time_ns, time_ns + 1)


@sandboxed
def test_utimensat_keeps_an_omitted_time_and_reaches_the_link_itself() -> None:
    write("file")
    os.symlink("file", "link")
    attributes.set_times(HERE, "file", 11, 12)
    attributes.set_times(HERE, "file", None, 22)
    assert (os.stat("file").st_atime_ns, os.stat("file").st_mtime_ns) == (11, 22)
    attributes.set_times(HERE, "link", 33, None, _native.AT_SYMLINK_NOFOLLOW)
    assert (os.lstat("link").st_atime_ns, os.stat("file").st_atime_ns) == (33, 11)
    link = os.open("link", os.O_PATH | os.O_NOFOLLOW)
    attributes.set_times(link, "", None, 44, _native.AT_EMPTY_PATH)
    assert (os.lstat("link").st_mtime_ns, os.stat("file").st_mtime_ns) == (44, 22)


@sandboxed
def test_a_file_handle_names_the_inode_not_the_path() -> None:
    write("file")
    os.link("file", "same")
    write("other")
    file, same, other = (handles.of_name(HERE, name) for name in ("file", "same", "other"))
    assert file == same
    assert (file.type, file.mount_id) == (other.type, other.mount_id)
    assert file.handle != other.handle
    os.symlink("file", "link")
    assert handles.of_name(HERE, "link") != file
    with pytest.raises(TypeError, match="256 bytes"):
        _native.name_to_handle_at(HERE, "file", bytearray(255), bytearray(256))
    assert handles.of_name(HERE, "link", AT_SYMLINK_FOLLOW) == file


@needs_root
def test_open_by_handle_at_finds_an_inode_wherever_it_was_moved(tmp_path: pathlib.Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "file").touch()
    handle = handles.of_name(directory, "file")
    (tmp_path / "file").rename(tmp_path / "moved")
    found = handles.opened(directory, handle.type, handle.handle, os.O_PATH)
    assert os.path.samestat(os.fstat(found), os.stat(tmp_path / "moved"))
    assert not os.get_inheritable(found)
    os.close(found)
    (tmp_path / "moved").unlink()
    with refused(errno.ESTALE):
        handles.opened(directory, handle.type, handle.handle, os.O_PATH)
    with refused(errno.EINVAL):
        handles.opened(directory, handle.type, b"x" * 129, os.O_PATH)
    os.close(directory)


def test_open_by_handle_at_requires_a_capability(tmp_path: pathlib.Path) -> None:
    def body() -> None:
        # Not of the root: that of a guest or a container is an overlay, whose files have no handles.
        directory = os.open(tmp_path, os.O_RDONLY)
        (tmp_path / "file").touch()
        handle = handles.of_name(directory, "file")
        become_ordinary()
        with refused(errno.EPERM):
            handles.opened(directory, handle.type, handle.handle, os.O_PATH)

    run(body)


# ---- mounts -----------------------------------------------------------------------------------


def attach(fd: int, target: str) -> None:
    _native.move_mount(fd, "", HERE, target, _native.MOVE_MOUNT_F_EMPTY_PATH)


@sandboxed
def test_mount_binds_remounts_moves_and_umount2_takes_away() -> None:
    os.mkdir("from")
    os.mkdir("to")
    os.mkdir("elsewhere")
    write("from/file", "content")
    _native.mount("from", "to", None, MS_BIND)
    assert read("to/file") == "content"
    _native.mount(None, "to", None, MS_BIND | MS_REMOUNT | _native.MS_RDONLY, None)
    with refused(errno.EROFS):
        write("to/file")
    _native.mount("to", "elsewhere", None, MS_MOVE)
    assert os.listdir("to") == []
    held = os.open("elsewhere/file", os.O_RDONLY)
    with refused(errno.EBUSY) as caught:
        _native.umount2("elsewhere", 0)
    assert caught.value.filename == "elsewhere"
    _native.umount2("elsewhere", _native.MNT_DETACH | _native.UMOUNT_NOFOLLOW)
    assert os.listdir("elsewhere") == []
    assert os.read(held, 7) == b"content"


@sandboxed
def test_mount_takes_options_as_str_or_bytes_and_names_its_target_in_errors() -> None:
    os.mkdir("a")
    _native.mount("none", "a", "tmpfs", _native.MS_NOSUID, "size=1m")
    _native.mount(b"none", b"a", "tmpfs", _native.MS_NOSUID, b"size=2m")
    assert os.statvfs("a").f_blocks * os.statvfs("a").f_frsize == 2 << 20
    with refused(errno.ENODEV) as caught:
        _native.mount("none", "a", "no-such-type", 0)
    assert caught.value.filename == "a"


@sandboxed
def test_a_cloned_tree_is_private_and_a_layer_survives_what_is_mounted_on_it() -> None:
    os.mkdir("layer")
    os.mkdir("view")
    write("layer/file", "lower")
    tree = _native.open_tree(HERE, "layer", _native.OPEN_TREE_CLONE)
    assert fcntl.fcntl(tree, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    _native.mount("none", "layer", "tmpfs", 0)
    assert os.listdir("layer") == []
    below = _native.openat2(tree, "file", os.O_RDONLY)
    assert os.read(below, 5) == b"lower"
    attach(tree, "view")
    assert read("view/file") == "lower"
    with pytest.raises(FileNotFoundError) as caught:
        _native.move_mount(tree, "missing", HERE, "view", 0)
    assert (caught.value.filename, caught.value.filename2) == ("missing", "view")


@sandboxed
def test_mount_setattr_makes_a_tree_read_only_and_writable_again() -> None:
    def change(*attributes: int) -> None:
        _native.mount_setattr(HERE, "/mnt", _native.AT_RECURSIVE, *attributes)

    change(_native.MOUNT_ATTR_RDONLY, 0, _native.MS_PRIVATE)
    with refused(errno.EROFS):
        write("file")
    change(0, _native.MOUNT_ATTR_RDONLY)
    write("file")


@sandboxed
def test_a_file_system_is_configured_step_by_step_and_then_attached() -> None:
    os.mkdir("target")
    fd = _native.fsopen("tmpfs", _native.FSOPEN_CLOEXEC)
    _native.fsconfig(fd, _native.FSCONFIG_SET_STRING, "size", "1m")
    _native.fsconfig(fd, _native.FSCONFIG_SET_STRING, "mode", b"700")
    _native.fsconfig(fd, _native.FSCONFIG_CMD_CREATE, None, None)
    mount = _native.fsmount(fd, _native.FSMOUNT_CLOEXEC, _native.MOUNT_ATTR_NOEXEC)
    assert fcntl.fcntl(mount, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    attach(mount, "target")
    assert os.statvfs("target").f_blocks * os.statvfs("target").f_frsize == 1 << 20
    assert os.statvfs("target").f_flag & os.ST_NOEXEC
    assert stat.S_IMODE(os.stat("target").st_mode) == 0o700


@sandboxed
def test_the_kernels_message_about_a_bad_option_can_be_read() -> None:
    fd = _native.fsopen("tmpfs", 0)
    with refused(errno.EINVAL):
        _native.fsconfig(fd, _native.FSCONFIG_SET_FLAG, "nonsense", None)
    assert b"nonsense" in os.read(fd, 4096)


# ---- processes --------------------------------------------------------------------------------


@sandboxed
def test_a_host_name_stays_in_its_namespace_and_setns_leads_back_there() -> None:
    _native.unshare(_native.CLONE_NEWUTS)
    socket.sethostname("first")
    first = os.open("/proc/self/ns/uts", os.O_RDONLY)
    _native.unshare(_native.CLONE_NEWUTS)
    socket.sethostname("second")
    with refused(errno.EINVAL):
        _native.setns(first, _native.CLONE_NEWNET)
    assert socket.gethostname() == "second"
    _native.setns(first, _native.CLONE_NEWUTS)
    assert socket.gethostname() == "first"


@sandboxed
def test_setns_follows_a_process_by_its_pidfd_into_several_namespaces() -> None:
    ready, report = os.pipe()
    wait, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(release)
        _native.unshare(_native.CLONE_NEWUTS | _native.CLONE_NEWNS)
        socket.sethostname("theirs")
        _native.mount("none", "/mnt", "tmpfs", 0)
        write("/mnt/theirs")
        os.write(report, b".")
        os.read(wait, 1)
        os._exit(0)
    os.read(ready, 1)
    _native.setns(os.pidfd_open(pid), _native.CLONE_NEWUTS | _native.CLONE_NEWNS)
    assert socket.gethostname() == "theirs"
    assert os.listdir("/mnt") == ["theirs"]
    os.close(release)
    os.waitpid(pid, 0)


@sandboxed
def test_the_first_child_in_a_pid_namespace_is_its_init() -> None:
    _native.unshare(_native.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        os._exit(42 if os.getpid() == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_an_ordinary_user_needs_a_user_namespace_for_the_others() -> None:
    def body() -> None:
        become_ordinary()
        with pytest.raises(PermissionError):
            _native.unshare(_native.CLONE_NEWNS)

    run(body)


def test_close_range_closes_or_sets_close_on_exec() -> None:
    def body() -> None:
        low, high = 700, 710
        for fd in range(low, high):
            os.dup2(0, fd, inheritable=True)
        _native.close_range(low, low + 4, 0)
        _native.close_range(low + 5, (1 << 32) - 1, CLOSE_RANGE_CLOEXEC)
        for fd in range(low, low + 5):
            with refused(errno.EBADF):
                os.fstat(fd)
        assert not any(os.get_inheritable(fd) for fd in range(low + 5, high))
        with refused(errno.EINVAL):
            _native.close_range(5, 4, 0)

    run(body)


def test_a_signalfd_is_readable_while_a_blocked_signal_of_its_mask_waits() -> None:
    def body() -> None:
        expected = {signal.SIGINT, signal.SIGRTMAX}
        signal.pthread_sigmask(signal.SIG_BLOCK, {*expected, signal.SIGTERM})
        fd = _native.signalfd4(-1, sum(1 << (number - 1) for number in expected), os.O_NONBLOCK)
        assert not os.get_inheritable(fd)
        os.kill(os.getpid(), signal.SIGTERM)
        assert select.select([fd], [], [], 0)[0] == []
        with refused(errno.EAGAIN):
            os.read(fd, 128)
        for number in expected:
            os.kill(os.getpid(), number)
            assert select.select([fd], [], [], 0)[0] == [fd]
            assert signal.sigwait(expected) == number
        assert select.select([fd], [], [], 0)[0] == []

    run(body)


@pytest.mark.parametrize(
    "program", [b"", bytes(7), bytes(8 * 4097), bytes(8 * 65537)], ids=["0", "7", "4097", "65537"]
)
def test_a_filter_that_is_none_is_refused_rather_than_cut(program: bytes) -> None:
    with refused(errno.EINVAL):
        _native.seccomp(_native.SECCOMP_SET_MODE_FILTER, 0, program)


def test_prctl_binds_and_restrains_a_process() -> None:
    def body() -> None:
        with pytest.raises(TypeError):
            _native.prctl(PR_SET_PDEATHSIG, b"9")  # type: ignore[arg-type]
        assert _native.prctl(PR_SET_NO_NEW_PRIVS, 1) == 0
        assert "NoNewPrivs:\t1\n" in read("/proc/self/status")
        with refused(errno.EINVAL):
            _native.prctl(PR_SET_NO_NEW_PRIVS, 1, 1)
        with refused(errno.EINVAL):
            _native.prctl(-1)

    run(body)


def test_a_process_dies_with_its_parent_when_it_asked_to() -> None:
    def body() -> None:
        _native.prctl(_native.PR_SET_CHILD_SUBREAPER, 1)
        alive, hold = os.pipe()
        parent = os.fork()
        if parent == 0:
            ready, report = os.pipe()
            if os.fork() == 0:
                _native.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                os.write(report, b".")
                signal.pause()
            os.read(ready, 1)
            os._exit(0)
        os.close(hold)
        os.waitpid(parent, 0)
        assert os.read(alive, 1) == b""  # end of file: the child is dead
        _, status = os.waitpid(-1, 0)  # the orphan is a child of this subreaper
        assert os.WTERMSIG(status) == signal.SIGKILL

    run(body)
