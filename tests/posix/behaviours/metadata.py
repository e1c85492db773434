"""Modes, owners, umask, set-id and sticky bits, FIFOs, sockets and devices."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator

from ..files import ino_of, list_names, mode_of, opened, read_file, write_file
from ..processes import ALICE, BOB, run_as_user
from ..refusals import refused
from ..table import ROOT_ONLY, Device, Dir, Fifo, File, Symlink, behaviour

SUID = 0o4755


@behaviour(lower={"f": File(b"x", mode=0o644)})
def check_chmod_of_a_lower_file_keeps_its_content() -> None:
    before = ino_of("f")
    os.chmod("f", 0o4711)
    assert mode_of("f") == 0o4711
    assert read_file("f") == b"x"
    assert ino_of("f") == before


@behaviour(lower={"d": Dir(mode=0o755), "d/f": File(b"x")})
def check_chmod_of_a_lower_directory_keeps_what_it_holds() -> None:
    os.chmod("d", 0o3700)
    assert mode_of("d") == 0o3700
    assert read_file("d/f") == b"x"


@behaviour(lower={"d": Dir(mode=0o755), "f": File(mode=0o644)}, remount=True)
def check_modes_are_kept_over_a_remount() -> Iterator[None]:
    os.chmod("d", 0o1777)
    os.chmod("f", 0o2751)
    yield
    assert mode_of("d") == 0o1777
    assert mode_of("f") == 0o2751


@behaviour(lower={"f": File(b"x")}, identities=ROOT_ONLY)
def check_chown_of_a_lower_file_keeps_its_content() -> None:
    os.chown("f", ALICE, BOB)
    status = os.stat("f")
    assert (status.st_uid, status.st_gid) == (ALICE, BOB)
    assert read_file("f") == b"x"


@behaviour(lower={"f": File(b"x", uid=ALICE, gid=BOB, mode=0o640)}, identities=ROOT_ONLY)
def check_copy_up_keeps_owner_and_mode() -> None:
    write_file("f", b"changed")
    status = os.stat("f")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (ALICE, BOB, 0o640)


@behaviour(lower={"f": File(uid=ALICE, gid=ALICE)}, identities=ROOT_ONLY)
def check_chown_can_leave_one_of_both_as_it_is() -> None:
    os.chown("f", -1, BOB)
    assert (os.stat("f").st_uid, os.stat("f").st_gid) == (ALICE, BOB)
    os.chown("f", BOB, -1)
    assert (os.stat("f").st_uid, os.stat("f").st_gid) == (BOB, BOB)


@behaviour(lower={"link": Symlink("f"), "f": File()}, identities=ROOT_ONLY)
def check_lchown_changes_the_symlink_itself() -> None:
    os.lchown("link", ALICE, BOB)
    assert os.lstat("link").st_uid == ALICE
    assert os.stat("f").st_uid == 0


@behaviour(lower={"f": File(b"x", mode=0o6755)}, identities=ROOT_ONLY)
def check_chown_by_root_clears_suid_and_sgid_of_a_program() -> None:
    os.chown("f", ALICE, ALICE)
    assert mode_of("f") == 0o755


@behaviour(lower={"f": File(b"x", mode=0o6755, uid=ALICE, gid=ALICE)}, identities=ROOT_ONLY)
def check_chown_by_its_owner_clears_suid_and_sgid() -> None:
    run_as_user(ALICE, lambda: os.chown("f", -1, BOB), groups=[BOB])
    assert mode_of("f") == 0o755
    assert os.stat("f").st_gid == BOB


@behaviour(lower={"d": Dir(mode=0o6755), "f": File(mode=0o2644)}, identities=ROOT_ONLY)
def check_chown_keeps_the_set_id_bits_that_run_no_program() -> None:
    for name, mode in (("d", 0o6755), ("f", 0o2644)):
        os.chown(name, ALICE, BOB)
        assert mode_of(name) == mode


@behaviour(lower={"f": File(b"x", mode=0o6755, uid=ALICE, gid=ALICE)}, identities=ROOT_ONLY)
def check_a_write_by_its_owner_clears_suid_and_sgid() -> None:
    def act() -> None:
        with opened("f", os.O_WRONLY) as fd:
            os.write(fd, b"y")

    run_as_user(ALICE, act)
    assert mode_of("f") == 0o755


@behaviour(lower={"f": File(b"xyz", mode=0o6755, uid=ALICE, gid=ALICE)}, identities=ROOT_ONLY)
def check_truncation_by_its_owner_clears_suid_and_sgid() -> None:
    run_as_user(ALICE, lambda: os.truncate("f", 1))
    assert mode_of("f") == 0o755


@behaviour(lower={"f": File(b"x", mode=SUID)}, identities=ROOT_ONLY)
def check_a_write_by_root_keeps_suid() -> None:
    with opened("f", os.O_WRONLY) as fd:
        os.write(fd, b"y")
    assert mode_of("f") == SUID


@behaviour(lower={"f": File(b"x", mode=0o755, uid=ALICE, gid=ALICE)}, identities=ROOT_ONLY)
def check_sgid_cannot_be_set_for_a_group_that_is_not_ones_own() -> None:
    os.chown("f", ALICE, BOB)
    run_as_user(ALICE, lambda: os.chmod("f", 0o2755))
    assert mode_of("f") == 0o755


@behaviour()
def check_files_and_directories_are_made_with_the_umask() -> None:
    os.umask(0o077)
    write_file("f", b"", 0o666)
    os.mkdir("d", 0o777)
    os.mkfifo("p", 0o666)
    assert [mode_of(name) for name in ("f", "d", "p")] == [0o600, 0o700, 0o600]


@behaviour()
def check_no_umask_leaves_the_whole_mode() -> None:
    os.umask(0)
    write_file("f", b"", 0o666)
    os.mkdir("d", 0o1777)
    assert mode_of("f") == 0o666
    assert mode_of("d") == 0o1777


@behaviour(lower={"d": Dir(mode=0o2775, gid=BOB)}, identities=ROOT_ONLY)
def check_a_setgid_directory_gives_its_group_to_what_is_made_in_it() -> None:
    write_file("d/f", b"")
    os.mkdir("d/s")
    os.symlink("f", "d/link")
    assert {os.lstat(f"d/{name}").st_gid for name in ("f", "s", "link")} == {BOB}
    assert mode_of("d/s") & stat.S_ISGID
    assert not mode_of("d/f") & stat.S_ISGID


@behaviour(lower={"d": Dir(mode=0o777)}, identities=ROOT_ONLY)
def check_new_files_belong_to_their_maker() -> None:
    def act() -> None:
        write_file("d/f", b"")
        os.mkdir("d/s")
        os.mkfifo("d/p")
        os.symlink("f", "d/link")

    run_as_user(ALICE, act)
    owners = {(os.lstat(f"d/{n}").st_uid, os.lstat(f"d/{n}").st_gid) for n in list_names("d")}
    assert owners == {(ALICE, ALICE)}


@behaviour(lower={"d": Dir(mode=0o777), "d/old": File()}, identities=ROOT_ONLY)
def check_a_file_made_over_a_removed_one_belongs_to_its_maker() -> None:
    def act() -> None:
        os.unlink("d/old")
        write_file("d/old", b"mine")

    run_as_user(ALICE, act)
    assert os.stat("d/old").st_uid == ALICE


@behaviour(lower={"p": Fifo(mode=0o600)})
def check_a_lower_fifo_joins_two_processes() -> None:
    pid = os.fork()
    if pid == 0:
        write_file("p", b"through")
        os._exit(0)
    assert read_file("p") == b"through"
    os.waitpid(pid, 0)


@behaviour(lower={"p": Fifo(mode=0o600)})
def check_a_fifo_can_be_changed_and_moved() -> None:
    os.chmod("p", 0o640)
    os.rename("p", "q")
    assert stat.S_ISFIFO(os.lstat("q").st_mode)
    assert mode_of("q") == 0o640


@behaviour()
def check_a_fifo_without_readers_refuses_a_writer_that_does_not_wait() -> None:
    os.mkfifo("p")
    with refused(errno.ENXIO):
        os.open("p", os.O_WRONLY | os.O_NONBLOCK)


@behaviour()
def check_a_socket_takes_connections() -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        assert stat.S_ISSOCK(os.lstat("s").st_mode)
        client.connect("s")
        with server.accept()[0] as connection:
            client.send(b"hello")
            assert connection.recv(9) == b"hello"
    os.unlink("s")
    assert list_names() == []


@behaviour()
def check_a_socket_name_is_taken_once() -> None:
    write_file("s", b"")
    with socket.socket(socket.AF_UNIX) as server, refused(errno.EADDRINUSE):
        server.bind("s")


@behaviour()
def check_a_regular_file_is_made_by_mknod() -> None:
    os.mknod("f", stat.S_IFREG | 0o640)
    assert mode_of("f") == 0o640
    with refused(errno.EEXIST):
        os.mknod("f", stat.S_IFREG | 0o640)


@behaviour(identities=ROOT_ONLY)
def check_a_device_node_works() -> None:
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert os.lstat("null").st_rdev == os.makedev(1, 3)
    write_file("null", b"gone")
    assert read_file("null") == b""


@behaviour(lower={"null": Device(1, 3)}, identities=ROOT_ONLY)
def check_a_lower_device_node_works_and_can_be_changed_and_moved() -> None:
    write_file("null", b"gone")
    before = ino_of("null")
    os.chmod("null", 0o622)
    os.rename("null", "moved")
    status = os.lstat("moved")
    assert (status.st_rdev, status.st_ino) == (os.makedev(1, 3), before)
    assert stat.S_ISCHR(status.st_mode)
    assert mode_of("moved") == 0o622
    assert read_file("moved") == b""


@behaviour(lower={"null": Device(1, 3), "p": Fifo()}, identities=ROOT_ONLY, remount=True)
def check_special_files_are_there_after_a_remount() -> Iterator[None]:
    os.chmod("null", 0o622)
    os.rename("p", "q")
    os.mknod("zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
    yield
    assert (os.lstat("null").st_rdev, os.lstat("zero").st_rdev) == (
        os.makedev(1, 3),
        os.makedev(1, 5),
    )
    assert stat.S_ISFIFO(os.lstat("q").st_mode)
    assert stat.S_ISSOCK(os.lstat("s").st_mode)


@behaviour(identities=("userns", "ordinary"))
def check_a_device_node_is_refused_without_privilege() -> None:
    with refused(errno.EPERM):
        os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))


@behaviour()
def check_statfs_gives_the_free_space() -> None:
    status = os.statvfs(".")
    assert status.f_namemax == 255
    assert status.f_blocks > 0
    assert status.f_bavail <= status.f_blocks


@behaviour(lower={"f": File(b"x" * 5000)})
def check_a_file_occupies_blocks() -> None:
    assert os.stat("f").st_blocks * 512 >= 5000
    with opened("f", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"y" * 20_000)
        os.fsync(fd)
    assert os.stat("f").st_blocks * 512 >= 25_000


@behaviour(lower={"f": File(), "d": Dir(), "d/g": File(), "link": Symlink("f")})
def check_everything_lies_on_one_device() -> None:
    write_file("new", b"")
    write_file("d/g", b"changed")
    devices = {os.lstat(name).st_dev for name in (".", "d", "new")}
    assert len(devices) == 1


@behaviour(lower={"d": Dir(mode=0o1777), "d/f": File(uid=ALICE)}, identities=ROOT_ONLY)
def check_a_sticky_directory_keeps_others_from_removing() -> None:
    def act() -> None:
        with refused(errno.EPERM):
            os.unlink("d/f")
        with refused(errno.EPERM):
            os.rename("d/f", "d/g")
        write_file("d/mine", b"")
        with refused(errno.EPERM):
            os.rename("d/mine", "d/f")
        os.unlink("d/mine")

    run_as_user(BOB, act)
    run_as_user(ALICE, lambda: os.unlink("d/f"))
    assert list_names("d") == []
