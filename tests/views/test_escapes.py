"""Attempts to leave a view: each is refused, as root and as an ordinary user."""

from __future__ import annotations

import ctypes
import os
import pty
import shlex
import stat
import subprocess
import termios

import pytest

from overlaykit.procfs import descendants

from .fixtures import as_installed, only_as, only_with, with_both_drivers
from .system_calls import HEAD, NUMBERS, program
from .user import TestUser, command, is_daemon

pytestmark = [as_installed, pytest.mark.as_each_user, pytest.mark.in_each_variant]

SECRET = "of the host"


def printed(user: TestUser, code: str, *options: str) -> list[str]:
    """The lines that a Python program prints in a view."""
    return user.succeeds("run", *options, "--", "python3", "-c", code).splitlines()


def in_a_user_namespace(script: str) -> str:
    return f"unshare --user --map-root-user --mount sh -c {shlex.quote(script)}"


@only_with(driver="fuse", host=True)
@only_with(server=False)
def test_the_daemon_cannot_be_traced_or_entered(user: TestUser) -> None:
    """Its process id means nothing in the view, whose processes are all that procfs shows."""
    numbers = NUMBERS[os.uname().machine]
    with user.start("run", "--", "sh", "-c", "echo; read pid; exec python3 - $pid") as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdout.readline()
        (daemon,) = [one for one in descendants(os.getpid()) if is_daemon(one)]
        attach = 16
        running.stdin.write(
            f"{daemon}\n{HEAD}\n"
            f"print(call({numbers['ptrace']}, {attach}, int(sys.argv[1]), 0, 0))\n"
            "print(os.path.exists(f'/proc/{sys.argv[1]}/root'))\n"
            f"print(call({numbers['ptrace']}, {attach}, 1, 0, 0))\n"
            "try: print(os.listdir('/proc/1/root'))\n"
            "except OSError as error: print(errno.errorcode[error.errno])\n"
        )
        running.stdin.close()
        assert running.stdout.read().split() == ["ESRCH", "False", "EPERM", "EACCES"]


