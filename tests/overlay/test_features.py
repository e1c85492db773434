"""The record of the features that wrote an upper, by which a driver that cannot show them refuses it."""

from __future__ import annotations

import errno
import os
from collections.abc import Set
from typing import Final

import pytest

from overlaykit.overlay import features, overrides
from overlaykit.overlay.disk import Form
from overlaykit.overlay.stack import MergeOptions
from overlaykit.overlay.uppers import find_features

from ..posix.table import Dir, File, Layer
from .deep import DEEP_PATH, make_deep
from .stack import Stack
from .view import refused

LOWER: Final[Layer] = {
    "tree/file": File(b"x"),
    "other/file": File(),
    "gone": File(),
    "empty": Dir(),
}


def recorded(stack: Stack) -> Set[str] | None:
    return features.read(os.fsencode(stack.upper), f"{stack.prefix}.overlay.".encode())


def found(stack: Stack) -> Set[str]:
    """What a search of the upper finds."""
    upper, work = (os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (stack.upper, stack.work))
    try:
        return find_features(upper, work, f"{stack.prefix}.overlay.".encode())
    finally:
        os.close(upper)
        os.close(work)


def test_a_new_upper_has_a_record_that_is_empty_after_plain_changes(stack: Stack) -> None:
    stack.add(LOWER)
    with stack.open() as view:
        view.write("tree/file", b"y")
        view.unlink("gone")
        view.mkdir("new")
        view.rename("new", "elsewhere")
        assert view.xattrs("") == {}
    assert recorded(stack) == found(stack) == frozenset()


def test_a_renamed_directory_of_a_lower_is_recorded_once(stack: Stack) -> None:
    stack.add(LOWER)
    with stack.open(as_kernel=False) as view:
        view.rename("tree", "branch")
        assert recorded(stack) == {features.REDIRECT}
        # A further rename makes no call for the record.
        os.removexattr(stack.upper, stack.marker("features"))
        view.rename("other", "another")
        assert recorded(stack) is None
    assert found(stack) == {features.REDIRECT}


def test_a_feature_is_recorded_before_it_is_used(stack: Stack) -> None:
    """The first redirect cannot be stored: the record names too much, never too little."""
    os.close(make_deep(stack.add({"to": Dir()})))
    with stack.open(as_kernel=False) as view:
        with refused(errno.EXDEV):
            view.rename(DEEP_PATH, "to/d")
        assert recorded(stack) == {features.REDIRECT}


def test_a_changed_hard_link_of_a_lower_is_recorded(stack: Stack) -> None:
    lower = stack.add(LOWER)
    os.link(f"{lower}/gone", f"{lower}/same")
    with stack.open(as_kernel=False) as view:
        view.write("gone", b"changed")
        assert recorded(stack) == {features.INDEX}
    assert found(stack) == {features.INDEX}


@pytest.mark.parametrize(
    ("form", "feature"), [("xattr", features.WHITEOUT_XATTR), ("aufs", features.WHITEOUT_AUFS)]
)
def test_the_form_of_whiteouts_is_recorded(stack: Stack, form: Form, feature: str) -> None:
    stack.add(LOWER)
    options = MergeOptions(userxattr=stack.unprivileged, whiteout=form)
    with stack.open(as_kernel=False, options=options) as view:
        assert recorded(stack) == {feature}
        view.unlink("gone")
    assert found(stack) == {feature}


def test_permissions_in_attributes_are_recorded(stack: Stack) -> None:
    stack.add(LOWER)
    options = MergeOptions(userxattr=stack.unprivileged, override=overrides.CONTAINERS)
    with stack.open(as_kernel=False, options=options) as view:
        view.create("new")
        assert recorded(stack) == {features.PERMISSIONS}
    assert found(stack) == {features.PERMISSIONS}


def test_an_upper_of_another_program_gets_no_record(stack: Stack) -> None:
    stack.add(LOWER)
    os.makedirs(f"{stack.upper}/theirs")
    with stack.open(as_kernel=False) as view:
        view.rename("tree", "branch")
    assert recorded(stack) is None
    assert found(stack) == {features.REDIRECT}
