"""What `-v` and `-p` mean, and that a mistake in them is one line that says how to write it."""

from __future__ import annotations

import os

import pytest

from overlaykit.namespace import BadBind, BadPort, Bind, Port, parse_bind, parse_port


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("/a:/b", Bind(source="/a", target="/b")),
        ("/a:/b:ro", Bind(source="/a", target="/b", read_only=True)),
        ("/a/:/b//c/../d/:rw", Bind(source="/a", target="/b/d")),
        ("a:/b", Bind(source=os.path.join(os.getcwd(), "a"), target="/b")),
    ],
)
def test_a_bind_is_read_as_it_is_written(text: str, bind: Bind) -> None:
    assert parse_bind(text) == bind


@pytest.mark.parametrize("text", ["", "/a", ":/b", "/a:b", "/a:", "/a:/b:rx", "/a:/b:ro:z", "/a:/"])
def test_a_wrong_bind_is_one_line_that_shows_the_form(text: str) -> None:
    with pytest.raises(BadBind) as caught:
        parse_bind(text)
    assert str(caught.value).startswith(f"-v {text}: ")
    assert "SOURCE:TARGET" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", Port(address="127.0.0.1", host=8080, view=80)),
        ("0:80", Port(host=0, view=80)),
        ("0.0.0.0:8080:80", Port(address="0.0.0.0", host=8080, view=80)),
        ("[::1]:8080:80", Port(address="::1", host=8080, view=80)),
    ],
)
def test_a_port_is_read_as_it_is_written(text: str, port: Port) -> None:
    assert parse_port(text) == port


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        ":80",
        "80:",
        "a:80",
        "80:0",
        "65536:80",
        "1:65536",
        "-1:80",
        "8:8/udp",
        ":8:8",
        "::1:8:8",
        "x:8:8",
    ],
)
def test_a_wrong_port_is_one_line_that_shows_the_form(text: str) -> None:
    with pytest.raises(BadPort) as caught:
        parse_port(text)
    assert str(caught.value).startswith(f"-p {text}: ")
    assert "HOST:PORT" in str(caught.value)
    assert "\n" not in str(caught.value)
