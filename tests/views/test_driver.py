"""The drivers of a view: each shows the same, either continues what the other wrote, or refuses it by name."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from overlaykit import _native
from overlaykit.errors import Error
from overlaykit.overlay import features
from overlaykit.views import Registry, View
from overlaykit.views.drivers import ConfigurationInvalid, DriverUnknown
from overlaykit.views.kernel_driver import (
    KernelRefused,
    LayerHoldsFeature,
    LayerOfAnotherKind,
    UpperHoldsFeature,
    UpperOverOtherLayers,
)
from overlaykit.views.locks import UpperTaken

from .fixtures import only_as, only_with
from .user import TestUser, command, kernel_shows_host

pytestmark = only_with(driver="fuse", server=False)  # a test chooses the driver itself

needs_host = pytest.mark.skipif(
    not kernel_shows_host(),
    reason="the layer host is several file systems here",
)

DRIVERS = ("fuse", "kernel")
OTHER = {"fuse": "kernel", "kernel": "fuse"}


def system(user: TestUser) -> str:
    """A layer of the user's own in which the host's programs run, given `USR`."""
    layer = user.directory("system", file="of the layer\n", gone="to be deleted\n")
    for name in ("bin", "lib", "lib64", "sbin"):
        os.symlink(f"usr/{name}", os.path.join(layer, name))
    for name in ("usr", "tmp", "etc", "var", "tree/below"):
        os.makedirs(os.path.join(layer, name))
    user.write(os.path.join(layer, "tree/below/leaf"), "leaf\n")
    user.write(os.path.join(layer, "tree/other"), "other\n")
    return layer


USR = "/usr:/usr:ro"


def view(user: TestUser, driver: str | None, **options: object) -> View:
    layer = user.path("system")
    if not os.path.isdir(layer):
        system(user)
    return View([layer], binds=[USR], driver=driver, **options)  # type: ignore[arg-type]


def output(view: View, script: str) -> str:
    done = view.run(["sh", "-ec", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done
    return str(done.stdout)


CHANGES = """
    echo changed > /file; rm /gone; rm -r /tree/below; mkdir /tree/below; echo new > /tree/below/new
    mkdir /made; ln -s made /link; ln /file /hard; chmod 640 /tree/other; touch -d @1 /tree
"""
LOOK = """
    cat /file /hard /tree/below/new; readlink /link; stat -c '%n %a %Y %h' /tree/other /file /tree | sed s/.*tree.$//
    ls -A / /tree /tree/below /made; ! test -e /gone; ! test -e /tree/below/leaf
