"""--lie: programs in a view find another machine than the one that is there."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from ..views.fixtures import only_as, with_both_drivers
from ..views.user import TestUser, command

MACHINE = "0123456789abcdef0123456789abcdef"
ONE = str(min(os.sched_getaffinity(0)))
RELEASE = "4.19.0-liar"
PYTHON = "/usr/bin/python3"
OTHER_CALLS = """if True:
    import ctypes, mmap, os
    library = ctypes.CDLL(None, use_errno=True)
    print(library.uname(ctypes.c_void_p(8)), ctypes.get_errno())
    if os.uname().machine == "x86_64":
        # push rbx; mov eax, NUMBER; mov ebx, edi; int 0x80; pop rbx; ret: a call of i386.
        code = bytes.fromhex("53b87a00000089fbcd805bc3")
        room = mmap.mmap(-1, 4096, prot=7, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)
        place = ctypes.addressof(ctypes.c_char.from_buffer(room))
        call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(place)
        for number in 122, 109, 59:
            room[: len(code)] = code
            room[2] = number
            result = call(place + 1024)
            print("refused" if result < 0 else room[1024 + 2 * 65 :].partition(b"\\0")[0].decode())
"""
"""A bad address, then uname(2), olduname(2) and oldolduname(2) as programs of 32 bits call them."""


@with_both_drivers
def test_programs_find_the_machine_that_they_are_told(user: TestUser) -> None:
    release = user.write(user.path("release"), 'NAME="Liars"\nID=liars\n')
    lies = [
        *("cpus=1", "memory=512m", "uptime=3d", "hostname=liar", f"machine-id={MACHINE}"),
        f"os-release={release}",
    ]
    script = (
        "nproc; grep '^processor' /proc/cpuinfo; cat /sys/devices/system/cpu/online; "
        "grep -E '^(MemTotal|MemAvailable|SwapTotal|Cached):' /proc/meminfo; "
        "cut -d. -f1 /proc/uptime; hostname; cat /etc/machine-id; . /etc/os-release; echo $NAME $ID"
    )
    options = [word for lie in lies for word in ("--lie", lie)]
    found = [
        line.split() for line in user.succeeds("run", *options, "sh", "-c", script).splitlines()
    ]
    assert found[:7] == [
        ["1"],
        ["processor", ":", ONE],
        [ONE],
        ["MemTotal:", "524288", "kB"],
        ["MemAvailable:", "524288", "kB"],
        ["Cached:", "0", "kB"],
        ["SwapTotal:", "0", "kB"],
    ]
    ((uptime,), *others) = found[7:]
    assert 3 * 86400 <= int(uptime) < 3 * 86400 + 3600
    assert others == [["liar"], [MACHINE], ["Liars", "liars"]]


def test_commands_that_join_a_view_and_those_of_its_next_start_are_told_the_same(
    user: TestUser,
) -> None:
    script = "nproc; grep MemTotal /proc/meminfo; echo started; read line || true"
    lies = ("--lie", "cpus=1", "--lie", "memory=64m")
    told = "1\nMemTotal:          65536 kB\n"
    with user.start("run", "--name", "liar", *lies, "sh", "-c", script) as view:
        assert view.stdout is not None
        assert "".join(view.stdout.readline() for _ in range(3)) == f"{told}started\n"
        joined = user.succeeds("exec", "liar", "sh", "-c", "nproc; grep MemTotal /proc/meminfo")
        assert joined == told
        view.communicate("end\n")
    assert user.succeeds("start", "-a", "liar") == f"{told}started\n"
    user.succeeds("rm", "liar")


@with_both_drivers
def test_every_program_finds_the_kernel_that_it_is_told(user: TestUser) -> None:
    script = f"""
        uname -r; cat /proc/sys/kernel/osrelease; cut -d' ' -f3 /proc/version
        {PYTHON} -c 'import os; print(os.uname().release)'
        {PYTHON} -c "$1"
        linux32 uname -mr; echo "$(hostname) $(uname -n)"
    """
    lie = ("--lie", f"kernel={RELEASE}", "--hostname", "liar")
    printed = user.succeeds("run", *lie, "sh", "-c", script, "sh", OTHER_CALLS).splitlines()
    assert printed[:4] == [RELEASE] * 4
    i386 = [RELEASE, "refused", "refused"] if os.uname().machine == "x86_64" else []
    assert printed[4:-2] == ["-1 14", *i386]
    assert printed[-2].split()[0] == RELEASE
    assert printed[-1] == "liar liar"


def test_the_kernel_is_told_to_commands_that_join_and_to_views_inside(user: TestUser) -> None:
    script = f"echo started; read line; exec {command()} run uname -r"
    with user.start(
        "run", "--name", "liar", "--lie", f"kernel={RELEASE}", "sh", "-c", script
    ) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "started\n"
        assert user.succeeds("exec", "liar", "uname", "-r") == f"{RELEASE}\n"
        inside, _ = view.communicate("go on\n")
    assert inside == f"{RELEASE}\n"
    user.succeeds("rm", "liar")
    line = user.refused(
        *("run", "--lie", f"kernel={RELEASE}", command(), "run", "--lie", "kernel=5.5", "true")
    )
    assert line == (
        "--lie kernel: this program is in a view that tells a release already: leave it out"
    )


@only_as("root")
def test_any_user_finds_the_kernel_that_it_is_told(user: TestUser) -> None:
    run = ("run", "-u", "65534", "--lie", f"kernel={RELEASE}")
    assert user.succeeds(*run, "uname", "-r") == f"{RELEASE}\n"
    unconfined = ("--security-opt", "no-new-privileges=false", "--security-opt=seccomp=unconfined")
    assert user.succeeds(*run, *unconfined, "uname", "-r") == f"{RELEASE}\n"


def test_no_other_system_call_asks_who_tells_the_kernel(user: TestUser) -> None:
    script = """if True:
        import os, sys
        for line in sys.stdin:
            for _ in range(1000):
                os.uname() if line == "uname\\n" else os.getppid()
            print(flush=True)
    """

    def answers(process: int) -> int:
        """Each is a write into the memory of the program that asks."""
        with open(f"/proc/{process}/io") as file:
            return int(file.read().partition("syscw: ")[2].split()[0])

    lie = ("--lie", f"kernel={RELEASE}")
    with user.start("run", *lie, PYTHON, "-c", script) as view:
        assert view.stdin is not None
        assert view.stdout is not None
        counts = []
        for call in ("uname", "getppid", "uname"):
            before = answers(view.pid)
            view.stdin.write(f"{call}\n")
            view.stdin.flush()
            assert view.stdout.readline() == "\n"
            counts.append(answers(view.pid) - before)
        view.stdin.close()
    assert counts[1:] == [0, 1000]  # the first has those of the start


def test_a_lie_may_be_what_the_limits_say(user: TestUser) -> None:
    if not user.is_root:
        line = user.refused("run", "--lie", "memory=limit", "true")
        assert line == "--lie memory=limit: give --memory as well, or a size"
        return
    limits = ("--memory", "96m", "--cpus", "0.5", "--lie", "memory=limit", "--lie", "cpus=limit")
    script = "nproc; grep MemTotal /proc/meminfo"
    assert user.succeeds("run", *limits, "sh", "-c", script) == "1\nMemTotal:          98304 kB\n"


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("cpus", "--lie cpus: give KEY=VALUE; keys are cpus, memory, uptime, proc, "),
        ("colour=blue", "--lie colour=blue: no such key; give one of cpus, "),
        ("cpus=0", "--lie cpus=0: give a number of processors, or 'limit'"),
        ("cpus=100000", "--lie cpus=100000: 1"),
        ("cpus=limit", "--lie cpus=limit: give --cpus or --cpuset-cpus as well, or a number"),
        ("memory=all", "--lie memory all: give a number with b, k, m, g or t, such as 512m"),
        ("memory=1k", "--lie memory=1k: give 1m at least"),
        ("uptime=-1", "--lie uptime=-1: give seconds, or a number with s, m, h or d, such as 3d"),
        ("hostname=-x", "--hostname -x: give up to 64 letters"),
        ("kernel=new", "--lie kernel=new: give a release such as 6.1.0-13, of up to 64 letters"),
        (
            "kernel=6.1 x",
            "--lie kernel=6.1 x: give a release such as 6.1.0-13, of up to 64 letters",
        ),
        (f"kernel=6.1{62 * '0'}", f"--lie kernel=6.1{62 * '0'}: give a release such as 6.1.0-13"),
        ("machine-id=x", "--lie machine-id=x: give 32 hexadecimal digits in lower case"),
        ("os-release=/none", "--lie os-release=/none: give the path of a file such as /etc/os-re"),
        ("os-release=/dev/zero", "--lie os-release=/dev/zero: give the path of a file such as"),
        ("os-release=/bin/sh", "--lie os-release=/bin/sh: give the path of a file such as"),
        ("proc=lxcfs", "--lie proc=lxcfs: lxcfs is not mounted at /var/lib/lxcfs: install its pa"),
        ("proc=mine", "--lie proc=mine: give lxcfs"),
        (
            "dmi.none_such=x",
            "--lie dmi.none_such=x: this machine has no /sys/class/dmi/id/none_such",
        ),
        ("dmi../x=x", "--lie dmi../x=x: no such key"),
        ("machine-id=a\nb", "--lie machine-id=a\\nb: give one line"),
    ],
)
def test_a_lie_that_cannot_be_told_is_refused_in_one_line(
    user: TestUser, lie: str, said: str
) -> None:
    assert user.refused("run", "--lie", lie, "true").startswith(said)


def test_the_host_is_told_the_truth(user: TestUser) -> None:
    with open("/proc/meminfo") as file:
        before = file.readline()
    upper = user.directory("upper")
    user.succeeds(
        "run", "--upper", upper, "--lie", "memory=64m", "--lie", f"machine-id={MACHINE}", "true"
    )
    with open("/proc/meminfo") as file:
        assert file.readline() == before
    assert os.listdir(upper) == []  # files in memory: none of it is written


@pytest.mark.parametrize("kept", [True, False])
def test_a_file_that_is_told_of_is_made_where_it_is_missing_but_does_not_stay(
    user: TestUser, kept: bool
) -> None:
    names = dict.fromkeys(("hosts", "hostname", "resolv.conf"), "")
    layer = user.directory("layer", "etc", **names)
    namespace = "trusted" if user.is_root else "user"
    os.setxattr(layer, f"{namespace}.overlay.opaque", b"y")
    upper = user.directory("upper")
    run = ("run", *(("--upper", upper) if kept else ()), "-l", os.path.dirname(layer), "-l", "host")
    script = "cat /etc/machine-id 2>/dev/null || echo none"
    found = user.succeeds(*run, "--lie", f"machine-id={MACHINE}", "sh", "-c", script)
    assert found == ("none\n" if kept else f"{MACHINE}\n")
    assert os.listdir(upper) == []


def test_clocks_are_not_set_twice(user: TestUser) -> None:
    line = user.refused("run", "--lie", "uptime=1d", "--boottime", "5", "true")
    assert line == "--lie uptime: leave it out with --monotonic and --boottime"
    line = user.refused("run", "--lie", "uptime=1d", "--share", "time", "true")
    assert (
        line
        == "--lie uptime: a clock of its own needs a time namespace of its own: leave --share time out"
    )


@contextlib.contextmanager
def lxcfs(user: TestUser) -> Iterator[None]:
    """Run it in the test's mount namespace."""
    place = "/var/lib/lxcfs"
    os.makedirs(place, exist_ok=True)
    with subprocess.Popen(
        ["lxcfs", "--foreground", "--pidfile", user.path("pid"), place], stderr=subprocess.DEVNULL
    ) as running:
        try:
            while not os.path.exists(f"{place}/proc/meminfo"):
                assert running.poll() is None
            yield
        finally:
            subprocess.run(["umount", place], check=True)
            running.wait()


@only_as("root")
def test_lxcfs_shows_the_limits_of_the_view(user: TestUser) -> None:
    limits = ("--memory", "96m", "--cpus", "1", "--lie", "proc=lxcfs")
    script = "grep MemTotal /proc/meminfo; grep -c ^cpu[0-9] /proc/stat; cut -d. -f1 /proc/uptime"
    with lxcfs(user):
        total, processors, uptime = user.succeeds("run", *limits, "sh", "-c", script).splitlines()
        line = user.refused("run", *limits, "--lie", "cpus=1", "true")
    assert total.split() == ["MemTotal:", "98304", "kB"]
    assert int(processors) <= (os.cpu_count() or 1)
    assert int(uptime) < 3600
    assert line == "--lie proc=lxcfs: it says that, too: leave cpus out"
