"""podman with overlaykit as mount_program, as root and as an ordinary user, works as with fuse-overlayfs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from .containers import IMAGE, Podman

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="mount namespaces of root and of an ordinary user: only root has both"
)

BUILT = "localhost/built"
CONTAINERFILE = f"""
FROM {IMAGE}
RUN echo built >/built && rm /etc/passwd && mkdir -p /opt/a && chown 1000:1000 /opt/a && chmod 750 /opt/a
COPY added /opt/added
RUN mv /home /moved && ln -s /moved /home && rm -rf /tmp && mkdir /tmp && echo new >/tmp/new
"""


@pytest.fixture(scope="module", params=["rootful", "rootless"])
def podman(request: pytest.FixtureRequest) -> Iterator[Podman]:
    # On a disk, with a short name: podman refuses a runroot of more than 50 characters.
    directory = tempfile.mkdtemp(prefix="podman-", dir="/var/tmp")
    podman = Podman(request.param, directory)
    try:
        podman.succeeds("import", "--quiet", podman.path("image.tar"), IMAGE)
        podman.write(CONTAINERFILE, "context", "Containerfile")
        podman.write("added\n", "context", "added")
        yield podman
        podman.succeeds("system", "reset", "--force")
        assert podman.mounts() == []
        assert podman.processes() == []
        assert not os.path.exists(podman.path("store"))
    finally:
        podman.close()
        shutil.rmtree(directory)


@pytest.fixture
def built(podman: Podman) -> Podman:
    """With the image of the Containerfile."""
    if podman.run("image", "exists", BUILT).status != 0:
        options = ("--isolation=chroot", "--quiet", "--tag", BUILT)
        podman.succeeds("build", *options, podman.path("context"))
    return podman


def test_an_imported_image_runs_and_keeps_nothing_of_a_run(podman: Podman) -> None:
    done = podman.run("run", "--rm", IMAGE, "sh", "-c", "echo hi >/x; cat /x; id -u; exit 3")
    assert (done.status, done.printed) == (3, "hi\n0\n")
    assert podman.prints(IMAGE, "ls /") == "bin\ndev\netc\nhome\nproc\nrun\nsys\ntmp\n"


def test_an_image_is_built_with_what_each_step_changed_and_removed(built: Podman) -> None:
    script = (
        "cat /built /opt/added /tmp/new; ls /tmp /moved; stat -c '%u:%g %a' /opt/a; stat -c %N /home;"
        "test ! -e /etc/passwd || cat /etc/passwd"
    )
    printed = built.prints(BUILT, script)
    assert printed.startswith("built\nadded\nnew\n/moved:\n\n/tmp:\nnew\n1000:1000 750\n")
    assert "root:x:0:0:root:/:/bin/sh" not in printed  # podman makes its own passwd


def test_a_container_is_changed_compared_committed_stopped_and_started(built: Podman) -> None:
    built.succeeds("run", "--detach", "--name", "long", BUILT, "sleep", "10000")
    try:
        script = "echo more >/more; rm /built; echo changed >/opt/added; touch /bin/new"
        built.succeeds("exec", "long", "sh", "-euc", script)
        changes = built.succeeds("diff", "long").split("\n")
        assert {"A /more", "D /built", "C /opt/added", "A /bin/new"} <= set(changes)
        assert not any("moved" in change for change in changes)
        built.succeeds("commit", "--quiet", "long", "localhost/committed")
        script = "cat /more /opt/added; ls /bin/new; test ! -e /built"
        assert built.prints("localhost/committed", script) == "more\nchanged\n/bin/new\n"
        built.succeeds("stop", "--time", "0", "long")
        built.succeeds("start", "long")
        assert built.succeeds("exec", "long", "cat", "/more") == "more\n"
        built.succeeds("cp", "long:/more", built.path("copied"))
        with open(built.path("copied")) as file:
            assert file.read() == "more\n"
    finally:
        built.succeeds("rm", "--force", "--time", "0", "long")
    built.succeeds("save", "--quiet", "--output", built.path("saved.tar"), "localhost/committed")
    built.succeeds("rmi", "--force", "localhost/committed")
    built.succeeds("load", "--quiet", "--input", built.path("saved.tar"))
    assert built.prints("localhost/committed", "cat /more /opt/added") == "more\nchanged\n"


def test_a_user_of_a_container_is_bound_by_its_files(built: Podman) -> None:
    script = (
        "id -u; touch /opt/a/mine; stat -c %u:%g /opt/a/mine; touch /tmp/no && exit 1; echo bound"
    )
    assert built.prints(BUILT, script, "--user", "1000:1000") == "1000\n1000:1000\nbound\n"


@pytest.mark.parametrize("podman", ["rootless"], indirect=True)
def test_a_user_keeps_its_id_in_a_container(built: Podman) -> None:
    script = "id -u; stat -c %u:%g /etc /opt/a; echo x >/home/x"
    done = built.run("run", "--rm", "--userns=keep-id", BUILT, "sh", "-c", script)
    assert done.printed == "1000\n0:0\n1000:1000\n"
    assert done.status == 1
    assert "/home/x: Permission denied" in done.complained


CHANGES = (
    "id -u; stat -c %u:%g /etc /opt/a;"
    "echo x >/etc/x; ln -s x /etc/y; mkdir /opt/a/d; stat -c %u:%g /etc/x /etc/y /opt/a/d;"
    "chown 5:6 /etc/x; stat -c %u:%g /etc/x; rm /built; mv /opt /opt2; echo more >>/opt2/added;"
    "cat /opt2/added"
)
NO_SHM = "--ipc=none"
"""podman 4 leaves /dev/shm of a container with mapped ids mounted, so that its removal may fail."""

SEEN = "0\n0:0\n1000:1000\n0:0\n0:0\n0:0\n5:6\nadded\nmore\n"


def test_a_container_gets_its_own_ids(built: Podman) -> None:
    assert built.prints(BUILT, CHANGES, "--userns=auto", NO_SHM) == SEEN


def test_what_a_container_with_mapped_ids_wrote_is_committed_with_its_own(built: Podman) -> None:
    first = 100_000 if built.mode == "rootful" else 1  # rootless: of those in /etc/subuid
    ids = [f"--uidmap=0:{first}:2000", f"--gidmap=0:{first}:2000", NO_SHM]
    built.succeeds("run", "--name", "mapped", *ids, BUILT, "sh", "-euc", CHANGES)
    try:
        built.await_cleanup()
        built.succeeds("commit", "--quiet", "mapped", "localhost/mapped")
    finally:
        built.succeeds("rm", "mapped")
    script = (
        "stat -c %u:%g /etc /etc/x /etc/y /opt2/a /opt2/a/d /opt2/added /moved; cat /opt2/added"
    )
    seen = "0:0\n5:6\n0:0\n1000:1000\n0:0\n0:0\n0:0\nadded\nmore\n"
    assert built.prints("localhost/mapped", script) == seen


def test_a_volume_as_an_overlay_stays_as_it_was(built: Podman) -> None:
    built.write("lower\n", "volume", "f")
    built.write("d\n", "volume", "d", "f")
    script = "cat /v/f; echo changed >/v/f; rm -r /v/d; echo n >/v/new; cat /v/f; ls /v"
    option = f"--volume={built.path('volume')}:/v:O"
    assert built.prints(IMAGE, script, option) == "lower\nchanged\nf\nnew\n"
    assert sorted(os.listdir(built.path("volume"))) == ["d", "f"]
    with open(built.path("volume", "f")) as file:
        assert file.read() == "lower\n"


def test_an_image_is_mounted_in_a_container_of_another(built: Podman) -> None:
    option = f"--mount=type=image,source={BUILT},destination=/i"
    script = "cat /i/built /i/opt/added; echo x >/i/no || echo read-only"
    assert built.prints(IMAGE, script, option) == "built\nadded\nread-only\n"
    script = "echo x >/i/yes; rm /i/built; cat /i/yes"
    assert built.prints(IMAGE, script, f"{option},rw=true") == "x\n"
    assert built.prints(BUILT, "ls /built; test ! -e /yes") == "/built\n"


def test_a_read_only_container_writes_where_it_may(built: Podman) -> None:
    script = "cat /built; touch /x || touch /tmp/x && echo written; test ! -e /x"
    assert built.prints(BUILT, script, "--read-only") == "built\nwritten\n"
