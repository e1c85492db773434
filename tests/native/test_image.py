"""The memory image: a process keeps what it has in memory, and only what is equal is shared.

Each process here is a fork of one interpreter that has no other thread, as the daemons of a fork server are.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

_PROGRAM = """
import fcntl, hashlib, os, resource, sys, threading
from overlaykit.fuse.image import share_pages

objects = [(number, str(number)) for number in range(100_000)]
block = bytearray(os.urandom(1 << 20))
image = os.memfd_create("overlaykit-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)

def fork(body):
    "Run `body` in a fork: what it returns."
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, repr(body()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    answer = b""
    while piece := os.read(reader, 65536):
        answer += piece
    os.waitpid(child, 0)
    return eval(answer)

def content():
    return hashlib.sha256(repr(objects).encode() + block).hexdigest()

def use(own):
    "Write to all objects, mostly the same in each process."
    for number in range(0, 1 << 20, 1 << 14):
        block[number] = 7
    block[5] = own
    global kept
    kept = [one for one in objects[::7]]

def anonymous():
    "The KiB that are no file's."
    with open("/proc/self/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith("Anonymous"))

def errno_of(image, publishes):
    try:
        return share_pages(image, publishes=publishes)
    except OSError as error:
        return -error.errno
"""


def _run(body: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM + body], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def test_memory_keeps_its_content_and_equal_pages_are_shared() -> None:
    said = _run("""
def one(own, publishes):
    use(own)
    before, more = content(), anonymous()
    pages = share_pages(image, publishes=publishes)
    assert content() == before
    return pages, more, anonymous(), before

def expected(own):
    use(own)
    return content()

first = fork(lambda: one(1, True))
second = fork(lambda: one(2, False))
assert first[3] == fork(lambda: expected(1)) != second[3] == fork(lambda: expected(2))
for pages, before, after, _ in (first, second):
    print(pages, before, after)
""")
    for line in said.splitlines():
        pages, before, after = map(int, line.split())
        assert pages > 1000
        # Some are free memory that was not there before.
        assert before - after > 4000  # KiB


def test_what_is_written_later_stays_the_writers_own() -> None:
    _run("""
def publish():
    use(1)
    share_pages(image, publishes=True)
    before = content()
    block[9] ^= 1
    objects.append((0, "only here"))
    assert content() != before

def adopt():
    use(1)
    for _ in range(3):
        before = content()
        share_pages(image, publishes=False)
        assert content() == before
        objects.append(tuple(range(10_000)))
        block[20_000] ^= 1
        del objects[1000:3000]
    return content()

def alone():
    use(1)
    for _ in range(3):
        objects.append(tuple(range(10_000)))
        block[20_000] ^= 1
        del objects[1000:3000]
    return content()

fork(publish)
found = [fork(adopt) for _ in range(3)]
assert set(found) == {fork(alone)}
try:
    os.pwrite(image, b"x", 0)
except PermissionError:
    pass
else:
    raise AssertionError("the image can be changed")
""")


def test_an_image_is_used_only_once_it_is_complete() -> None:
    _run("""
import errno
def early():
    return errno_of(image, False)
assert fork(early) == -errno.EAGAIN
assert os.fstat(image).st_size == 0
assert fork(lambda: errno_of(image, True)) > 0
assert fork(early) > 0
# A second publisher adopts it.
size = os.fstat(image).st_size
assert fork(lambda: errno_of(image, True)) > 0
assert os.fstat(image).st_size == size
""")


def test_nothing_is_shared_while_another_thread_may_write() -> None:
    _run("""
import errno
def threaded():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    found = errno_of(image, True)
    done.set()
    thread.join()
    return found
assert fork(threaded) == -errno.EAGAIN
assert os.fstat(image).st_size == 0
""")


def test_a_process_that_may_not_write_files_keeps_its_memory() -> None:
    _run("""
import errno
def limited():
    use(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    before = content()
    found = [errno_of(image, True) for _ in range(2)]
    assert content() == before
    return found
assert fork(limited) == [-errno.EFBIG, -errno.EEXIST]
assert fork(lambda: errno_of(image, False)) == -errno.EAGAIN
""")


@pytest.mark.parametrize("descriptor", ["999", "0"])
def test_what_is_no_image_is_refused(descriptor: str) -> None:
    said = _run(f"print(errno_of({descriptor}, False))")
    assert re.fullmatch(r"-\d+\n", said)