"""


@pytest.mark.parametrize("first", DRIVERS)
def test_an_upper_of_one_driver_is_continued_by_the_other_and_back(
    user: TestUser, first: str
) -> None:
    upper = user.path("upper")
    with view(user, first, upper=upper) as one:
        output(one, CHANGES)
        seen = output(one, LOOK)
    with view(user, OTHER[first], upper=upper) as other:
        assert output(other, LOOK) == seen
        output(
            other,
            "rm -r /made /tree; mkdir /tree; echo 2 > /tree/second; rm /hard; echo x >> /file",
        )
    with view(user, first, upper=upper) as again:
        assert output(
            again, "cat /file /tree/second; ls /tree; ! test -e /made; ! test -e /hard"
        ) == ("changed\nx\n2\nsecond\n")


@only_as("root")
@pytest.mark.parametrize("first", DRIVERS)
def test_a_directory_that_root_renames_is_shown_by_the_other_driver(
    user: TestUser, first: str
) -> None:
    upper = user.path("upper")
    with view(user, first, upper=upper) as one:
        output(one, "mv /tree /moved; mv /moved/below /below; echo x > /below/new")
    with view(user, OTHER[first], upper=upper) as other:
        assert output(other, "cat /below/leaf /below/new /moved/other; ! test -e /tree") == (
            "leaf\nx\nother\n"
        )


@only_as("root")
@pytest.mark.parametrize("first", DRIVERS)
def test_a_changed_hard_link_stays_one_file_for_the_other_driver(
    user: TestUser, first: str
) -> None:
    layer = system(user)
    os.link(f"{layer}/file", f"{layer}/same")
    upper = user.path("upper")
    with view(user, first, upper=upper) as one:
        output(one, "echo changed > /file")
    with view(user, OTHER[first], upper=upper) as other:
        assert output(other, "cat /same; stat -c %h /same") == "changed\n2\n"


def upper_with_metacopies(user: TestUser) -> str:
    """An upper over `system` that holds files without their data."""
    layer, upper, target = system(user), user.directory("upper"), user.directory("target")
    given = f"lowerdir={layer},upperdir={upper},workdir={user.path('.upper.overlaykit')}"
    user.directory(".upper.overlaykit")
    user.succeeds("mount", "-o", f"{given},metacopy=on", target)
    os.chmod(f"{target}/file", 0o600)
    os.rename(f"{target}/tree/other", f"{target}/moved")
    user.succeeds("umount", target)
    assert b"trusted.overlay.metacopy" in map(os.fsencode, os.listxattr(f"{upper}/moved"))
    return upper


@only_as("root")
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("recorded", [True, False])
def test_files_whose_data_are_in_a_layer_are_read_and_written(
    user: TestUser, driver: str, recorded: bool
) -> None:
    upper = upper_with_metacopies(user)
    if not recorded:  # as one that the kernel's overlayfs wrote
        os.removexattr(upper, b"trusted.overlay.features")
    with view(user, driver, upper=upper) as one:
        assert output(one, "cat /file /moved; echo more >> /moved; cat /moved") == (
            "of the layer\nother\nother\nmore\n"
        )
    with view(user, OTHER[driver], upper=upper) as other:
        assert output(other, "cat /file /moved") == "of the layer\nother\nmore\n"


@only_as("root")
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_layer_that_holds_files_without_their_data_is_shown_with_them(
    user: TestUser, driver: str
) -> None:
    top = upper_with_metacopies(user)
    with View([top, user.path("system")], binds=[USR], driver=driver) as one:
        assert output(one, "cat /file /moved") == "of the layer\nother\n"


@only_as("root")
@pytest.mark.parametrize("driver", DRIVERS)
def test_in_a_throwaway_view_of_stored_layers_a_new_owner_costs_no_data(
    user: TestUser, driver: str
) -> None:
    user.write(os.path.join(system(user), "large"), "x" * (1 << 20))
    user.succeeds("layer", "add", "stored", f"dir:{user.path('system')}")
    script = "chown -R 1000:1000 /tree /large; mv /large /moved; tail -c1 /moved; stat -c %s /moved"
    with View(["stored"], binds=[USR], driver=driver) as one:
        assert output(one, script) == f"x{1 << 20}\n"
        answer, data = one.explain("/moved").hits
        assert (answer.role, data.role) == ("answers", "data")
        assert os.stat(answer.path).st_blocks * 512 <= 8192
        assert data.path.endswith("/large")
        output(one, "echo more >> /moved; tail -c5 /moved")
        assert [hit.role for hit in one.explain("/moved").hits] == ["answers"]
    with View(["stored", user.path("system")], binds=[USR], driver=driver) as one:
        output(one, "chmod 600 /large")  # a directory may change below the view
        assert "data" not in [hit.role for hit in one.explain("/large").hits]


@only_as("root")
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_kept_upper_gets_whole_files(user: TestUser, driver: str) -> None:
    upper = user.path("upper")
    with view(user, driver, upper=upper) as one:
        output(one, "chmod 600 /file; mv /tree/other /moved")
    for name, content in (("file", "of the layer\n"), ("moved", "other\n")):
        with open(f"{upper}/{name}", encoding="ascii") as file:
            assert file.read() == content


@only_as("root")
def test_an_upper_is_continued_over_other_layers_unless_hard_links_were_changed(
    user: TestUser,
) -> None:
    layer, upper = system(user), user.path("upper")
    more = user.directory("more", same="x", added="y")
    os.link(f"{more}/same", f"{more}/link")
    for layers in ([layer], [more, layer], [layer]):
        with View(layers, binds=[USR], upper=upper, driver="kernel") as one:
            output(one, "echo x >> /file; mkdir -p /tree/made")
    with View([more, layer], binds=[USR], upper=upper, driver="kernel") as one:
        output(one, "echo changed > /same; grep changed /link")
    with pytest.raises(UpperOverOtherLayers), View([layer], upper=upper, driver="kernel"):
        pass
    for driver in DRIVERS:
        with View([more, layer], binds=[USR], upper=upper, driver=driver) as one:
            assert output(one, "cat /link; wc -l < /file") == "changed\n4\n"


@needs_host
@only_as("root")
def test_an_upper_with_changed_hard_links_is_refused_over_the_host(user: TestUser) -> None:
    """Without an index, which the host in several layers has none of, its names would be separate files."""
    layer, upper = system(user), user.path("upper")
    os.link(f"{layer}/file", f"{layer}/same")
    with View([layer], binds=[USR], upper=upper, driver="kernel") as one:
        output(one, "echo changed > /file; grep changed /same")
    with (
        pytest.raises(UpperHoldsFeature, match="hard links"),
        View([layer, "host"], upper=upper, driver="kernel"),
    ):
        pass


@only_as("ordinary user")
def test_the_kernels_driver_refuses_a_directory_that_a_user_has_renamed(user: TestUser) -> None:
    upper = user.path("upper")
    with view(user, "fuse", upper=upper) as one:
        output(one, "mv /tree /moved")
    refusal = (
        f"upper {upper}: it holds renamed directories of a layer, which the kernel's overlayfs does not show here:"
        " use --driver fuse"
    )
    with pytest.raises(UpperHoldsFeature) as raised, view(user, "kernel", upper=upper):
        pass
    assert str(raised.value) == refusal
    # So too without the record: the upper is searched.
    os.removexattr(upper, "user.overlay.features")
    with pytest.raises(UpperHoldsFeature), view(user, "kernel", upper=upper):
        pass
    with view(user, "auto", upper=upper) as other:
        assert output(other, "cat /moved/other") == "other\n"
        other.launch(["sleep", "1000"])
        assert [one.about.driver for one in Registry().running()] == ["fuse"]


@only_as("ordinary user")
def test_the_kernels_driver_refuses_changed_hard_links_of_a_user(user: TestUser) -> None:
    layer = system(user)
    os.link(f"{layer}/file", f"{layer}/same")
    with view(user, "fuse", upper=user.path("upper")) as one:
        output(one, "echo changed > /file")
    with (
        pytest.raises(UpperHoldsFeature, match="hard links"),
        view(user, "kernel", upper=user.path("upper")),
    ):
        pass


@pytest.mark.parametrize("form", ["xattr", "aufs"])
def test_the_kernels_driver_refuses_whiteouts_that_it_does_not_read(
    user: TestUser, form: str
) -> None:
    layer, upper, target = system(user), user.path("upper"), user.directory("target")
    os.mkdir(upper)
    os.mkdir(user.path(".upper.overlaykit"))
    options = f"lowerdir={layer},upperdir={upper},workdir={user.path('.upper.overlaykit')},whiteout={form}"
    user.succeeds("mount", "-o", options, target)
    os.unlink(f"{target}/gone")
    user.succeeds("umount", target)
    with pytest.raises(UpperHoldsFeature, match="whiteouts"), view(user, "kernel", upper=upper):
        pass
    os.removexattr(upper, f"{'trusted' if user.is_root else 'user'}.overlay.features")
    with pytest.raises(UpperHoldsFeature, match="whiteouts"), view(user, "kernel", upper=upper):
        pass


def changed_layer(user: TestUser, *options: str) -> str:
    """A layer that was the upper of a mount over `system`, in which a file was deleted."""
    layer, upper, target = system(user), user.directory("top"), user.directory("target")
    given = (
        f"lowerdir={layer}",
        f"upperdir={upper}",
        f"workdir={user.directory('work')}",
        *options,
    )
    user.succeeds("mount", "-o", ",".join(given), target)
    os.unlink(f"{target}/gone")
    user.succeeds("umount", target)
    return upper


@pytest.mark.parametrize("form", ["device", "xattr", "aufs"])
def test_a_file_that_a_layer_deletes_is_deleted_or_the_layer_is_refused(
    user: TestUser, form: str
) -> None:
    if form == "device" and not user.is_root:
        form = "auto"
    top = changed_layer(user, f"whiteout={form}")
    reads = form != "aufs" and (form != "xattr" or user.kernel_has("whiteouts that are attributes"))
    if reads:
        with View([top, user.path("system")], binds=[USR], driver="kernel") as one:
            output(one, "! test -e /gone")
    else:
        with (
            pytest.raises(LayerHoldsFeature, match=f"layer {top}: it holds whiteouts"),
            View([top, user.path("system")], binds=[USR], driver="kernel"),
        ):
            pass
    with View([top, user.path("system")], binds=[USR], driver="auto") as other:
        output(other, "! test -e /gone")


@only_as("ordinary user")
def test_the_kernels_driver_refuses_a_layer_in_which_a_user_has_renamed_a_directory(
    user: TestUser,
) -> None:
    top = user.path("top")
    with view(user, "fuse", upper=top) as one:
        output(one, "mv /tree /moved")
    with (
        pytest.raises(LayerHoldsFeature, match="renamed directories"),
        View([top, user.path("system")], binds=[USR], driver="kernel"),
    ):
        pass
    with View([top, user.path("system")], binds=[USR], driver="auto") as other:
        assert output(other, "cat /moved/other") == "other\n"


@only_as("root")
def test_root_refuses_a_layer_with_the_marks_of_a_user_that_only_ours_reads(user: TestUser) -> None:
    top = changed_layer(user, "userxattr")
    features.write(os.fsencode(top), b"user.overlay.", {features.REDIRECT})
    with (
        pytest.raises(LayerOfAnotherKind),
        View([top, user.path("system")], binds=[USR], driver="kernel"),
    ):
        pass


def test_hundreds_of_layers_are_merged_or_refused_by_number(user: TestUser) -> None:
    layers = [user.directory("layers", str(number), **{str(number): ""}) for number in range(300)]
    layers.append(system(user))
    if user.kernel_has("layers given one by one"):
        with View(layers, binds=[USR], driver="kernel") as one:
            output(one, "test -e /0; test -e /299")
    else:
        with pytest.raises(KernelRefused, match="301 layers"), View(layers, driver="kernel"):
            pass
        with View(layers[-150:], binds=[USR], driver="kernel") as one:
            output(one, "test -e /299; test -e /200")


def test_an_upper_of_another_program_is_searched_once(user: TestUser) -> None:
    """An upper without a record, as the kernel's overlayfs leaves one that mount(8) has mounted."""
    upper = user.path("upper")
    prefix = b"trusted.overlay." if user.is_root else b"user.overlay."
    with view(user, "kernel", upper=upper) as one:
        output(one, "echo x > /new")
    os.removexattr(upper, prefix + b"features")
    with view(user, "kernel", upper=upper) as one:
        assert output(one, "cat /new") == "x\n"
    assert features.read(os.fsencode(upper), prefix) == frozenset()


