"""Errors of the calls that take a path, by errno: of the lookup, and of the file found."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Callable, Iterator, Mapping

from .. import syscalls
from ..files import list_names, opened, read_file, write_file
from ..processes import ALICE, BOB, run_as_user, run_in_child
from ..refusals import refused
from ..table import PRIVILEGED, ROOT_ONLY, Dir, Fifo, File, Symlink, Whiteout, behaviour

ON_WHAT_EXISTS: Mapping[str, Callable[[str], object]] = {
    "stat": os.stat,
    "access": lambda path: syscalls.access(os.fsencode(path), os.F_OK),
    "open to read": lambda path: os.open(path, os.O_RDONLY),
    "open to write": lambda path: os.open(path, os.O_WRONLY),
    "open without access": lambda path: os.open(path, os.O_PATH),
    "truncate": lambda path: os.truncate(path, 0),
    "chmod": lambda path: os.chmod(path, 0o600),
    "chown": lambda path: os.chown(path, 0, 0),
    "lchown": lambda path: os.lchown(path, 0, 0),
    "utime": os.utime,
    "getxattr": lambda path: os.getxattr(path, "user.x"),
    "setxattr": lambda path: os.setxattr(path, "user.x", b""),
    "removexattr": lambda path: os.removexattr(path, "user.x"),
    "listxattr": os.listxattr,
    "statfs": os.statvfs,
    "readlink": os.readlink,
    "readdir": os.listdir,
    "chdir": os.chdir,
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "rename": lambda path: os.rename(path, "new"),
    "link": lambda path: os.link(path, "new"),
}

ON_A_NEW_NAME: Mapping[str, Callable[[str], object]] = {
    "create": lambda path: os.open(path, os.O_WRONLY | os.O_CREAT),
    "create a new one": lambda path: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "mkdir": os.mkdir,
    "mknod": lambda path: os.mknod(path, stat.S_IFREG | 0o600),
    "mkfifo": os.mkfifo,
    "symlink": lambda path: os.symlink("x", path),
    "rename to": lambda path: os.rename("f", path),
    "link to": lambda path: os.link("f", path),
}


def _all_refuse(path: str, *numbers: int, calls: Mapping[str, Callable[[str], object]]) -> None:
    for name, call in calls.items():
        try:
            with refused(*numbers):
                call(path)
        except AssertionError as error:
            error.add_note(f"{name} of {path[:50]}")
            raise


def _both_refuse(path: str, *numbers: int) -> None:
    _all_refuse(path, *numbers, calls={**ON_WHAT_EXISTS, **ON_A_NEW_NAME})


@behaviour(lower={"f": File(), "a": Symlink("b"), "b": Symlink("a")})
def check_every_call_refuses_a_loop_on_the_way() -> None:
    _both_refuse("a/x", errno.ELOOP)


@behaviour(lower={"f": File(b"x")})
def check_forty_symlinks_are_followed_and_one_more_is_a_loop() -> None:
    os.symlink("f", "1")
    for number in range(2, 42):
        os.symlink(str(number - 1), str(number))
    assert read_file("40") == b"x"
    with refused(errno.ELOOP):
        read_file("41")


@behaviour(lower={"f": File(), "g": File(), "link": Symlink("g")})
def check_every_call_refuses_a_file_on_the_way() -> None:
    for path in ("g/x", "link/x"):
        _both_refuse(path, errno.ENOTDIR)


@behaviour(lower={"f": File(), "dangling": Symlink("nowhere")})
def check_every_call_refuses_a_missing_directory_on_the_way() -> None:
    for path in ("missing/x", "dangling/x"):
        _both_refuse(path, errno.ENOENT)


@behaviour(lower={"f": File()})
def check_every_call_refuses_a_missing_name_and_an_empty_path() -> None:
    _all_refuse("missing", errno.ENOENT, calls=ON_WHAT_EXISTS)
    _both_refuse("", errno.ENOENT)


@behaviour(lower={"f": File()})
def check_every_call_refuses_a_path_and_a_name_that_are_too_long() -> None:
    _both_refuse("./" * 2047 + "xx", errno.ENAMETOOLONG)
    _both_refuse("n" * 256, errno.ENAMETOOLONG)
    _both_refuse("n" * 256 + "/x", errno.ENAMETOOLONG)


@behaviour(
    {"gone": Whiteout(), "d": Dir(), "d/gone": Whiteout()},
    {"f": File(), "gone": Dir(), "gone/x": File(), "d": Dir(), "d/gone": File()},
)
def check_every_call_finds_nothing_where_a_whiteout_is() -> None:
    _all_refuse("gone", errno.ENOENT, calls=ON_WHAT_EXISTS)
    _all_refuse("d/gone", errno.ENOENT, calls=ON_WHAT_EXISTS)
    _both_refuse("gone/x", errno.ENOENT)


@behaviour({"d": File()}, {"f": File(), "d": Dir(), "d/x": File()})
def check_every_call_refuses_a_path_below_a_file_that_hides_a_directory() -> None:
    _both_refuse("d/x", errno.ENOTDIR)


@behaviour({"d": Dir(), "d/x": Dir(opaque=True)}, {"f": File(), "d/x": Dir(), "d/x/y": File()})
def check_every_call_finds_nothing_that_an_opaque_directory_hides() -> None:
    _all_refuse("d/x/y", errno.ENOENT, calls=ON_WHAT_EXISTS)


@behaviour(
    lower={"f": File(mode=0o666), "d": Dir(mode=0o600, uid=BOB), "d/x": File(mode=0o666)},
    identities=ROOT_ONLY,
)
def check_every_call_refuses_a_directory_on_the_way_that_may_not_be_searched() -> None:
    run_as_user(ALICE, lambda: _both_refuse("d/x", errno.EACCES))
    os.utime("d")  # the same after copy-up
    run_as_user(ALICE, lambda: _both_refuse("d/x", errno.EACCES))


@behaviour(
    lower={"f": File(mode=0o666), "d": Dir(mode=0o555, uid=ALICE), "d/x": File(mode=0o666)},
    identities=ROOT_ONLY,
)
def check_no_name_changes_in_a_directory_without_write_permission() -> None:
    removing = {name: ON_WHAT_EXISTS[name] for name in ("unlink", "rename")}
    making = {name: call for name, call in ON_A_NEW_NAME.items() if not name.startswith("link")}

    def act() -> None:
        _all_refuse("d/x", errno.EACCES, calls=removing)
        _all_refuse("d/new", errno.EACCES, calls=making)
        with refused(errno.EACCES):
            os.link("d/x", "d/new")

    run_as_user(ALICE, act)
    assert list_names("d") == ["x"]


@behaviour(
    lower={
        "d": Dir(mode=0o1777),
        "d/f": File(uid=ALICE),
        "d/s": Dir(uid=ALICE),
        "d/mine": File(uid=BOB),
        "d/directory": Dir(uid=BOB),
    },
    identities=ROOT_ONLY,
)
def check_a_sticky_directory_keeps_others_from_every_way_to_remove() -> None:
    def act() -> None:
        calls: tuple[Callable[[], object], ...] = (
            lambda: os.unlink("d/f"),
            lambda: os.rmdir("d/s"),
            lambda: os.rename("d/f", "d/g"),
            lambda: os.rename("d/mine", "d/f"),
            lambda: os.rename("d/directory", "d/s"),
            lambda: syscalls.renameat2(b"d/mine", b"d/f", syscalls.RENAME_EXCHANGE),
            lambda: syscalls.renameat2(b"d/f", b"d/mine", syscalls.RENAME_EXCHANGE),
        )
        for call in calls:
            with refused(errno.EPERM):
                call()

    before = list_names("d")
    run_as_user(BOB, act)
    assert list_names("d") == before


@behaviour(lower={"f": File(b"x", mode=0o444, uid=ALICE)}, identities=ROOT_ONLY)
def check_a_file_without_write_permission_is_neither_truncated_nor_opened_to_write() -> None:
    def act() -> None:
        calls: tuple[Callable[[], object], ...] = (
            lambda: syscalls.access(b"f", os.W_OK),
            lambda: syscalls.access(b"f", os.X_OK),
            lambda: os.truncate("f", 0),
            lambda: os.open("f", os.O_WRONLY),
            lambda: os.open("f", os.O_RDONLY | os.O_TRUNC),
            lambda: os.open("f", os.O_WRONLY | os.O_CREAT),
        )
        for call in calls:
            with refused(errno.EACCES):
                call()

    run_as_user(ALICE, act)
    run_as_user(BOB, act)
    assert read_file("f") == b"x"


@behaviour(lower={"d": Dir(), "f": File(b"x"), "new": Dir()})
def check_a_directory_is_not_opened_as_a_file() -> None:
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        with refused(errno.EISDIR):
            os.open("d", flags)
    with refused(errno.EEXIST):
        os.open("d", os.O_RDONLY | os.O_CREAT | os.O_EXCL)
    for call in (os.listdir, os.rmdir, lambda path: os.open(path, os.O_RDONLY | os.O_DIRECTORY)):
        with refused(errno.ENOTDIR):
            call("f")


@behaviour(lower={"f": File(), "p": Fifo(), "d": Dir()})
def check_only_a_regular_file_is_truncated() -> None:
    with refused(errno.EINVAL):
        os.truncate("p", 0)
    with refused(errno.EISDIR):
        os.truncate("d", 0)
    with refused(errno.EINVAL):
        os.truncate("f", -1)


@behaviour()
def check_a_socket_is_not_opened() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        with refused(errno.ENXIO):
            os.open("s", flags)


@behaviour(identities=ROOT_ONLY)
def check_a_device_without_a_driver_is_not_opened() -> None:
    os.mknod("c", stat.S_IFCHR | 0o600, os.makedev(511, 511))
    with refused(errno.ENXIO):
        os.open("c", os.O_RDONLY)


@behaviour()
def check_an_unknown_file_type_is_not_made() -> None:
    with refused(errno.EPERM):
        os.mknod("d", stat.S_IFDIR | 0o755)
    with refused(errno.EINVAL):
        os.mknod("f", 0o170000 | 0o644)
    assert list_names() == []


@behaviour(lower={"f": File(b"0123456789")})
def check_a_write_beyond_the_limit_on_files_is_refused() -> None:
    def act() -> None:
        # Opened before the limit is set: the kernel's overlayfs applies the limit to copy-up.
        with opened("f", os.O_RDWR) as fd:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))
            assert os.pwrite(fd, b"abcd", 6) == 2
            calls: tuple[Callable[[], object], ...] = (
                lambda: os.pwrite(fd, b"abcd", 8),
                lambda: os.ftruncate(fd, 11),
                lambda: os.truncate("f", 11),
            )
            for call in calls:
                with refused(errno.EFBIG):
                    call()

    run_in_child(act)
    assert read_file("f") == b"012345ab89"


@contextlib.contextmanager
def _running(program: str) -> Iterator[None]:
    pid = os.spawnl(os.P_NOWAIT, program, "tool", "1000")
    try:
        with opened(f"/proc/{pid}/comm", os.O_RDONLY) as fd:
            while os.pread(fd, 99, 0) != b"tool\n":
                os.sched_yield()
        yield
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@behaviour()
def check_a_running_program_is_not_truncated_but_can_be_replaced() -> None:
    content = read_file("/bin/sleep")
    write_file("tool", content, 0o755)
    with _running("./tool"):
        calls: tuple[Callable[[], object], ...] = (
            lambda: os.truncate("tool", 0),
            lambda: os.open("tool", os.O_RDWR),
            lambda: os.open("tool", os.O_WRONLY | os.O_TRUNC),
        )
        for call in calls:
            with refused(errno.ETXTBSY):
                call()
        assert read_file("tool") == content
        write_file("new", b"newer")
        os.rename("new", "tool")
    assert read_file("tool") == b"newer"


@behaviour()
def check_a_running_program_is_not_truncated_by_a_reader() -> None:
    content = read_file("/bin/sleep")
    write_file("tool", content, 0o755)
    with _running("./tool"), refused(errno.ETXTBSY):
        os.open("tool", os.O_RDONLY | os.O_TRUNC)
    assert read_file("tool") == content


@behaviour(lower={"d": Dir(), "e": Dir(), "f": File(), "g": File()}, identities=PRIVILEGED)
def check_a_mountpoint_is_busy() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)  # so that it ends with this process
    syscalls.mount(b"none", b"d", b"tmpfs", 0)
    syscalls.mount(b"/dev/null", b"f", None, syscalls.MS_BIND)
    calls: tuple[Callable[[], object], ...] = (
        lambda: os.rmdir("d"),
        lambda: os.rename("d", "new"),
        lambda: os.rename("e", "d"),
        lambda: os.unlink("f"),
        lambda: os.rename("f", "new"),
        lambda: os.rename("g", "f"),
    )
    for call in calls:
        with refused(errno.EBUSY):
            call()
    assert list_names() == ["d", "e", "f", "g"]


@behaviour(lower={"f": File(b"x"), "d": Dir()})
def check_nothing_is_moved_or_linked_out_of_the_file_system() -> None:
    outside = "/run/out"  # a file system of the sandbox
    calls: tuple[Callable[[], object], ...] = (
        lambda: os.rename("f", outside),
        lambda: os.rename("d", outside),
        lambda: os.link("f", outside),
        lambda: syscalls.renameat2(b"f", os.fsencode(outside), syscalls.RENAME_EXCHANGE),
    )
    for call in calls:
        with refused(errno.EXDEV):
            call()
    assert list_names() == ["d", "f"]


@behaviour(lower={"f": File()}, identities=("userns",))
def check_a_file_is_not_given_to_an_invalid_id() -> None:
    with refused(errno.EINVAL):
        os.chown("f", ALICE, -1)
    with refused(errno.EINVAL):
        os.chown("f", -1, ALICE)


@behaviour(lower={"d": Dir(), "d/a": File(), "f": File()})
def check_reading_directories_refuses_what_getdents_2_says() -> None:
    with opened("f", os.O_RDONLY) as fd, refused(errno.ENOTDIR):
        syscalls.getdents64(fd)
    with opened("d", os.O_RDONLY) as fd:
        with refused(errno.EINVAL):
            syscalls.getdents64(fd, 4)
        os.unlink("d/a")
        os.rmdir("d")
        with refused(errno.ENOENT):
            syscalls.getdents64(fd)


@behaviour(lower={"d": Dir(), "d/f": File(b"x")})
def check_a_removed_working_directory_takes_and_has_no_names() -> None:
    os.chdir("d")
    os.unlink("f")
    os.rmdir("../d")
    with refused(errno.ENOENT):
        os.stat("f")
    put_in = {name: call for name, call in ON_A_NEW_NAME.items() if not name.endswith(" to")}
    _all_refuse("new", errno.ENOENT, calls=put_in)
    with refused(errno.ENOENT):
        os.getcwd()


@behaviour(lower={"f": File(b"x"), "p": Fifo()})
def check_calls_on_descriptors_refuse_the_wrong_kind_of_descriptor() -> None:
    with opened("f", os.O_RDONLY) as fd:
        with refused(errno.ENOTDIR):
            os.stat("x", dir_fd=fd)
        with refused(errno.ENOTDIR):
            os.chdir(fd)
    with opened("f", os.O_PATH) as fd:
        calls: tuple[Callable[[], object], ...] = (
            lambda: os.fchmod(fd, 0o600),
            lambda: os.fchown(fd, 0, 0),
            lambda: os.getxattr(fd, "user.x"),
            lambda: os.ftruncate(fd, 0),
        )
        for call in calls:
            with refused(errno.EBADF):
                call()
    with opened("p", os.O_RDWR) as fd:
        with refused(errno.ESPIPE):
            os.lseek(fd, 0, os.SEEK_SET)
        with refused(errno.EINVAL):
            os.ftruncate(fd, 0)


@behaviour(lower={"f": File()})
def check_contradicting_open_flags_are_refused() -> None:
    with refused(errno.EINVAL):
        os.open("d", os.O_CREAT | os.O_DIRECTORY | os.O_RDONLY)
    with refused(errno.EINVAL):
        os.open(".", os.O_TMPFILE | os.O_RDONLY)
    assert list_names() == ["f"]
