"""Profiles: run APP, up, down and ps --apps, with errors that name file, line and key."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ..ports import unused_port
from ..views.fixtures import in_matrix, only_as
from ..views.user import AS_ORDINARY, TestUser

SLEEP = 'command = "sleep 1000"'


@contextmanager
def project(user: TestUser, text: str, name: str = "project") -> Iterator[str]:
    """A directory with a profile, whose apps are removed at the end of the block."""
    path = user.directory(name, **{"overlaykit.toml": text})
    try:
        yield path
    finally:
        for one in json.loads(user.succeeds("ps", "-a", "--json")):
            user.overlaykit("rm", "-f", one["name"])


def rewrite(directory: str, text: str) -> None:
    with open(os.path.join(directory, "overlaykit.toml"), "w", encoding="utf-8") as file:
        file.write(text)


def states(user: TestUser, directory: str) -> dict[str, tuple[str, int | None, bool | None]]:
    found: list[dict[str, Any]] = json.loads(user.succeeds("ps", "--apps", "--json", cwd=directory))
    return {one["app"]: (one["state"], one["status"], one["ready"]) for one in found}


def fetched(user: TestUser, directory: str, app: str) -> str:
    """What the server of an app answers on the first port that it publishes."""
    found = json.loads(user.succeeds("ps", "--apps", "--json", cwd=directory))
    (ports,) = (one["ports"] for one in found if one["app"] == app)
    address, port, _ = ports[0].split(":")
    with urllib.request.urlopen(f"http://{address}:{port}/", timeout=30) as answer:
        return str(answer.read().decode())


@in_matrix
def test_nginx_starts_once_the_server_that_it_depends_on_answers(user: TestUser) -> None:
    served = user.directory("served", **{"index.html": "from python"})
    layer = '"host"' if user.has_host else f'"{user.small_system()}"'
    usr = "" if user.has_host else '"/usr:/usr:ro", '
    configuration = (
        "daemon off; pid /tmp/nginx.pid; error_log stderr; user root; events {}\n"
        "http { access_log off; server { listen 80; location / {\n"
        "  return 200 'from nginx'; } } }\n"
    )
    text = f"""
        [back]
        layers = [{layer}]
        command = ["python3", "-m", "http.server", "80", "--directory", "/srv"]
        volumes = [{usr}"./served:/srv:ro"]
        ports = "0:80"
        ready = {{ port = 80 }}

        [front]
        layers = [{layer}]
        volumes = [{usr}"nginx.conf:/tmp/nginx.conf:ro", "empty:/var/lib/nginx", "empty:/var/log/nginx"]
        depends-on = ["back"]
        command = "nginx -c /tmp/nginx.conf -e stderr"
        ports = ["0:80"]
        ready.port = 80
    """
    with project(user, text) as directory:
        os.rename(served, os.path.join(directory, "served"))
        os.mkdir(os.path.join(directory, "empty"))
        user.write(os.path.join(directory, "nginx.conf"), configuration)
        inside = os.path.join(directory, "served")
        assert user.succeeds("up", cwd=inside) == "back: started\nfront: started\n"
        assert states(user, directory) == {
            "back": ("running", None, True),
            "front": ("running", None, True),
        }
        assert fetched(user, directory, "back") == "from python"
        assert fetched(user, directory, "front") == "from nginx"
        assert user.succeeds("up", cwd=directory) == "back: running\nfront: running\n"
        assert user.succeeds("down", cwd=directory) == "front: stopped\nback: stopped\n"
        assert {state for state, _, _ in states(user, directory).values()} == {"stopped"}
        assert user.succeeds("down", cwd=directory) == ""


@pytest.fixture
def sleeper(user: TestUser) -> str:
    """Two apps of which one waits for a file of the other."""
    return f"""
        [base]
        {SLEEP}
        ready = {{ file = "/tmp/in-made" }}
        [other]
        depends_on = "base"
        command = ["sleep", "1000"]
    """


@only_as("ordinary user")
def test_an_app_is_ready_with_a_file_or_a_command_in_its_view(user: TestUser, sleeper: str) -> None:
    with project(user, sleeper) as directory:
        with user.start("up", cwd=directory) as up:
            assert up.stdout is not None
            assert up.stdout.readline() == "base: started\n"
            assert states(user, directory)["base"] == ("running", None, False)
            assert states(user, directory)["other"] == ("absent", None, None)
            user.succeeds("exec", "base", "touch", "/tmp/in-made")
            assert up.stdout.read() == "other: started\n"
        assert up.returncode == 0
        rewrite(directory, f'[base]\n{SLEEP}\nready = {{ command = "test -e /tmp/in-made" }}')
        assert states(user, directory) == {"base": ("running", None, True)}
        user.succeeds("exec", "base", "rm", "/tmp/in-made")
        assert states(user, directory) == {"base": ("running", None, False)}
        table = user.succeeds("ps", "--apps", cwd=directory).splitlines()
        assert "running, not ready" in table[1]


def test_a_listener_of_the_host_is_none_of_a_view_in_its_network(user: TestUser) -> None:
    port = unused_port()
    with socket.create_server(("127.0.0.1", port)) as of_host:
        listens = f"network = 'host'\nready = {{ port = {port}, timeout = 0.2 }}"
        with project(user, f"[app]\n{SLEEP}\n{listens}") as directory:
            said = user.overlaykit("up", cwd=directory).stderr
            assert f"nothing listens on its port {port}/tcp" in said
            of_host.close()
            server = f"command = 'python3 -m http.server --bind 127.0.0.1 {port}'"
            rewrite(directory, f"[app]\n{server}\n{listens.replace('0.2', '60')}")
            assert user.succeeds("up", cwd=directory).startswith("app: ")


@only_as("ordinary user")
def test_what_is_not_ready_in_time_is_named_and_what_was_started_is_stopped(
    user: TestUser,
) -> None:
    text = f"""
        [first]
        {SLEEP}
        [late]
        {SLEEP}
        depends-on = ["first"]
        ready = {{ port = 4321, timeout = 0.2 }}
        [last]
        {SLEEP}
        depends-on = ["late"]
    """
    with project(user, text) as directory:
        done = user.overlaykit("up", cwd=directory)
        assert (done.returncode, done.stdout) == (125, "first: started\nlate: started\n")
        assert done.stderr == (
            "overlaykit: late: not ready within 0.2 seconds: nothing listens on its port 4321/tcp: 'overlaykit logs"
            " late' shows what it said\n"
        )
        found = states(user, directory)
        assert found["first"][0] == found["late"][0] == "stopped"
        assert found["last"][0] == "absent"
        for ready in (
            'file = "/nowhere"',
            "command = ['false']",
            "command = 'sleep 1000'",
            "port = '4321/udp'",
        ):
            rewrite(directory, f"[late]\n{SLEEP}\nready = {{ {ready}, timeout = 0.1 }}")
            assert (
                "late: not ready within 0.1 seconds" in user.overlaykit("up", cwd=directory).stderr
            )
        rewrite(directory, "[late]\ncommand = 'true'\nready.port = 4321")
        assert "late: it ended before it was ready" in user.overlaykit("up", cwd=directory).stderr


@only_as("ordinary user")
def test_what_cannot_be_started_is_named_and_what_was_started_is_stopped(user: TestUser) -> None:
    text = f"[first]\n{SLEEP}\n[second]\ncommand = 'no-such-command'\ndepends-on = ['first']"
    with project(user, text) as directory:
        done = user.overlaykit("up", cwd=directory)
        assert (done.returncode, done.stdout) == (127, "first: started\n")
        assert done.stderr.startswith(
            "overlaykit: second: not started: no-such-command: no such command"
        )
        assert states(user, directory) == {
            "first": ("stopped", 128 + signal.SIGTERM, None),
            "second": ("absent", None, None),
        }


@only_as("ordinary user")
def test_up_that_is_interrupted_stops_what_it_started(user: TestUser, sleeper: str) -> None:
    with project(user, sleeper) as directory:
        for number in (signal.SIGINT, signal.SIGTERM):
            with user.start("up", cwd=directory) as up:
                assert up.stdout is not None
                assert up.stdout.readline() == "base: started\n"
                up.send_signal(number)
                up.wait()
            assert up.returncode in (-number, 128 + number)
            assert states(user, directory)["base"][0] == "stopped"


@only_as("ordinary user")
def test_a_changed_app_is_started_again_with_what_it_wrote(user: TestUser) -> None:
    with project(user, f"[app]\n{SLEEP}\nenv.STAGE = 'one'") as directory:
        user.succeeds("up", cwd=directory)
        user.succeeds("exec", "app", "sh", "-c", "echo kept > /tmp/in-kept")
        text = f"[app]\n{SLEEP}\nenv = {{ STAGE = 'two', NUMBER = 2 }}\n"
        rewrite(directory, text)
        assert user.succeeds("up", cwd=directory) == "app: started again\n"
        assert user.succeeds("exec", "app", "cat", "/tmp/in-kept") == "kept\n"
        assert user.succeeds("up", "app", cwd=directory) == "app: running\n"
        rewrite(directory, text + "rm = true")
        assert user.succeeds("up", cwd=directory) == "app: started again\n"
        assert user.succeeds("down", cwd=directory) == "app: stopped\n"
        assert states(user, directory) == {"app": ("absent", None, None)}


@only_as("ordinary user")
def test_an_app_is_started_again_as_its_profile_says(user: TestUser) -> None:
    command = "command = ['sh', '-c', 'echo line >> /tmp/in-lines; cat /tmp/in-lines; exit 3']"
    with project(user, f"[app]\n{command}\nrestart = 'on-failure:1'\n") as directory:
        user.succeeds("up", cwd=directory)
        assert user.succeeds("wait", "app") == "3\n"
        assert user.succeeds("logs", "app") == "line\n" * (1 + 2)
        rewrite(directory, f"[app]\n{SLEEP}\nrestart = 'always'\n")
        user.succeeds("up", cwd=directory)
        user.succeeds("down", cwd=directory)
        user.wait_for_descendants()
        assert states(user, directory) == {"app": ("stopped", 128 + signal.SIGTERM, None)}
        for line, said in (
            ("restart = 'sometimes'", "--restart sometimes: give no, on-failure"),
            ("restart = 'always'\nrm = true", "--restart always: --rm removes the view at its end"),
        ):
            rewrite(directory, f"[app]\n{SLEEP}\n{line}\n")
            assert said in user.refused("up", cwd=directory)


@only_as("ordinary user")
def test_down_stops_what_the_profile_no_longer_has(user: TestUser) -> None:
    with project(user, f"[one]\n{SLEEP}\n[two]\n{SLEEP}\nname = 'second'") as directory:
        done = json.loads(user.succeeds("up", "--json", cwd=directory))
        assert done == [
            {"app": "one", "view": "one", "done": "started"},
            {"app": "two", "view": "second", "done": "started"},
        ]
        assert user.succeeds("down", "one", cwd=directory) == "one: stopped\n"
        rewrite(directory, f"[one]\n{SLEEP}")
        assert user.succeeds("down", "--rm", cwd=directory) == "two: removed\none: removed\n"
        assert json.loads(user.succeeds("ps", "-a", "--json")) == []


@only_as("ordinary user")
def test_a_view_of_another_is_not_taken_for_an_app(user: TestUser) -> None:
    with project(user, f"[app]\n{SLEEP}") as directory:
        user.succeeds("create", "--name", "app", "true")
        said = user.refused("up", cwd=directory)
        assert said.startswith("app: there is a view of that name that is not the app of ")
        assert user.succeeds("down", cwd=directory) == ""
        assert states(user, directory) == {"app": ("absent", None, None)}


@only_as("ordinary user")
def test_two_at_once_start_an_app_once(user: TestUser) -> None:
    with project(user, f"[app]\n{SLEEP}") as directory:
        both = [user.start("up", cwd=directory) for _ in range(2)]
        assert sorted(one.communicate()[0] for one in both) == ["app: running\n", "app: started\n"]
        assert [one.returncode for one in both] == [0, 0]


@in_matrix
def test_an_app_runs_with_its_options_and_those_that_are_given(user: TestUser) -> None:
    layers = "" if user.has_host else f"layers = ['{user.small_system()}']\n"
    volumes = "" if user.has_host else "'/usr:/usr:ro', "
    text = f"""
        [app]
        {layers}
        volumes = [{volumes}"./shared:/mnt"]
        env = {{ A = "profile", B = "profile" }}
        workdir = "/mnt"
        command = ["sh", "-c", 'echo "$A $B $(cat file)"']
    """
    with project(user, text) as directory:
        inner = os.path.join(directory, "shared")
        os.mkdir(inner)
        user.write(os.path.join(inner, "file"), "contents")
        # With -l: the helper adds no layer.
        assert user.program([*run(), "app"], cwd=inner) == "profile profile contents\n"
        assert user.program([*run(), "-eA=given", "app"], cwd=inner) == "given profile contents\n"
        assert user.program([*run(), "app", "pwd"], cwd=inner) == "/mnt\n"
        file = ("-f", os.path.join(directory, "overlaykit.toml"))
        assert user.program([*run(), *file, "app", "cat", "file"], cwd="/") == "contents"
        for dashes in (["--"], ["-eA=B", "--"]):
            done = user.overlaykit("run", "-l", user.small_system(), *dashes, "app", cwd=inner)
            assert done.returncode == 127


def run() -> list[str]:
    from ..views.user import command

    return [command(), "run"]


@only_as("ordinary user")
def test_a_command_that_is_no_app_runs_as_without_a_profile(user: TestUser) -> None:
    with project(user, "[app]\ncommand = 'true'  # echo, cat") as directory:
        assert user.succeeds("run", "echo", "said", cwd=directory) == "said\n"
        assert user.succeeds("run", "/bin/echo", "said", cwd=directory) == "said\n"
        assert user.succeeds("run", "--entrypoint", "echo", "app", cwd=directory) == "app\n"
        file = ("-f", os.path.join(directory, "overlaykit.toml"))
        said = user.refused("run", *file, "ap")
        assert said.startswith("ap: there is no app of that name in ")
        assert said.endswith(": is 'app' meant?")
        assert user.refused("run", *file).startswith("run: no command given")
        assert user.refused("run", *file, "--entrypoint", "x").startswith("run: no app given")
    missing = user.refused("up", "-f", "missing.toml", cwd=directory)
    assert missing.startswith(f"{directory}/missing.toml: No such file or directory")


@only_as("ordinary user")
def test_run_starts_what_the_app_depends_on(user: TestUser) -> None:
    text = f"[base]\n{SLEEP}\n[app]\ncommand = 'echo said'\ndepends-on = 'base'"
    with project(user, text) as directory:
        assert user.succeeds("run", "app", cwd=directory) == "said\n"
        assert states(user, directory)["base"][0] == "running"


@only_as("ordinary user")
def test_the_profile_of_the_user_is_used_where_no_project_has_one(user: TestUser) -> None:
    assert "there is no overlaykit.toml here, above, or in " in user.refused("up", cwd=user.home)
    path = user.directory("home", ".config", "overlaykit", **{"overlaykit.toml": f"[app]\n{SLEEP}"})
    assert states(user, user.home) == {"app": ("absent", None, None)}
    environment = {**os.environ, "XDG_CONFIG_HOME": user.directory("elsewhere")}
    assert f"{user.path('elsewhere')}/overlaykit" in user.refused("up", cwd="/", env=environment)
    with project(user, "[mine]\ncommand = 'true'") as directory:
        assert list(states(user, directory)) == ["mine"]
    assert os.path.isdir(path)


@only_as("root")
def test_a_profile_of_another_user_is_run_only_if_it_is_named(user: TestUser) -> None:
    with project(user, "[app]\ncommand = 'echo said'") as directory:
        path = os.path.join(directory, "overlaykit.toml")
        os.chown(path, 1000, 1000)
        for given in (("up",), ("ps", "--apps"), ("run", "app")):
            said = user.refused(*given, cwd=directory)
            assert said.startswith(f"{path} belongs to another user")
        assert user.succeeds("run", "echo", "other", cwd=directory) == "other\n"
        assert user.succeeds("run", "-f", path, "app", cwd=directory) == "said\n"
    assert AS_ORDINARY


MISTAKES = [
    ("[app]\ncommand = \n", 2, "no TOML: Invalid value"),
    ("[app]\ncommand = 'x", 2, "no TOML: Expected "),
    ("[app]\nprots = ['1:2']", 2, "app.prots: there is no such key: is 'ports' meant?"),
    ("[app]\nmemory = '1g'", 2, "app.memory: there is no such key: is 'limits.memory' meant?"),
    ("[app]\nzzz = 1", 2, "app.zzz: there is no such key"),
    (
        "[app]\n[app.limits]\nmemmory = '1g'",
        3,
        "app.limits.memmory: there is no such key: is 'limits.memory' meant?",
    ),
    ("[app]\nlimits = 3", 2, "app.limits: give a table, not an integer"),
    ("[app]\nlimits.cpus = 'many'", 2, "app.limits.cpus: give a number, not a string"),
    ("[app]\n\nports = [\n'1:2',\n3]", 5, "app.ports[1]: give a string, not an integer"),
    ("[app]\nports = 8080", 2, "app.ports: give a string or an array, not an integer"),
    ("[app]\ntty = 'yes'", 2, "app.tty: give a boolean, not a string"),
    ("[app]\nenv = { A = true }", 2, "app.env: give an integer or a number or a string, not"),
    ("app = 1", 1, "app: there are only tables, one for each app: [NAME]"),
    ("\n['a b']", 2, "a b: name an app with up to 63 letters"),
    ("[app]\nname = 'a b'", 2, "app.name: 'a b' is no name of a view"),
    ("[app]\ncap_add = 'x'\ncap-add = 'y'", 3, "app.cap-add: 'cap-add' is given twice"),
    ("[app]\ncommand = 'a \"b'", 2, "app.command: no closing quotation"),
    ("[app]\nready = {}", 2, "app.ready: give one of 'port', 'file' and 'command'"),
    ("[app]\nready.port = 1\nready.file = '/x'", 2, "app.ready: give one of"),
    ("[app]\n[app.ready]\nprt = 1", 3, "app.ready.prt: there is no such key: is 'port' meant?"),
    ("[app]\nready = { port = 0 }", 2, "app.ready.port: give 1 to 65535"),
    ("[app]\nready = { port = 'http' }", 2, "app.ready.port: give 1 to 65535"),
    ("[app]\nready = { file = 'x' }", 2, "app.ready.file: give a path in the view, from /"),
    (
        "[app]\nready.timeout = 0\nready.port = 1",
        2,
        "app.ready.timeout: give a number of seconds",
    ),
    (
        "[app]\n[web]\ndepends_on = ['app',\n 'ap']",
        4,
        "web.depends-on[1]: there is no app 'ap': is 'app' meant?",
    ),
    (
        "[a]\ndepends-on = 'b'\n[b]\ndepends-on = 'c'\n[c]\ndepends-on = 'a'",
        None,
        "apps wait for one another: ",
    ),
    # What the parser of the option says.
    ("[app]\ncommand = 'x'\n\nports = ['1:2', 'x']", 4, "app.ports: -p x: "),
    (
        "[app]\ncommand = 'x'\nstop-timeout = -1",
        3,
        "app.stop-timeout: --stop-timeout -1: give 0 to",
    ),
    ("[app]\ncommand = 'x'\nlimits.memory = '1q'", 3, "app.limits.memory: --memory 1q: "),
    ("[app]\ncommand = 'x'\nenv = ['=A']", 3, "app.env: -e =A: give "),
    ("[app]\ncommand = 'x'\nvolumes = ['a']", 3, "app.volumes: -v "),
    ("[app]\ncommand = 'x'\nulimits.nofile = 'x'", 3, "app.ulimits: "),
    ("[app]\ncommand = 'x'\nmounts = 'type=bind,\"'", 3, "app.mounts: --mount "),
    ("[app]\nlayers = ['host']", 1, "app: it has no 'command'"),
]


@only_as("ordinary user")
@pytest.mark.parametrize(("text", "line", "what"), MISTAKES)
@pytest.mark.one_in(3)
def test_a_mistake_is_named_with_its_file_line_and_key(
    user: TestUser, text: str, line: int | None, what: str
) -> None:
    directory = user.directory("project", **{"overlaykit.toml": text})
    said = user.refused("up", cwd=directory)
    place, _, rest = said.removeprefix(f"{directory}/overlaykit.toml:").partition(": ")
    assert what in rest
    assert line in (None, int(place))


@only_as("ordinary user")
def test_a_profile_that_is_no_text_is_named_with_its_line(user: TestUser) -> None:
    directory = user.directory("project", **{"overlaykit.toml": b"[app]\ncommand = '\xff'"})
    said = user.refused("up", cwd=directory)
    assert said == f"{directory}/overlaykit.toml:2: this is not UTF-8"
    with open(os.path.join(directory, "overlaykit.toml"), "w") as file:
        file.write("a = " + "[" * 100000)
    assert "overlaykit.toml:1: no TOML: " in user.refused("up", cwd=directory)
    os.chmod(os.path.join(directory, "overlaykit.toml"), 0)
    assert "overlaykit.toml: Permission denied" in user.refused("up", cwd=directory)
    assert "--apps lists all apps" in user.refused("ps", "--apps", "-a", cwd=directory)


@only_as("ordinary user")
def test_a_live_list_goes_on_until_it_is_interrupted(user: TestUser) -> None:
    with project(user, f"[app]\n{SLEEP}") as directory:
        with user.start("ps", "--apps", "--watch", cwd=directory) as watch:
            assert watch.stdout is not None
            watch.stdout.readline()
            assert "absent" in watch.stdout.readline()
            user.succeeds("up", cwd=directory)
            while "running" not in watch.stdout.readline():
                pass
            watch.send_signal(signal.SIGINT)
            watch.stdout.read()
        assert watch.returncode == 130