@pytest.mark.parametrize("holder", DRIVERS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_two_views_never_share_an_upper(user: TestUser, holder: str, driver: str) -> None:
    upper = user.path("upper")
    with view(user, holder, upper=upper, name="one") as one:
        one.launch(["sleep", "1000"])
        with (
            pytest.raises(UpperTaken, match="is in use by view one"),
            view(user, driver, upper=upper),
        ):
            pass
    with view(user, driver, upper=upper) as two:
        two.run(["true"], check=True)


def test_an_upper_is_locked_until_the_last_process_of_a_killed_launcher_has_ended(
    user: TestUser,
) -> None:
    before = user.leftovers()
    layer = system(user)
    arguments = (
        "run",
        "--driver",
        "kernel",
        "-l",
        layer,
        "-v",
        USR,
        "--upper",
        user.directory("upper"),
    )
    with user.start(*arguments, "sh", "-c", "echo started; sleep 1000") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "started\n"
        assert "is in use by view" in user.refused(*arguments, "true")
        os.kill(running.pid, signal.SIGKILL)
    user.wait_for_descendants()
    assert user.succeeds(*arguments, "true") == ""
    assert user.leftovers() == before


@pytest.mark.parametrize("driver", DRIVERS)
def test_several_commands_share_the_files_of_a_view(user: TestUser, driver: str) -> None:
    with view(user, driver) as one:
        for number in range(3):
            assert output(one, "echo x >> /count; wc -l < /count") == f"{number + 1}\n"


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_read_only_view_refuses_changes(user: TestUser, driver: str) -> None:
    layer = system(user)
    for name in ("proc", "sys", "dev", "run"):
        os.mkdir(f"{layer}/{name}")
    user.write(f"{layer}/etc/hosts", "")
    with view(user, driver, read_only=True) as one:
        assert output(one, "cat /file; ! touch /new 2> /tmp/../dev/null; ! test -e /new") == (
            "of the layer\n"
        )


@pytest.mark.parametrize("driver", DRIVERS)
def test_devices_of_a_layer_do_not_open(user: TestUser, driver: str) -> None:
    with view(user, driver) as one:
        options = output(one, "grep ' / ' /proc/self/mountinfo").split()[5]
    assert "nodev" in options.split(",")


@pytest.mark.parametrize("driver", DRIVERS)
def test_changes_of_the_hosts_file_are_kept(user: TestUser, driver: str) -> None:
    upper = user.path("upper")
    user.write(f"{system(user)}/etc/hosts", "127.0.0.1 localhost\n")
    with view(user, driver, upper=upper) as one:
        output(one, "echo 10.0.0.1 other >> /etc/hosts")
    with view(user, OTHER[driver], upper=upper) as other:
        assert "10.0.0.1 other\n" in output(other, "cat /etc/hosts")


@pytest.mark.parametrize("driver", DRIVERS)
def test_explain_and_ps_answer(user: TestUser, driver: str) -> None:
    upper = user.path("upper")
    with view(user, driver, upper=upper, name="one") as one:
        output(one, "echo x > /file; rm /gone; mkdir /new")
        one.launch(["sleep", "1000"])
        hits = {path: one.explain(path).hits for path in ("/file", "/gone", "/tree/other", "/new")}
        layer = user.path("system")
        roles = {path: [(hit.role, hit.path) for hit in found] for path, found in hits.items()}
        assert roles == {
            "/file": [("answers", f"{upper}/file"), ("shadowed", f"{layer}/file")],
            "/gone": [("whiteout", f"{upper}/gone"), ("shadowed", f"{layer}/gone")],
            "/tree/other": [("answers", f"{layer}/tree/other")],
            "/new": [("answers", f"{upper}/new")],
        }
        assert user.succeeds("explain", "one", "/file").splitlines()[1].split() == [
            *("answers", "file", f"{upper}/file")
        ]
        assert "explain: " not in user.refused("explain", "one", "/no/such")
        (line,) = user.succeeds("ps").splitlines()[1:]
        assert line.startswith("one ")


def test_a_view_without_a_daemon_has_none(user: TestUser) -> None:
    with view(user, "kernel") as one:
        one.launch(["sleep", "1000"])
        (running,) = Registry().running()
        assert (running.about.driver, running.about.daemon) == ("kernel", 0)


def test_a_launcher_that_was_killed_leaves_nothing(user: TestUser) -> None:
    before = user.leftovers()
    layer = system(user)
    arguments = ("run", "--driver", "kernel", "-l", layer, "-v", USR)
    with user.start(*arguments, "sh", "-c", "echo x > /new; echo started; sleep 1000") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "started\n"
        os.kill(running.pid, signal.SIGKILL)
    user.wait_for_descendants()
    user.succeeds(*arguments, "true")
    assert user.leftovers() == before


def test_a_python_program_that_was_killed_leaves_nothing(user: TestUser) -> None:
    before = user.leftovers()
    system(user)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with view(user, "kernel") as one:
            one.launch(["sh", "-c", "echo x > /new; sleep 1000"])
            os.write(writer, b".")
            signal.pause()
    assert os.read(reader, 1) == b"."
    os.kill(child, signal.SIGKILL)
    os.close(reader)
    os.close(writer)
    user.wait_for_descendants()
    user.succeeds("run", "--driver", "kernel", "-l", user.path("system"), "-v", USR, "true")
    assert user.leftovers() == before


# What the kernel's overlayfs cannot show


@only_as("ordinary user")
def test_the_host_takes_root(user: TestUser) -> None:
    with (
        pytest.raises(KernelRefused, match=r"layer host: only root .*: use --driver fuse"),
        View(driver="kernel"),
    ):
        pass
    with View(driver="auto") as one:
        assert output(one, "echo yes") == "yes\n"


def test_root_of_a_user_namespace_has_the_markers_of_a_user(user: TestUser) -> None:
    layer, upper = system(user), user.directory("upper")
    inside = ["unshare", "--user", "--map-root-user", "--mount", command(), "run", "--driver"]
    run = ["-l", layer, "-v", USR, "--upper", upper, "--", "sh", "-ec"]
    user.program([*inside, "kernel", *run, "rm -r /tree; mkdir /tree; echo x > /new"])
    assert os.getxattr(f"{upper}/tree", "user.overlay.opaque") == b"y"
    assert user.program([*inside, "fuse", *run, "cat /new; ls /tree"]) == "x\n"
    refused = subprocess.run(
        [*inside, "kernel", "true"], capture_output=True, text=True, check=False
    )
    assert "layer host: only root" in refused.stderr


@only_as("ordinary user")
def test_a_layer_of_another_user_is_refused(user: TestUser) -> None:
    with (
        pytest.raises(KernelRefused, match="layer /etc: it belongs to"),
        View(["/etc"], driver="kernel"),
    ):
        pass


@only_as("ordinary user")
def test_a_layer_with_a_mount_in_it_is_refused_by_name(user: TestUser) -> None:
    layer = system(user)
    done = user.changed_machine(
        f"mount -t tmpfs none {layer}/var", "run", "--driver", "kernel", "-l", layer, "true"
    )
    assert done.stderr == (
        f"overlaykit: layer {layer}: only root can merge a directory with a mount in it, as at {layer}/var, with the"
        " kernel's overlayfs: use --driver fuse\n"
    )


@needs_host
@only_as("root")
def test_a_host_of_several_file_systems_is_refused_by_name(user: TestUser) -> None:
    other = user.directory("other")
    arguments = ("run", "--driver", "kernel", "true")
    done = user.changed_machine(f"mount -t tmpfs none {other}; touch {other}/file", *arguments)
    assert done.stderr == (
        f"overlaykit: layer host: {other} is a file system of its own, and the kernel's overlayfs shows one only:"
        " use --driver fuse\n"
    )
    done = user.changed_machine(f"mount -t tmpfs none {other}", *arguments)  # it is empty
    assert (done.returncode, done.stderr) == (0, "")


@needs_host
@only_as("root")
def test_the_host_shows_neither_scratch_nor_the_upper_of_its_view(user: TestUser) -> None:
    upper = user.path("home", "upper")
    script = f"ls -A {user.temporary_uppers}; echo x > /opt/new; ! ls {upper}/opt 2> /dev/null"
    with View(driver="kernel") as one:
        assert output(one, script) == ""
    with View(driver="kernel", upper=upper) as one:
        output(one, f"echo x > /opt/new; ! ls {upper}/opt 2> /dev/null")
    assert os.listdir(f"{upper}/opt") == ["new"]


@needs_host
@only_as("root")
def test_a_layer_above_the_host_is_merged(user: TestUser) -> None:
    top = user.directory("top", added="by the layer\n")
    upper = user.path("upper")
    for driver in ("kernel", "fuse", "kernel"):
        with View([top, "host"], driver=driver, upper=upper) as one:
            assert output(one, f"cat /added; echo x >> {user.scratch}/../kept; cat /etc/issue")
    # The upper lies in the host, which is masked there.
    with View([top, "host"], driver="kernel", upper=upper) as one:
        assert output(one, f"ls -A {upper}; wc -l < {user.scratch}/../kept") == "3\n"


@only_as("root")
@needs_host
def test_a_view_in_a_view_falls_back(user: TestUser) -> None:
    """The kernel takes no upper on an overlay: the inner view has to be ours."""
    inner = f"{command()} run --driver auto -- cat /etc/issue"
    assert user.succeeds("run", "--driver", "kernel", "sh", "-c", inner)
    inner = f"{command()} run --driver kernel -- true"
    refused = user.overlaykit("run", "--driver", "kernel", "sh", "-c", inner)
    assert refused.returncode == 125
    assert "use --driver fuse" in refused.stderr


@only_as("root")
def test_an_upper_without_attributes_is_refused_by_name(user: TestUser) -> None:
    disk = user.directory("disk")
    layer = system(user)
    done = user.changed_machine(
        f"mount -t ramfs none {disk}",
        *("run", "--driver", "kernel", "-l", layer, "-v", USR, "--upper", f"{disk}/upper", "true"),
    )
    assert done.returncode == 125
    assert done.stderr.splitlines()[-1] == (
        f"overlaykit: upper {disk}/upper: its file system keeps no attributes for overlayfs (Operation not supported):"
        " choose an upper elsewhere, or use --driver fuse"
    )


@only_as("root")
def test_uppers_of_root_and_of_a_user_are_told_apart(user: TestUser) -> None:
    upper = user.directory("upper")
    os.setxattr(upper, "user.overlay.impure", b"y")
    with (
        pytest.raises(Error, match="mark files in different ways"),
        view(user, "kernel", upper=upper),
    ):
        pass


def test_too_many_layers_are_refused(user: TestUser) -> None:
    layer = system(user)
    with pytest.raises(KernelRefused, match="501 layers"), View([layer] * 501, driver="kernel"):
        pass


def test_the_options_of_an_older_kernel_make_the_same_mount(user: TestUser) -> None:
    """Before Linux 6.8 lowers are one list, and mount(2) takes it."""
    from overlaykit.namespace import users
    from overlaykit.views import kernel_mount

    layer = system(user)
    stage = user.directory("stage")

    def mount() -> None:
        users.become(_native.CLONE_NEWNS)
        _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
        lowers = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (layer, stage)]
        made = kernel_mount.mount_by_list(stage, lowers, {}, {"source": "view"}, ["userxattr"])
        with open(f"/proc/self/fd/{made}/file") as file:
            assert file.read() == "of the layer\n"

    assert users.errno_of(mount) == 0