@with_both_drivers
@only_with(host=True)
def test_nothing_is_mounted_and_no_namespace_is_made_or_joined(user: TestUser) -> None:
    """Namespaces of init, which is not dumpable, cannot be opened."""
    clone_newns, clone_newnet = 0x20000, 0x40000000
    code = program(f"unshare({clone_newns})", f"unshare({clone_newnet})")
    code += (
        "\nlibc.mount(b't', b'/mnt', b'tmpfs', 0, None)\n"
        "print(errno.errorcode[ctypes.get_errno()])\n"
        "own = os.open('/proc/self/ns/net', os.O_RDONLY)\n"
        f"print(call({NUMBERS[os.uname().machine]['setns']}, own, 0))\n"
        "for name in 'mnt', 'net', 'pid':\n"
        "    try: os.open(f'/proc/1/ns/{name}', os.O_RDONLY); print('open')\n"
        "    except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    assert printed(user, code) == ["EPERM"] * 4 + ["EACCES"] * 3


@only_with(driver="fuse", host=True)
def test_what_covers_procfs_is_not_unmounted_in_a_namespace_of_the_views_own(
    user: TestUser,
) -> None:
    script = (
        "umount /proc/keys || umount -l /proc/keys || umount /proc/sys || umount -l /sys/firmware"
    )
    line = in_a_user_namespace(f"({script}) 2>/dev/null && echo unmounted; wc -c < /proc/keys")
    assert user.succeeds("run", "--", "sh", "-c", line).split() == ["0"]


@with_both_drivers
def test_no_disk_is_made(user: TestUser) -> None:
    code = (
        "import errno, os, stat\n"
        "for place in '/tmp/in-disk', '/dev/disk', '/run/disk':\n"
        "    try:\n"
        "        os.mknod(place, 0o600 | stat.S_IFBLK, os.makedev(8, 0))\n"
        "        os.open(place, os.O_RDONLY); print('open')\n"
        "    except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    assert set(printed(user, code)) <= {"EPERM"}
    # Even a view that may make one opens none.
    assert set(printed(user, code, "--cap-add", "MKNOD")) <= {"EPERM", "EACCES"}


@only_as("root")  # who may make one
@with_both_drivers
def test_a_disk_in_a_layer_is_not_opened(user: TestUser) -> None:
    layer = user.small_system()
    os.mknod(f"{layer}/disk", 0o666 | stat.S_IFBLK, os.makedev(1, 0))
    code = (
        "import errno, os\n"
        "try: os.open('/disk', os.O_RDONLY); print('open')\n"
        "except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    assert printed(user, code, "-l", layer, "-v", "/usr:/usr:ro") == ["EACCES"]


@with_both_drivers
def test_the_machine_is_not_changed_through_procfs_and_sysfs(user: TestUser) -> None:
    code = (
        "import errno, os\n"
        "for path in ('/proc/sys/vm/swappiness', '/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger',\n"
        "             '/sys/kernel/mm/transparent_hugepage/enabled', '/sys/power/state', '/proc/irq/x',\n"
        "             '/sys/kernel/uevent_helper'):\n"
        "    try: os.open(path, os.O_WRONLY); print('open', path)\n"
        "    except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    assert set(printed(user, code)) <= {"EROFS", "EACCES", "ENOENT"}


def test_keys_of_the_callers_session_are_out_of_reach(user: TestUser) -> None:
    """keyctl(2): join a session with a key, and look for it in a view."""
    keyctl = NUMBERS[os.uname().machine]["keyctl"]
    add_key = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
    join, search, session = 1, 10, -3
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(keyctl, join, None) > 0
    name = f"overlaykit-test-{os.getpid()}".encode()
    key = libc.syscall(add_key, b"user", name, SECRET.encode(), len(SECRET), session)
    assert key > 0
    code = HEAD + (
        f"name = ctypes.c_char_p({name!r}); kind = ctypes.c_char_p(b'user')\n"
        f"found = libc.syscall({keyctl}, {search}, {session}, kind, name, 0)\n"
        "print(found > 0)\n"
        "buffer = ctypes.create_string_buffer(100)\n"
        f"print(libc.syscall({keyctl}, 11, {key}, buffer, 100) > 0)\n"
    )
    outside = user.program(["/usr/bin/python3", "-c", code]).split()
    assert outside == ["True", "True"]
    assert printed(user, code) == ["False", "False"]


@with_both_drivers
@pytest.mark.parametrize("where", ["layer", "upper"])
def test_a_planted_link_leads_nowhere_outside(user: TestUser, where: str) -> None:
    """A link is followed by the program in its view, not by the daemon."""
    outside = user.directory("outside", secret=SECRET)
    layer, upper = user.small_system(), user.directory("upper")
    planted = layer if where == "layer" else upper
    os.symlink(outside, f"{planted}/way")
    os.symlink("../" * 20 + outside.lstrip("/"), f"{planted}/climb")
    script = (
        "cat /way/secret /climb/secret 2>/dev/null; for l in way climb; do "
        "(echo x > /$l/new) 2>/dev/null; (echo x > /$l/secret) 2>/dev/null; done; echo done"
    )
    options = ("-l", layer, "-v", "/usr:/usr:ro", "--upper", upper)
    assert user.overlaykit("run", *options, "--", "sh", "-c", script).stdout == "done\n"
    assert os.listdir(outside) == ["secret"]
    with open(f"{outside}/secret") as file:
        assert file.read() == SECRET


@with_both_drivers
def test_a_directory_above_the_root_is_not_reached(user: TestUser) -> None:
    """Not by an inherited descriptor, nor by the classic way out of a chroot(2)."""
    user.write(user.path("outside"), SECRET)
    descriptor = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(descriptor, True)
    try:
        shown = user.succeeds("run", "--", "sh", "-c", "ls /proc/self/fd", pass_fds=(descriptor,))
    finally:
        os.close(descriptor)
    assert str(descriptor) not in shown.split()
    layer = user.small_system()
    code = (
        "import os\n"
        "os.mkdir('/tmp/in-jail')\n"
        "try:\n"
        "    top = os.open('/', os.O_RDONLY); os.chroot('/tmp/in-jail'); os.fchdir(top)\n"
        "    for _ in range(50): os.chdir('..')\n"
        "    os.chroot('.')\n"
        "except PermissionError: pass\n"
        f"print(os.path.exists({user.path('outside')!r}), os.path.exists('/proc/self'))\n"
    )
    assert printed(user, code, "-l", layer, "-v", "/usr:/usr:ro") == ["False True"]


@only_as("root")
@with_both_drivers
def test_a_setuid_program_in_a_layer_gives_no_privileges(user: TestUser) -> None:
    layer = user.small_system()
    programs = f"{layer}/of-root"
    os.mkdir(programs)
    user.program(["cp", "/usr/bin/id", "/usr/bin/cat", programs])
    os.chmod(f"{programs}/id", 0o4755)
    user.program(["setcap", "cap_chown=ep", f"{programs}/cat"])
    options = ("-l", layer, "-v", "/usr:/usr:ro")
    # The shell has no capability that setpriv(1) keeps.
    drop = ("setpriv", "--reuid=77", "--clear-groups", "sh", "-c", 'exec "$@"', "sh")
    assert user.succeeds("run", *options, "--", *drop, "/of-root/id", "-u") == "77\n"
    status = user.succeeds("run", *options, "--", *drop, "/of-root/cat", "/proc/self/status")
    assert f"CapEff:\t{0:016x}\n" in status
    # What they give outside of a view, or where that is asked for.
    free = "--security-opt=no-new-privileges=false"
    assert user.succeeds("run", free, *options, "--", *drop, "/of-root/id", "-u") == "0\n"
    status = user.succeeds("run", free, *options, "--", *drop, "/of-root/cat", "/proc/self/status")
    assert f"CapEff:\t{1:016x}\n" in status


@with_both_drivers
def test_nothing_is_pushed_into_the_callers_terminal(user: TestUser) -> None:
    """TIOCSTI (CVE-2017-5226), also with a request in whose upper half there is more."""
    code = (
        "import ctypes, errno\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "for request in (0x5412, 1 << 32 | 0x5412):\n"
        "    result = libc.ioctl(0, ctypes.c_ulong(request), ctypes.c_char_p(b'x'))\n"
        "    print('pushed' if result == 0 else errno.errorcode[ctypes.get_errno()], flush=True)\n"
    )
    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    try:
        done = subprocess.run(
            [
                "setsid",
                "--ctty",
                command(),
                *user._with_layers(("run", "--", "python3", "-c", code)),
            ],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.stdout.split(), done.stderr) == (["EPERM", "EPERM"], "")


@only_with(driver="fuse", host=True)
def test_a_fuse_mount_over_the_views_own_is_seen_by_its_maker_alone(user: TestUser) -> None:
    inside = (
        "mkdir /tmp/in-l && echo planted > /tmp/in-l/file && export XDG_RUNTIME_DIR= && "
        f"{command()} mount -o lowerdir=/tmp/in-l /opt && cat /opt/file; "
        f"cat /proc/$PPID/root/opt/file 2>/dev/null; {command()} umount /opt"
    )
    mount = "mount -t fuse -o fd=0,rootmode=40000,user_id=0,group_id=0 x /opt"
    script = f"{in_a_user_namespace(inside)}; ls -A /opt; {mount}"
    done = user.overlaykit("run", "--", "sh", "-c", script)
    assert done.stdout.split() == ["planted", *sorted(os.listdir("/opt"))]
    assert done.returncode != 0


@with_both_drivers
def test_io_uring_is_not_there(user: TestUser) -> None:
    assert printed(user, program("io_uring_setup(1, 0)")) == ["ENOSYS"]


@with_both_drivers
def test_userfaultfd_is_refused(user: TestUser) -> None:
    assert printed(user, program("userfaultfd(0)", "userfaultfd(1)")) == ["EPERM", "EPERM"]


@with_both_drivers
def test_bpf_and_perf_events_are_refused(user: TestUser) -> None:
    code = program("bpf(0, 0, 0)", "perf_event_open(0, 0, -1, -1, 0)")
    assert printed(user, code) == ["EPERM", "EPERM"]
