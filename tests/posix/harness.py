"""The harness of the table: the mounts of one system and identity, made on first use.

At most three mounts: one that ordinary behaviours share, each in its own directory; one without an upper; and one that
is mounted twice, for behaviours that hold over a remount.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import traceback
from collections.abc import Generator
from dataclasses import replace
from typing import Literal, TypeAlias, cast, final

from . import syscalls
from .disks import Disk, mount_disk, unmount_disk
from .layers import write_layer
from .sandbox import Sandbox
from .systems import KernelOverlay, Overlaykit, Plain, Stack, System
from .table import DEPTH, TABLE, Behaviour, Identity, merged

Kind: TypeAlias = Literal["shared", "read-only", "remounted"]
KINDS: tuple[Kind, ...] = ("shared", "read-only", "remounted")


def make_system(name: str, *, unprivileged: bool, more: tuple[str, ...] = ()) -> System:
    """The system of this name, with the options that fit the identity; `more`: options for overlaykit."""
    match name:
        case "plain":
            return Plain()
        case "kernel":
            return KernelOverlay(unprivileged)
        case _:
            return Overlaykit(unprivileged, more)


@final
class Harness:
    """One system as one identity, mounted in `sandbox`.

    `directory` is an empty directory, writable in the sandbox, which holds everything. `disk` is the file system of the
    upper and the work directory.
    """

    def __init__(
        self,
        system: str,
        identity: Identity,
        sandbox: Sandbox,
        directory: str,
        disk: Disk = "own",
        more: tuple[str, ...] = (),
    ) -> None:
        self.system = make_system(system, unprivileged=identity != "root", more=more)
        self.identity = identity
        self.disk = disk
        self._sandbox = sandbox
        self._directory = directory
        self._built: set[Kind] = set()
        self._mounted: set[Kind] = set()
        self._unmountable: set[Kind] = set()
        self._remount_failures: dict[str, str] | None = None

    def check(self, behaviour: Behaviour) -> None:
        """Check the behaviour on the system. Raises: `sandbox.Failed` or `sandbox.Hung` if it does not hold."""
        __tracebackhide__ = True
        if behaviour.remount:
            if self._remount_failures is None:
                try:
                    self._remount_failures = self._check_remounted()
                except AssertionError as error:  # the mount failed, so all on it fail
                    self._remount_failures = dict.fromkeys(TABLE, str(error))
            if failure := self._remount_failures.get(behaviour.name):
                raise AssertionError(failure)
            return
        kind = kind_of(behaviour)
        target = self._mount(kind)
        check = behaviour.check_on(self.system.name, self.identity)

        def act() -> None:
            os.chdir(os.path.join(target, behaviour.name.encode()))
            check()

        try:
            self._sandbox.run(act)
        except AssertionError:
            if self._sandbox.run(lambda: _is_dead(target)):
                self._unmount(kind)  # the next behaviour gets a new mount
            raise

    def close(self) -> None:
        """Unmount all and remove the directories."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._sandbox.run, self._remove, as_root=True)
            for kind in list(self._mounted):
                stack.callback(self._unmount, kind)

    def _mount(self, kind: Kind) -> bytes:
        """The path of the mount of this kind, made if there is none."""
        __tracebackhide__ = True
        if kind in self._unmountable:
            raise AssertionError(f"could not be mounted, see the first failure: {self.system.name}")
        stack, target = self._paths(kind)
        if kind in self._mounted:
            return target
        if kind not in self._built:
            self._sandbox.run(lambda: self._build(kind))
            self._built.add(kind)
        self._unmountable.add(kind)
        self._sandbox.run(lambda: self.system.mount(stack, target), as_root=self.system.takes_root)
        self._unmountable.remove(kind)
        self._mounted.add(kind)
        return target

    def _unmount(self, kind: Kind) -> None:
        _, target = self._paths(kind)
        self._mounted.remove(kind)
        self._sandbox.run(lambda: self.system.unmount(target), as_root=self.system.takes_root)

    def _paths(self, kind: Kind) -> tuple[Stack, bytes]:
        base = os.fsencode(os.path.join(self._directory, kind))
        upper, work = base + b"/disk/upper", base + b"/disk/work"
        if self.system.name == "plain":
            stack = Stack(lowers=(upper,), upper=upper)
        else:
            lowers = tuple(base + b"/lower%d" % number for number in range(DEPTH))
            stack = Stack(lowers, upper, work)
        return (replace(stack, upper=None) if kind == "read-only" else stack), base + b"/merged"

    def _build(self, kind: Kind) -> None:
        stack, target = self._paths(kind)
        base = os.path.dirname(target)
        os.makedirs(base)
        mount_disk(self.disk, base, unprivileged=self._sandbox.unprivileged)
        for path in filter(None, [*stack.lowers, stack.upper, stack.work, target]):
            os.makedirs(path, exist_ok=True)
        for behaviour in TABLE.values():
            if kind_of(behaviour) == kind and self.identity in behaviour.identities:
                self._write(behaviour, stack)

    def _write(self, behaviour: Behaviour, stack: Stack) -> None:
        layers = behaviour.layers or ({},)
        if self.system.name == "plain":
            layers = (merged(layers),)
        for layer, lower in zip(layers, stack.lowers[-len(layers) :], strict=True):
            root = os.path.join(os.fsdecode(lower), behaviour.name)
            os.mkdir(root)
            prefix = "trusted" if self.identity == "root" else "user"
            write_layer(layer, root, xattr_prefix=prefix)

    def _check_remounted(self) -> dict[str, str]:
        """Run all first halves, remount, run all second halves; return the tracebacks of failures by behaviour."""
        failures: dict[str, str] = {}
        halves: dict[str, Generator[None]] = {}
        self._sandbox.run(lambda: self._build("remounted"))
        stack, target = self._paths("remounted")

        # An ordinary user cannot mount a plain directory, which is the same after a remount anyway.
        mounted_once = self.system.takes_root and self._sandbox.ordinary

        def act() -> dict[str, str]:
            for round_ in range(2):
                if not mounted_once:
                    self.system.mount(stack, target)
                try:
                    for behaviour in TABLE.values():
                        if behaviour.name in failures or not self._takes_part(behaviour):
                            continue
                        os.chdir(os.path.join(target, behaviour.name.encode()))
                        try:
                            if round_ == 0:
                                check = behaviour.check_on(self.system.name, self.identity)
                                halves[behaviour.name] = cast("Generator[None]", check())
                                next(halves[behaviour.name])
                            else:
                                next(halves[behaviour.name], None)
                        except Exception:
                            failures[behaviour.name] = traceback.format_exc()
                finally:
                    os.chdir("/")
                    if not mounted_once:
                        self.system.unmount(target)
            return failures

        if not mounted_once:
            return self._sandbox.run(act)
        self._sandbox.run(lambda: self.system.mount(stack, target), as_root=True)
        try:
            return self._sandbox.run(act)
        finally:
            self._sandbox.run(lambda: self.system.unmount(target), as_root=True)

    def _takes_part(self, behaviour: Behaviour) -> bool:
        return kind_of(behaviour) == "remounted" and self.identity in behaviour.identities

    def _remove(self) -> None:
        for kind in KINDS:
            with contextlib.suppress(OSError):  # a failed mount may have left it
                syscalls.umount2(self._paths(kind)[1], syscalls.MNT_DETACH)
            with contextlib.suppress(OSError):
                unmount_disk(self.disk, os.path.dirname(self._paths(kind)[1]))
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(os.path.join(self._directory, kind))


def kind_of(behaviour: Behaviour) -> Kind:
    """The kind of mount that the behaviour runs on."""
    if behaviour.remount:
        return "remounted"
    return "read-only" if behaviour.read_only else "shared"


def _is_dead(target: bytes) -> bool:
    try:
        os.stat(target)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False