# The choice


@pytest.fixture
def config(user: TestUser) -> str:
    return user.path("home", ".config", "overlaykit", "config.toml")


def configure(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def driver_of(user: TestUser, given: str | None = None) -> str:
    with view(user, given) as one:
        one.launch(["sleep", "1000"])
        (running,) = Registry().running()
        return running.about.driver


def test_the_caller_the_variable_and_the_configuration_choose_in_this_order(
    user: TestUser, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OVERLAYKIT_DRIVER")
    assert driver_of(user) == "fuse"
    configure(config, 'driver = "kernel"\n')
    assert driver_of(user) == "kernel"
    monkeypatch.setenv("OVERLAYKIT_DRIVER", "fuse")
    assert driver_of(user) == "fuse"
    assert driver_of(user, "auto") == "kernel"
    monkeypatch.setenv("OVERLAYKIT_DRIVER", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", user.path("elsewhere"))
    assert driver_of(user) == "fuse"
    configure(user.path("elsewhere", "overlaykit", "config.toml"), 'driver = "auto"\n')
    assert driver_of(user) == "kernel"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "drivers = 1\n",
            "there is no setting 'drivers', only 'driver': mend the file, or remove it",
        ),
        (
            "driver = 1\n",
            "driver is no text: give 'fuse', 'kernel' or 'auto': mend the file, or remove it",
        ),
        ('driver = "ext4"\n', "there is no driver 'ext4': give 'fuse', 'kernel' or 'auto'"),
        ("driver", "Expected '=' after a key"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(
    user: TestUser, config: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OVERLAYKIT_DRIVER")
    configure(config, text)
    line = user.refused("run", "true")
    assert line.startswith(f"{config}: ")
    assert message in line
    with pytest.raises((ConfigurationInvalid, DriverUnknown)), View():
        pass


def test_an_unknown_driver_is_refused(user: TestUser) -> None:
    refused = user.refused("run", "true", env=os.environ | {"OVERLAYKIT_DRIVER": "ext4"})
    assert (
        refused == "OVERLAYKIT_DRIVER: there is no driver 'ext4': give 'fuse', 'kernel' or 'auto'"
    )
    assert "--driver" in user.refused("run", "--driver", "ext4", "true")


@only_as("root")
@only_with(driver="fuse", server=False)
@pytest.mark.parametrize("driver", ["fuse", "kernel"])
def test_a_view_runs_in_a_chroot(user: TestUser, driver: str) -> None:
    root, upper = user.directory("root"), user.directory("upper")
    view = (command(), "run", "--driver", driver, "-l", user.small_system(), "-v", "/usr:/usr:ro")
    script = f'mount --rbind / {root} && exec chroot {root} "$@"'
    changed = ("--upper", upper, "--", "sh", "-c", "echo new >/file; cat /file")
    assert user.program(["unshare", "-m", "sh", "-c", script, "sh", *view, *changed]) == "new\n"
    assert os.path.exists(os.path.join(upper, "file"))
