"""podman in a view: an image is imported, built upon, committed and run, and a container runs in a view in a view."""

from __future__ import annotations

import pytest

from ...views.user import TestUser, command

IMAGE = r"""
mkdir -p image/bin image/etc image/tmp
for program in sh cat id ls rm; do
    path=$(command -v $program)
    cp "$path" image/bin/
    for library in $(ldd "$path" | grep -o '/[^ ]*\.so[^ ]*'); do
        mkdir -p "image$(dirname "$library")"
        cp -L "$library" "image$library"
    done
done
tar --owner=0 --group=0 -C image -cf image.tar .
"""
PODMAN = r"""
podman() { command podman --root /tmp/storage --runroot /tmp/running --storage-driver vfs "$@" 2>>/tmp/errors; }
trap 'test $? = 0 || cat /tmp/errors >&2' EXIT
podman import image.tar localhost/small:1 >/dev/null
podman run --rm --network=none localhost/small:1 /bin/sh -ec 'id -u; echo new >/new; cat /new; rm /bin/id; ls /bin'
podman run --name=one --network=none localhost/small:1 /bin/sh -c 'echo kept >/kept'
podman commit -q one localhost/small:2 >/dev/null
podman run --rm --network=none --read-only localhost/small:2 /bin/cat /kept
podman rm -a >/dev/null
podman rmi -a -f >/dev/null
"""
FREE = "--security-opt=seccomp=unconfined"
"""The filter refuses sethostname(2), as podman's own does in its containers: crun gives each a name."""

PRINTED = "0\nnew\ncat\nls\nrm\nsh\nkept\n"


@pytest.mark.parametrize("levels", [1, 2])
def test_podman_runs_containers_in_a_view(user: TestUser, levels: int) -> None:
    user.program(["sh", "-euc", IMAGE])
    inner = [command(), "run", FREE, "--"] * (levels - 1)
    assert user.succeeds("run", FREE, "--", *inner, "sh", "-euc", PODMAN) == PRINTED
