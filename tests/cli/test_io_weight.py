"""`--io-weight`: how views share a disk that both read at once."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

from overlaykit.rmtree import rmtree_path

from ..views.fixtures import only_as
from ..views.user import TestUser

MEBIBYTES = 64
WANTED = 512
"""How many MiB the heavy view reads: many times what lies in the queues at the beginning."""

READ = """
import mmap, os, sys, threading
disk, size, wanted = sys.argv[1], *map(int, sys.argv[2:])
file = os.open(disk, os.O_RDONLY | os.O_DIRECT)
counts, enough = [0] * 4, threading.Event()
def read(thread):
    buffer = mmap.mmap(-1, 1 << 20)
    while True:
        os.preadv(file, [buffer], (counts[thread] * len(counts) + thread) % size << 20)
        counts[thread] += 1
        if sum(counts) >= wanted:
            enough.set()
print("ready", flush=True)
sys.stdin.readline()
for thread in range(len(counts)):
    threading.Thread(target=read, args=(thread,), daemon=True).start()
print("reading", flush=True)
enough.wait()
print(sum(counts), flush=True)
os._exit(0)
"""


@contextlib.contextmanager
def disk(user: TestUser) -> Iterator[str]:
    """A loop device with the scheduler BFQ, as slow as the disk below: the page cache is as fast as its readers."""
    directory = user.directory("disk", image=os.urandom(MEBIBYTES << 20))
    image = os.path.join(directory, "image")
    with open(image, "rb") as file:
        os.fsync(file.fileno())
    made = ["losetup", "--find", "--show", "--direct-io=on", image]
    device = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
    try:
        queue = f"/sys/block/{os.path.basename(device)}/queue"
        user.write(f"{queue}/scheduler", "bfq")
        # It gives up bandwidth to keep the shares, also where it takes a disk for a fast one.
        user.write(f"{queue}/iosched/strict_guarantees", "1")
        user.write(f"{queue}/iosched/low_latency", "0")
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        rmtree_path(directory)


def reader(user: TestUser, weight: int, device: str, wanted: int) -> subprocess.Popen[str]:
    program = ("/usr/bin/python3", "-c", READ, device, str(MEBIBYTES), str(wanted))
    options = ("--io-weight", str(weight), "--device", device)
    started = user.start("run", *options, "--", *program)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


@only_as("root")
def test_of_two_views_that_read_a_disk_the_heavier_gets_more(user: TestUser) -> None:
    # Each may be scheduled on the processors to its advantage, so the first round alone would prove nothing.
    with disk(user) as device:
        for _ in range(2):
            light = reader(user, 1, device, WANTED // 3)
            heavy = reader(user, 1000, device, WANTED)
            for one in light, heavy:  # the light one first
                assert one.stdin is not None
                assert one.stdout is not None
                one.stdin.write("\n")
                one.stdin.flush()
                assert one.stdout.readline() == "reading\n"
            assert heavy.stdout is not None
            assert int(heavy.stdout.readline()) >= WANTED
            # It has not read a third of that meanwhile.
            assert light.poll() is None
            light.kill()
            light.communicate()
            heavy.communicate()
