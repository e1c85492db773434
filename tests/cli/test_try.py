"""`overlaykit try`: what a command changes reaches the host when its user says so, whole, and never else."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest

from overlaykit.cli import areas

from ..views.user import CHECKOUT, PATH, TestUser, command
from .terminals import Terminal

ASKED = "[r]un COMMAND? "

SCRIPT = (
    "echo two > changed; rm deleted; mkdir new; echo 1 > new/1; chmod 600 same; ln changed link"
)


@contextlib.contextmanager
def tried(user: TestUser) -> Iterator[str]:
    """A directory of the host, with files."""
    path = user.directory("w", changed="one\n", deleted="x\n", same="same\n")
    yield path
    if os.path.isdir(os.path.join(path, ".overlaykit-apply")):
        user.succeeds("apply", "--drop", path)


def state(directory: str) -> dict[str, tuple[object, ...]]:
    """All but access times of all files below a directory, and its own."""
    found: dict[str, tuple[object, ...]] = {}
    for above, directories, files in os.walk(directory):
        for name in (".", *directories, *files):
            path = os.path.join(above, name)
            st = os.lstat(path)
            times = st.st_mtime_ns, st.st_ctime_ns
            data = content(path) if os.path.isfile(path) else ""
            found[path] = (st.st_ino, st.st_mode, st.st_uid, st.st_gid, st.st_nlink, times, data)
    return found


def content(*names: str) -> str:
    with open(os.path.join(*names), encoding="utf-8") as file:
        return file.read()


def asked(user: TestUser, *arguments: str) -> Terminal:
    return Terminal(command(), "try", *arguments, env={"SHELL": "/bin/sh"})


def kept_views(user: TestUser) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [name for name in os.listdir(user.named_views) if not name.startswith(".")]
    return []


def test_yes_applies_and_undo_takes_it_back(user: TestUser) -> None:
    with tried(user) as path:
        before = state(path)
        done = user.overlaykit("try", "--yes", "-D", path, "--", "sh", "-c", f"{SCRIPT}; exit 3")
        assert done.returncode == 3, done
        assert done.stdout == ""
        assert "D  deleted" in done.stderr
        assert "3 added" in done.stderr
        assert content(path, "changed") == content(path, "link") == "two\n"
        assert os.path.samefile(os.path.join(path, "changed"), os.path.join(path, "link"))
        assert sorted(os.listdir(os.path.join(path, "new"))) == ["1"]
        assert not os.path.exists(os.path.join(path, "deleted"))
        assert os.stat(os.path.join(path, "same")).st_mode & 0o777 == 0o600
        assert kept_views(user) == []
        subprocess.run(["git", "init", "-q", path], check=True)
        status = ["git", "-C", path, "status", "--short", "--untracked-files=all"]
        assert "overlaykit" not in subprocess.check_output(status, text=True)
        shutil.rmtree(os.path.join(path, ".git"))
        user.succeeds("apply", "--undo", path)
        after = state(path)
        assert {one: found[-1] for one, found in after.items()} == {
            one: found[-1] for one, found in before.items()
        }


def test_what_was_applied_and_taken_back_is_applied_again(user: TestUser) -> None:
    with tried(user) as path:
        done = user.overlaykit("try", "--keep", "kept", "-D", path, "--", "sh", "-c", SCRIPT)
        assert done.returncode == 0, done
        for _ in range(2):
            user.succeeds("apply", "--keep", "kept")
            assert content(path, "changed") == "two\n"
            user.succeeds("apply", "--undo", path)
            assert content(path, "changed") == "one\n"
        user.write(os.path.join(path, "changed"), "three\n")
        done = user.overlaykit("apply", "kept")
        assert done.returncode != 0
        assert "changed" in done.stderr
        assert content(path, "changed") == "three\n"
        user.succeeds("rm", "kept")


def test_a_directory_of_which_only_the_times_change_is_left_as_it_was(user: TestUser) -> None:
    with tried(user) as path:
        names = os.listdir(path)
        done = user.overlaykit("try", "--yes", "-D", path, "--", "sh", "-c", "touch x; rm x")
        assert done.returncode == 0, done
        assert "nothing to apply" in done.stderr
        assert os.listdir(path) == names


def reported(user: TestUser, *arguments: str, status: int = 0) -> dict[str, Any]:
    """What `try --json` prints."""
    done = user.overlaykit("try", "--json", *arguments)
    assert done.returncode == status, done
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_program_is_told_what_became_of_the_changes(user: TestUser) -> None:
    with tried(user) as path:
        script = ("-D", path, "--", "sh", "-c", f"{SCRIPT}; echo said; exit 3")
        kinds = ["changed", "deleted", "added", "added", "added", "changed"]
        names = ["changed", "deleted", "link", "new", "new/1", "same"]
        kept = reported(user, "--keep", "k", *script, status=3)
        assert (kept["result"], kept["view"], kept["exit_status"]) == ("kept", "k", 3)
        changes = [(one["kind"], one["path"]) for one in kept["changes"]]
        assert sorted(changes, key=lambda one: one[1]) == [
            (kind, os.path.join(path, name)) for kind, name in zip(kinds, names, strict=True)
        ]
        discarded = reported(user, "--no", *script, status=3)
        assert (discarded["result"], discarded["view"]) == ("discarded", None)
        assert discarded["changes"] is not None
        applied = reported(user, "--yes", *script, status=3)
        assert (applied["result"], applied["view"], applied["undo"]) == ("applied", None, [path])
        written = [one["path"] for one in applied["outcome"]["written"]]
        assert sorted(written) == [os.path.join(path, name) for name in names]
        assert reported(user, "--yes", "-D", path, "--", "true")["result"] == "unchanged"
        user.succeeds("apply", "--undo", path)
        user.succeeds("rm", "k")


def test_a_program_is_told_of_conflicts_and_of_a_command_that_does_not_start(
    user: TestUser,
) -> None:
    with tried(user) as path:
        script = "echo view > changed; echo ready; read line"
        arguments = ("try", "--json", "--yes", "-D", path, "--", "sh", "-c", script)
        with user.start(*arguments, stderr=subprocess.PIPE) as running:
            assert running.stderr is not None
            assert running.stderr.readline() == "ready\n"
            user.write(os.path.join(path, "changed"), "host\n")
            found = json.loads(running.communicate("go\n")[0])
        assert running.returncode == 125
        assert found["result"] == "kept"
        (conflict,) = found["outcome"]["conflicts"]
        assert conflict["path"] == os.path.join(path, "changed")
        assert any(one.startswith("nothing is applied") for one in found["messages"])
        assert kept_views(user) == [found["view"]]
        user.succeeds("rm", found["view"])
        missing = reported(user, "--yes", "-D", path, "--", "/no/such", status=127)
        assert missing["result"] == "not started"


def test_a_program_has_to_say_what_becomes_of_the_changes(user: TestUser) -> None:
    done = user.overlaykit("try", "--json", "--", "true")
    assert done.returncode == 125
    assert "--yes, --no or --keep NAME" in done.stderr


def test_no_leaves_the_host_as_it_was(user: TestUser) -> None:
    with tried(user) as path:
        before = state(path)
        done = user.overlaykit("try", "--no", "-D", path, "--", "sh", "-c", SCRIPT)
        assert done.returncode == 0, done
        assert "discarded" in done.stderr
        assert state(path) == before
        assert kept_views(user) == []


def test_other_files_are_read_only_and_nothing_is_kept_of_no_changes(user: TestUser) -> None:
    with tried(user) as path:
        script = "echo x > /etc/made-by-try || echo x > /usr/made-by-try || exit 9"
        done = user.overlaykit("try", "-D", path, "--", "sh", "-c", script)
        assert done.returncode == 9, done
        assert done.stderr.count("Read-only file system") == 2
        assert "no changes" in done.stderr
        assert kept_views(user) == []


def test_without_a_terminal_changes_are_kept_and_the_second_of_two_tries_conflicts(
    user: TestUser,
) -> None:
    with tried(user) as path:
        before = state(path)
        done = user.overlaykit("try", "-D", path, "--", "sh", "-c", "echo first > changed")
        (first,) = kept_views(user)
        assert f"'overlaykit apply {first}' applies it" in done.stderr
        user.overlaykit("try", "--keep", "second", "-D", path, "--", "sh", "-c", SCRIPT)
        assert state(path) == before
        user.succeeds("apply", first)
        refused = user.overlaykit("apply", "second")
        assert refused.returncode == 1, refused
        assert f"{path}/changed: the layer's file has changed" in refused.stderr
        assert content(path, "changed") == "first\n"
        assert os.path.exists(os.path.join(path, "deleted"))
        user.succeeds("apply", "--theirs", "second")
        assert content(path, "changed") == "two\n"
        assert not os.path.exists(os.path.join(path, "deleted"))
        user.succeeds("rm", first, "second")


def test_ignored_paths_are_neither_listed_nor_applied(user: TestUser) -> None:
    with tried(user) as path:
        script = "mkdir -p node_modules/a src/log/deep; touch node_modules/a/b x.log src/log/deep/z src/y"
        globs = ("--ignore", "node_modules", "--ignore", "*.log", "--ignore", f"{path}/**/log/*")
        done = user.overlaykit("try", "--yes", *globs, "-D", path, "--", "sh", "-c", script)
        assert done.returncode == 0, done
        assert "node_modules" not in done.stderr
        assert sorted(os.listdir(path)) == [
            ".overlaykit-apply",
            "changed",
            "deleted",
            "same",
            "src",
        ]
        assert sorted(os.listdir(os.path.join(path, "src"))) == ["log", "y"]
        assert os.listdir(os.path.join(path, "src", "log")) == []


def test_globs_match_names_or_whole_paths() -> None:
    globs = [
        "*.o",
        "a[0-9]",
        "b[!x]?",
        "/home/*/c",
        "/x/**/d[",
        "/x[^]]y",
        "[[:upper:]]_[![:digit:]x]",
    ]
    ignored = areas.Ignored(globs)
    matched = {
        "/p/q.o/r": "/p/q.o",
        "/p/a7": "/p/a7",
        "/bay": "/bay",
        "/home/u/c/e": "/home/u/c",
        "/x/d[": "/x/d[",
        "/x/y/z/d[": "/x/y/z/d[",
        "/x[y": "/x[y",
        "/p/Q_y": "/p/Q_y",
    }
    assert {path: ignored.match(path) for path in matched} == matched
    for path in (
        "/p/q.oo",
        "/ax",
        "/bxy",
        "/b/yz",
        "/home/u/v/c",
        "/x/d",
        "/x]y",
        "/Q_7",
        "/q_y",
        "/Q_x",
    ):
        assert ignored.match(path) is None, path


@pytest.mark.parametrize("pattern", ["", "/"])
def test_a_glob_that_names_no_file_is_refused(user: TestUser, pattern: str) -> None:
    assert "--no applies nothing" in user.refused("try", "--ignore", pattern, "--", "true")


def test_a_long_summary_is_cut_but_for_what_is_deleted(user: TestUser) -> None:
    with tried(user) as path:
        script = (
            "for i in $(seq 10 60); do echo $i > added$i; rm held/$i; done;"
            "mv changed renamed; mkdir new; head -c 2000 /dev/zero > new/zeros; chmod u+s new/zeros"
        )
        user.directory("w/held", **{str(number): "" for number in range(10, 61)})
        done = user.overlaykit("try", "--no", "-D", path, "--", "sh", "-c", script)
        assert done.returncode == 0, done
        assert done.stderr.count("A  added") < 51
        assert done.stderr.count("D  ") >= 51
        assert "'l' lists all" in done.stderr
        assert "53 added (2.2 kB), 51 deleted, 1 renamed" in done.stderr
        assert "zeros  (mode 4644)" in done.stderr


def test_an_ignored_path_means_the_same_however_it_is_written(user: TestUser) -> None:
    with tried(user) as path:
        odd = os.path.join(path, "g[1]")
        os.mkdir(odd)
        globs = ("./a", "../g[[]1]/b", "c/*", "[z-a]", "x[d&&-]", ".hidden/")
        ignored = [argument for one in globs for argument in ("--ignore", one)]
        script = "mkdir c; touch a b c/c xd .hidden z"
        done = user.overlaykit(
            "try", "--yes", *ignored, "-D", ".", "--", "sh", "-c", script, cwd=odd
        )
        assert done.returncode == 0, done
        assert sorted(os.listdir(odd)) == [".overlaykit-apply", "c", "z"]
        assert os.listdir(os.path.join(odd, "c")) == []
        user.succeeds("apply", "--drop", odd)


def test_changes_are_kept_while_the_tried_directory_is_gone_or_another(user: TestUser) -> None:
    with tried(user) as path:
        script = "echo x > y; read line"
        for replaced in (False, True):
            running = user.start(
                *("try", "--yes", "--watch", "-D", path, "--", "sh", "-c", script),
                stderr=subprocess.PIPE,
            )
            with running:
                assert running.stderr is not None
                assert running.stderr.readline() == f"A  {path}/y\n"
                os.rename(path, f"{path}-gone")
                if replaced:
                    os.symlink(user.directory("victim"), path)
                assert running.stdin is not None
                running.stdin.write("\n")
                running.stdin.flush()
                assert f"{path}: the directory that was tried is gone" in running.stderr.read()
            assert running.returncode == 125
            if replaced:
                assert os.listdir(path) == []
                os.unlink(path)
            os.rename(f"{path}-gone", path)
            (name,) = kept_views(user)
            assert user.succeeds("diff", name) == f"A  {path}/y\n1 added\n"
            if replaced:
                user.succeeds("apply", name)
                assert content(path, "y") == "x\n"
            user.succeeds("rm", name)


def test_metadata_of_the_tried_directory_itself_are_applied(user: TestUser) -> None:
    with tried(user) as path:
        for mode in ("700", "711"):
            done = user.overlaykit("try", "--yes", "-D", path, "--", "chmod", mode, ".")
            assert done.returncode == 0, done
            assert f"{os.stat(path).st_mode & 0o777:o}" == mode
        user.overlaykit("try", "--keep", "late", "-D", path, "--", "chmod", "755", ".")
        os.chmod(path, 0o701)
        assert user.overlaykit("apply", "late").returncode == 1
        assert os.stat(path).st_mode & 0o777 == 0o701
        user.succeeds("rm", "late")


def test_what_a_command_that_was_cut_off_left_half_done_is_not_applied(user: TestUser) -> None:
    with tried(user) as path:
        before = state(path)
        script = "echo x > y; echo ready; while :; do sleep 0.1; done"
        with asked(user, "--yes", "-D", path, "--", "sh", "-c", script) as terminal:
            terminal.read_until("ready")
            terminal.type("\x03")
            assert terminal.finish() == 130
        caught = f"trap 'exit 0' INT TERM; {script}"
        with asked(user, "--yes", "-D", path, "--", "sh", "-c", caught) as terminal:
            terminal.read_until("ready")
            terminal.process.terminate()
            assert terminal.finish() == 125
        assert "cut off: nothing is applied" in terminal.output
        killed = user.overlaykit(
            "try", "--yes", "-D", path, "--", "sh", "-c", "rm same; kill -9 $$"
        )
        assert killed.returncode == 137, killed
        assert state(path) == before
        found = kept_views(user)
        assert len(found) == 3
        user.succeeds("rm", *found)


def test_an_answer_that_means_less_than_all_applies_and_discards_nothing(user: TestUser) -> None:
    with tried(user) as path, asked(user, "-D", path, "--", "sh", "-c", SCRIPT) as terminal:
        before = state(path)
        for answer in (f"a {path}/changed", "d deleted", "apply 1"):
            terminal.read_until(ASKED)
            terminal.type(f"{answer}\n")
        terminal.read_until(ASKED)
        assert state(path) == before
        terminal.type("k\n")
        assert terminal.finish() == 0
        (name,) = kept_views(user)
        user.succeeds("rm", name)


def test_conflicts_that_come_while_the_choice_is_made_are_named_first(user: TestUser) -> None:
    with tried(user) as path, asked(user, "-D", path, "--", "sh", "-c", SCRIPT) as terminal:
        terminal.read_until(ASKED)
        with open(os.path.join(path, "changed"), "w", encoding="utf-8") as file:
            file.write("host\n")
        terminal.type("a\n")
        terminal.read_until("[c]ancel? ")
        with open(os.path.join(path, "link"), "w", encoding="utf-8") as file:
            file.write("host\n")
        terminal.type("t\n")
        assert f"{path}/link: " in terminal.read_until("[c]ancel? ")
        assert content(path, "changed") == content(path, "link") == "host\n"
        terminal.type("t\n")
        assert terminal.finish() == 0
        assert content(path, "changed") == content(path, "link") == "two\n"


def test_texts_are_merged_before_the_rest_is_asked_for(user: TestUser) -> None:
    script = "echo first > new; cat same >> new; mv new text; echo last >> same; echo two > changed"
    with tried(user) as path, asked(user, "-D", path, "--", "sh", "-c", script) as terminal:
        terminal.read_until(ASKED)
        for name, text in {"same": "host\n" + content(path, "same"), "changed": "host\n"}.items():
            with open(os.path.join(path, name), "w", encoding="utf-8") as file:
                file.write(text)
        before = content(path, "same")
        terminal.type("a\n")
        assert "[m]erge texts" in terminal.read_until("[c]ancel? ")
        terminal.type("m\n")
        shown = terminal.read_until("[c]ancel? ")
        assert f"{path}/changed: the layer's file has changed: both have changed line 1" in shown
        assert "[m]erge" not in shown
        assert content(path, "same") == before
        terminal.type("t\n")
        assert terminal.finish() == 0
        assert content(path, "changed") == "two\n"
        assert content(path, "same") == before + "last\n"


def test_a_question_offers_some_a_shell_and_the_rest(user: TestUser) -> None:
    with tried(user) as path, asked(user, "-D", path, "--", "sh", "-c", SCRIPT) as terminal:
        terminal.read_until(ASKED)
        terminal.type("s\n")
        shown = terminal.read_until("none)? ")
        number = next(line for line in shown.splitlines() if "deleted" in line).split()[0]
        terminal.type(f"{number}\n")
        terminal.read_until(ASKED)
        assert not os.path.exists(os.path.join(path, "deleted"))
        assert content(path, "changed") == "one\n"
        terminal.type("sh\n")
        terminal.read_until("$ " if not user.is_root else "# ")
        terminal.type("echo shell > by-shell; exit\n")
        terminal.read_until(ASKED)
        terminal.type("a\n")
        assert terminal.finish() == 0
        assert content(path, "changed") == "two\n"
        assert content(path, "by-shell") == "shell\n"
        assert kept_views(user) == []


def test_each_answer_does_what_it_says(user: TestUser) -> None:
    with tried(user) as path:
        with asked(user, "-D", path, "--", "sh", "-c", SCRIPT) as terminal:
            for answer, shown in {
                "what": "discard the changes",
                "l": "deleted",
                "p": "+two",
                f"p {path}/changed": "-one",
                "r echo run > by-run; exit 5": "by-run",
                "s\n99\n1-0\n": "1-0: not in the list",
                f"s\n{path}/by-run": "applied",
            }.items():
                terminal.read_until(ASKED)
                terminal.type(f"{answer}\n")
                terminal.read_until(shown)
            terminal.read_until(ASKED)
            assert content(path, "by-run") == "run\n"
            with open(os.path.join(path, "changed"), "a", encoding="utf-8") as file:
                file.write("of the host\n")
            terminal.type("a\n")
            terminal.read_until(f"{path}/changed: the layer's file has changed")
            terminal.read_until("[c]ancel? ")
            terminal.type("c\n")
            terminal.read_until(ASKED)
            assert os.path.exists(os.path.join(path, "deleted"))
            terminal.type("a\no\n")
            assert terminal.finish() == 0
        assert content(path, "changed") == "one\nof the host\n"
        assert not os.path.exists(os.path.join(path, "deleted"))
        assert kept_views(user) == []


def test_changes_are_kept_by_a_name_or_discarded(user: TestUser) -> None:
    with tried(user) as path:
        before = state(path)
        for answer in ("k", "k mine", "d"):
            with asked(user, "-D", path, "--", "sh", "-c", SCRIPT) as terminal:
                terminal.read_until(ASKED)
                terminal.type(f"{answer}\n")
                assert terminal.finish() == 0
            assert state(path) == before
        first, second = sorted(kept_views(user))
        assert first == "mine"
        assert second.startswith("try-")
        done = user.overlaykit("try", "--keep", "mine", "-D", path, "true")
        assert done.returncode == 125, done
        user.succeeds("rm", first, second)


def test_an_interrupt_reaches_the_command_and_at_the_question_keeps(user: TestUser) -> None:
    with tried(user) as path:
        before = state(path)
        script = (
            "trap 'echo caught; exit 7' INT; echo x > y; echo ready; while :; do sleep 0.1; done"
        )
        with asked(user, "-D", path, "--", "sh", "-c", script) as terminal:
            terminal.read_until("ready")
            terminal.type("\x03")
            terminal.read_until("caught")
            terminal.read_until(ASKED)
            terminal.type("\x03")
            assert terminal.finish() == 7
        (name,) = kept_views(user)
        assert state(path) == before
        assert user.succeeds("diff", name) == f"A  {path}/y\n1 added\n"
        user.succeeds("rm", name)


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_the_question_keeps(user: TestUser, number: signal.Signals) -> None:
    with tried(user) as path:
        with asked(user, "-D", path, "--", "sh", "-c", "echo x > y") as terminal:
            terminal.read_until(ASKED)
            if number == signal.SIGQUIT:
                terminal.type("\x1c")
            else:
                terminal.process.send_signal(number)
            assert terminal.finish() == 0
        (name,) = kept_views(user)
        assert f"kept as {name}" in terminal.output
        user.succeeds("rm", name)


def test_a_signal_before_the_command_starts_leaves_no_view(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("overlaykit.cli.try")
    make_upper = module._make_upper

    def make_and_end(*arguments: object) -> None:
        make_upper(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(module, "_make_upper", make_and_end)
    with tried(user) as path:
        assert module.main(["--yes", "-D", path, "--", "sleep", "infinity"]) == 143
        assert kept_views(user) == []


def test_changes_are_applied_once_the_daemon_has_let_go_of_them(user: TestUser) -> None:
    module = importlib.import_module("overlaykit.cli.try")
    upper = user.directory("upper")
    view = types.SimpleNamespace(upper=upper)
    waiting = threading.Thread(target=module._Try(None, view, None)._wait_for_upper)
    fd = os.open(upper, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    waiting.start()
    inode = f":{os.stat(upper).st_ino} "
    while not any("->" in line and inode in line for line in content("/proc/locks").splitlines()):
        os.sched_yield()
    os.close(fd)
    waiting.join()


def test_a_try_that_is_killed_at_the_question_applies_and_drops_nothing(user: TestUser) -> None:
    with tried(user) as path:
        before = state(path)
        with asked(user, "-D", path, "--", "sh", "-c", "echo x > y") as terminal:
            terminal.read_until(ASKED)
            terminal.process.send_signal(signal.SIGKILL)
            terminal.finish()
        assert state(path) == before
        (name,) = kept_views(user)
        assert name in user.succeeds("ps", "-a")
        assert user.succeeds("diff", name) == f"A  {path}/y\n1 added\n"
        user.succeeds("rm", name)


def test_an_application_that_was_killed_before_its_first_step_is_finished(user: TestUser) -> None:
    with tried(user) as path:
        user.overlaykit("try", "--keep", "kept", "-D", path, "--", "sh", "-c", SCRIPT)
        killed = subprocess.run(
            [sys.executable, "-m", "overlaykit", "apply", "kept"],
            check=False,
            env={**os.environ, "OVERLAYKIT_FAULT": "apply.staged"},
        )
        assert killed.returncode == -signal.SIGKILL
        user.succeeds("apply", "--resume", path)
        assert sorted(os.listdir(path)) == [".overlaykit-apply", "changed", "link", "new", "same"]
        user.succeeds("rm", "kept")


def test_the_command_finds_the_users_surroundings_but_for_what_is_kept_from_it(
    user: TestUser,
) -> None:
    with tried(user) as path:
        other, secret = user.directory("other"), user.directory("secret", key="key\n")
        network = os.readlink("/proc/self/ns/net")
        script = f'echo "$MINE $(pwd) $(ls {secret}) $(readlink /proc/self/ns/net)"; echo 1 | tee here >{other}/there'
        on = ("--on", path, "--on", other)
        for options, shown in (([], "key"), (["--hide", secret, "--no-network"], "")):
            done = user.overlaykit(
                *("try", "--yes", *on, *options, "--", "sh", "-c", script),
                cwd=path,
                env={**os.environ, "MINE": "mine"},
            )
            assert done.returncode == 0, done
            said, _, found = done.stdout.rpartition(" ")
            assert said == f"mine {path} {shown}"
            assert (found == f"{network}\n") == (not options)
            for directory, name in ((other, "there"), (path, "here")):
                assert content(directory, name) == "1\n"
                user.succeeds("apply", "--undo", directory)
                assert not os.path.exists(os.path.join(directory, name))


def test_the_lines_of_the_readme_go_from_a_try_to_an_undo(user: TestUser) -> None:
    path = user.directory("w")
    text = content(CHECKOUT, "README.md").partition("Try a command on the host's files")[2]
    lines = [
        line[4:] for line in text.partition("Use packages")[0].splitlines() if line[:4] == "    "
    ]
    assert lines[0].startswith("overlaykit try -- apt-get install")  # tests/proofs/views
    environment = {**os.environ, "PATH": f"{os.path.dirname(command())}:{PATH}"}
    said = user.program(["sh", "-euc", "\n".join(lines[1:])], cwd=path, env=environment)
    for line in ("+/* new */", f"M  {path}/project/a.c", f"D  {path}/project/old.c"):
        assert line in said.splitlines()
    assert said.endswith("takes it back, --drop gives that up\na.c\n")
    assert sorted(os.listdir(os.path.join(path, "project"))) == ["a.c", "old.c"]
    assert kept_views(user) == []


def test_a_try_in_a_try_changes_the_host_when_both_are_applied(user: TestUser) -> None:
    with tried(user) as path:
        inner = (command(), "try", "--yes", "-D", path, "--", "sh", "-c", SCRIPT)
        before = state(path)
        done = user.overlaykit("try", "--keep", "outer", "-D", path, "--", *inner)
        assert done.returncode == 0, done
        assert state(path) == before
        user.succeeds("apply", "outer")
        assert content(path, "changed") == "two\n"
        assert not os.path.exists(os.path.join(path, "deleted"))
        user.succeeds("rm", "outer")


def test_exit_statuses_are_those_of_run(user: TestUser) -> None:
    with tried(user) as path:
        missing = user.overlaykit("try", "-D", path, "--", "/nowhere/nothing")
        not_executable = user.overlaykit("try", "-D", path, "--", os.path.join(path, "same"))
        killed = user.overlaykit("try", "-D", path, "--", "sh", "-c", "kill -9 $$")
        statuses = [one.returncode for one in (missing, not_executable, killed)]
        assert statuses == [127, 126, 137]
        assert "--on" in user.refused("try", "--on", "/nowhere", "--", "true")
        assert kept_views(user) == []


def test_watched_changes_are_printed_while_the_command_runs(user: TestUser) -> None:
    with tried(user) as path:
        script = "echo x > y; read line"
        arguments = ("try", "--no", "--watch", "-D", path, "--", "sh", "-c", script)
        running = user.start(*arguments, stderr=subprocess.PIPE)
        with running:
            assert running.stderr is not None
            assert running.stderr.readline() == f"A  {path}/y\n"
            assert running.stdin is not None
            running.stdin.write("\n")
            running.stdin.flush()
        assert running.returncode == 0


def test_an_ordinary_users_command_stays_that_user_and_writes_where_the_user_may(
    user: TestUser,
) -> None:
    if user.is_root:
        return
    script = f"id -u > {user.home}/id; touch /etc/x || touch /tmp/left; mktemp -u >/dev/null"
    done = user.overlaykit("try", "--yes", "--", "sh", "-c", script, cwd=user.home)
    assert done.returncode == 0, done
    assert "Read-only file system" in done.stderr
    assert "1 more in /tmp and /var/tmp, which are never applied" in done.stderr
    assert content(user.home, "id") == f"{os.getuid()}\n"
    assert not os.path.lexists("/tmp/left")
    (area,) = [
        line.split()[4] for line in done.stderr.splitlines() if "'overlaykit apply --undo" in line
    ]
    user.succeeds("apply", "--undo", area.rstrip("'"))
    assert not os.path.lexists(os.path.join(user.home, "id"))


def test_a_directory_that_views_have_for_themselves_is_refused(user: TestUser) -> None:
    for name in ("/dev/shm", "/proc"):
        message = user.refused("try", "--yes", "--on", name, "--", "true")
        assert message.startswith(f"--on {name}: a view has its own ")
    assert kept_views(user) == []
    assert areas.own_of_view("/run") == "/run"
    assert areas.own_of_view("/runs") is None


def test_what_was_tried_can_be_taken_back_once_its_view_is_removed(user: TestUser) -> None:
    with tried(user) as path:
        done = user.overlaykit("try", "--keep", "kept", "-D", path, "--", "rm", "deleted")
        assert done.returncode == 0, done
        user.succeeds("apply", "kept")
        user.succeeds("rm", "kept")
        assert "--force" in user.refused("apply", "--undo", path)
        user.succeeds("apply", "--undo", "--force", path)
        assert content(path, "deleted") == "x\n"
        assert kept_views(user) == []


def test_what_was_applied_of_a_view_is_taken_back_by_its_name(user: TestUser) -> None:
    with tried(user) as path:
        for name in ("first", "second"):
            script = f"echo {name} > {name}"
            done = user.overlaykit("try", "--keep", name, "-D", path, "--", "sh", "-c", script)
            assert done.returncode == 0, done
            user.succeeds("apply", name)
        assert "there is nothing to" in user.refused("apply", "--undo", "first")
        user.succeeds("apply", "--undo", "second")
        assert not os.path.exists(os.path.join(path, "second"))
        user.succeeds("apply", "--undo", "first")
        assert not os.path.exists(os.path.join(path, "first"))
        user.succeeds("apply", "second")
        user.succeeds("apply", "--drop", "second")
        assert content(path, "second") == "second\n"
        assert ".overlaykit-apply" not in os.listdir(path)
        for name in ("first", "second"):
            user.succeeds("rm", name)


def test_what_was_applied_to_several_directories_is_taken_back_in_all_or_none(
    user: TestUser,
) -> None:
    with tried(user) as path, contextlib.ExitStack() as dropped:
        other = user.directory("w2", "deep", f="1\n")
        dropped.callback(user.overlaykit, "apply", "--drop", other)
        script = f"echo view > {path}/changed; echo view > {other}/f"
        arguments = ("--on", path, "--on", other, "--", "sh", "-c", script)
        done = user.overlaykit("try", "--keep", "both", *arguments)
        assert done.returncode == 0, done
        user.succeeds("apply", "both")
        for edited, kept in ((f"{path}/changed", f"{other}/f"), (f"{other}/f", f"{path}/changed")):
            user.write(edited, "edited since\n")
            assert "changed since" in user.refused("apply", "--undo", "both")
            assert content(kept) == "view\n"
            user.write(edited, "view\n")
            user.succeeds("apply", "--undo", "--force", "both")
            assert (content(path, "changed"), content(other, "f")) == ("one\n", "1\n")
            user.succeeds("apply", "both")
        user.succeeds("rm", "both")
