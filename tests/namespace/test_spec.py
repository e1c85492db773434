"""`-v`, `-p` and the launch spec: what they mean, and errors that name the mistake in one line."""

from __future__ import annotations

import os
from typing import Any

import pytest

from overlaykit.namespace import (
    BadBind,
    BadMount,
    BadPort,
    Bind,
    LaunchSpec,
    Port,
    TargetTwice,
    parse_bind,
    parse_mount,
    parse_ports,
)

EMPTY = "''"


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("/a:/b", Bind(source="/a", target="/b")),
        ("/a:/b:ro", Bind(source="/a", target="/b", read_only=True)),
        ("/a/:/b//c/../d/:rw", Bind(source="/a", target="/b/d")),
        ("/a:/b:z,rw", Bind(source="/a", target="/b")),
        (
            "/a:/b:ro,noexec,nosuid,dev",
            Bind(
                source="/a",
                target="/b",
                read_only=True,
                attributes=frozenset({"noexec", "nosuid"}),
                cleared=frozenset({"nodev"}),
            ),
        ),
        ("/a:/b:rslave", Bind(source="/a", target="/b", propagation="slave")),
        ("/a:/b:shared", Bind(source="/a", target="/b", propagation="shared")),
        ("a:/b", Bind(source=os.path.join(os.getcwd(), "a"), target="/b")),
    ],
)
def test_a_bind_is_read_as_it_is_written(text: str, bind: Bind) -> None:
    assert parse_bind(text) == bind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/a",
        ":/b",
        "/a:b",
        "/a:",
        "/a:/b:rx",
        "/a:/b:ro:z",
        "/a:/",
        "/a:/b:exec,noexec",
        "/a:/b:rw,ro",
    ],
)
def test_a_wrong_bind_is_one_line_that_shows_the_form(text: str) -> None:
    with pytest.raises(BadBind) as caught:
        parse_bind(text)
    assert str(caught.value).startswith(f"-v {text or EMPTY}: ")
    assert "SOURCE:TARGET" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("type=bind,src=/a,dst=/b", Bind(source="/a", target="/b")),
        ("type=bind,source=/a,target=/b,ro", Bind(source="/a", target="/b", read_only=True)),
        ("dest=/b/,readonly=true,type=bind,src=/a", Bind(source="/a", target="/b", read_only=True)),
        ("type=bind,src=/a,destination=/b,ro=false", Bind(source="/a", target="/b")),
        ("type=bind,src=/a,dst=/b,rw", Bind(source="/a", target="/b")),
        ('type=bind,"src=/a,""b""",dst=/c:d', Bind(source='/a,"b"', target="/c:d")),
        (
            "type=bind,src=/a,dst=/b,noexec,bind-propagation=rslave",
            Bind(source="/a", target="/b", attributes=frozenset({"noexec"}), propagation="slave"),
        ),
        ("type=bind,src=/a=b,dst=/c,bind-propagation=rprivate", Bind(source="/a=b", target="/c")),
    ],
)
def test_a_mount_is_read_as_it_is_written(text: str, bind: Bind) -> None:
    assert parse_mount(text) == bind


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "type is missing"),
        ("type=bind,src=/a", "target is missing"),
        ("type=bind,dst=/a", "source is missing"),
        ("src=/a,dst=/b", "type is missing"),
        ("type=tmpfs,dst=/b", "'type=tmpfs'"),
        ("type=bind,src=/a,dst=/b,ro=maybe", "'ro=maybe'"),
        ("type=bind,src=/a,dst=/b,bind-propagation=up", "'bind-propagation=up'"),
        ("type=bind,src=/a,dst=/b,relabel=shared", "'relabel=shared'"),
        ('type=bind,"src=/a,dst=/b', "quotes"),
        ("type=bind,src=/a,dst=b", "'b' is not absolute"),
        ("type=bind,src=/a,dst=/", "root"),
        ("type=bind,src=/a,dst=/proc", "/proc"),
    ],
)
def test_a_wrong_mount_is_one_line_that_shows_the_form(text: str, named: str) -> None:
    with pytest.raises(BadMount) as caught:
        parse_mount(text)
    assert str(caught.value).startswith(f"--mount {text or EMPTY}: ")
    assert named in str(caught.value)
    assert "type=bind,src=SOURCE,dst=TARGET" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", Port(address="127.0.0.1", host=8080, view=80)),
        ("0:80", Port(host=0, view=80)),
        ("0.0.0.0:8080:80", Port(address="0.0.0.0", host=8080, view=80)),
        ("[::1]:8080:80", Port(address="::1", host=8080, view=80)),
        ("8080:80/tcp", Port(host=8080, view=80)),
        ("80", Port(host=0, view=80)),
        (":80", Port(host=0, view=80)),
        ("127.0.0.1::80/udp", Port(host=0, view=80, protocol="udp")),
        ("[::]:80", Port(address="::", host=0, view=80)),
    ],
)
def test_a_port_is_read_as_it_is_written(text: str, port: Port) -> None:
    assert parse_ports(text) == (port,)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("8000-8002:9000-9002", [(8000, 9000), (8001, 9001), (8002, 9002)]),
        ("8000-8000:9000", [(8000, 9000)]),
        ("9000-9001", [(0, 9000), (0, 9001)]),
        ("0:9000-9001", [(0, 9000), (0, 9001)]),
    ],
)
def test_a_range_is_one_port_for_each_number(text: str, pairs: list[tuple[int, int]]) -> None:
    found = parse_ports(f"[::1]:{text}/udp")
    assert [(port.host, port.view) for port in found] == pairs
    assert {(port.address, port.protocol) for port in found} == {("::1", "udp")}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80:",
        ":",
        "-",
        "a:80",
        "80:0",
        "65536:80",
        "1:65536",
        "-1:80",
        "8:8/sctp",
        ":8:8",
        "::1:8:8",
        "x:8:8",
    ],
)
def test_a_wrong_port_is_one_line_that_shows_the_form(text: str) -> None:
    with pytest.raises(BadPort) as caught:
        parse_ports(text)
    assert str(caught.value).startswith(f"-p {text or EMPTY}: ")
    assert "\n" not in str(caught.value)
    assert "[HOST:]PORT" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("80:80/sctp", "'sctp' is neither tcp nor udp"),
        ("80/", "'' is neither tcp nor udp"),
        ("8000-8002:80-81", "3 of the host's ports are not 2 of the view's"),
        ("8000-8001:80", "2 of the host's ports are not 1 of the view's"),
        ("8001-8000:80-81", "'8001-8000' ends before it begins"),
        ("0-1:80-81", "'0-1' begins with 0"),
        ("1-2000:1-2000", "'1-2000' has more than 500 ports"),
        ("65535-65536:1-2", "'65536' is not a port"),
        ("8000-:80", "'' is not a port"),
    ],
)
def test_a_port_that_is_refused_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(BadPort, match=reason):
        parse_ports(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("argv", ()),
        ("argv", ("true", "a\0b")),
        ("env", (b"A=\0",)),
        ("cwd", "relative"),
        ("hostname", ""),
        ("hostname", "a" * 65),
        ("network", "bridge"),
        ("descriptors", (-1,)),
        ("redirected", {3: 4}),
        ("redirected", {1: 2}),
        ("umask", 0o1000),
    ],
)
def test_a_launch_that_cannot_work_is_refused_with_the_name_of_the_field(
    field: str, value: object
) -> None:
    fields: dict[str, Any] = {"argv": ("true",), "env": (), field: value}
    with pytest.raises(ValueError, match=f"^{field}: "):
        LaunchSpec(**fields)


def test_two_paths_at_one_target_are_refused_before_anything_starts() -> None:
    binds = (Bind(source="/a", target="/c"), Bind(source="/b", target="/c"))
    with pytest.raises(TargetTwice):
        LaunchSpec(argv=("true",), env=(), binds=binds)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("address", {"address": "localhost", "host": 80, "view": 80}),
        ("host", {"host": -1, "view": 80}),
        ("view", {"host": 0, "view": 0}),
    ],
)
def test_a_port_that_cannot_exist_is_refused_with_the_name_of_the_field(
    field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        Port(**fields)


@pytest.mark.parametrize("field", ["source", "target"])
def test_a_bind_with_a_relative_path_is_refused_with_the_name_of_the_field(field: str) -> None:
    fields: dict[str, Any] = {"source": "/a", "target": "/b", field: "relative"}
    with pytest.raises(ValueError, match=f"^{field}: "):
        Bind(**fields)
