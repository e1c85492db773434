"""The checks of `overlaykit doctor`: those of every room, and the places where views keep state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from overlaykit.errors import Error
from overlaykit.fuse import doctor as fuse
from overlaykit.health import Check
from overlaykit.layers import Layer, Store
from overlaykit.machine import emulator
from overlaykit.namespace import doctor as namespaces
from overlaykit.namespace import is_privileged
from overlaykit.overlay.disk import Disk, Unfit, probe
from overlaykit.views import lies, places
from overlaykit.views.accelerators import emulated
from overlaykit.views.kernel_abilities import ABILITIES
from overlaykit.views.kernel_driver import KernelRoot
from overlaykit.views.registry import Registry
from overlaykit.views.upper import Upper

if TYPE_CHECKING:
    from overlaykit.views.entry import Entry


def checks() -> list[Check]:
    """The checks of every room."""
    return [*fuse.checks(), *namespaces.checks(), *_places(), Store().check(), _lies(), _machines()]


def _lies() -> Check:
    """What `--lie` can tell. No fault: views work without."""
    lacking = lies.lacking()
    detail = f"works, but for {', '.join(lacking)}" if lacking else "works"
    return Check(name="--lie", ok=True, detail=detail, fix="")


def _machines() -> Check:
    """What `run --vm` needs. No fault: views work without. No guest is booted."""
    missing = emulator.missing()
    if missing:
        packages = " and ".join(dict.fromkeys(package for _, package in missing))
        detail = f"not here; install {packages}"
    else:
        found = emulated()
        tried = {
            None: "KVM is tried at the first one",
            True: "emulated (TCG): KVM does not boot here",
            False: "KVM",
        }
        detail = f"works, {tried[found]}"
    return Check(name="--vm", ok=True, detail=detail, fix="")


def _places() -> list[Check]:
    """Make an entry and its scratch, and remove them."""
    log = places.log()
    answers = [
        Check(
            name="log",
            ok=log != "",
            detail=f"{log}, made by the first record" if log else "no directory can hold one",
            fix="" if log else "set XDG_STATE_HOME to a directory that you may write to",
        )
    ]
    try:
        registry = Registry()
        entry = registry.enter(None)
    except (Error, OSError) as error:
        fix = "set XDG_RUNTIME_DIR to a directory of your own that you may write to"
        return [Check(name="running views", ok=False, detail=str(error), fix=fix), *answers]
    try:
        where = os.path.dirname(entry.path)
        answers.append(
            Check(name="running views", ok=True, detail=f"registered in {where}", fix="")
        )
        answers.append(_markers(entry))
        answers.append(_kernel_driver(entry))
        answers += _abilities(entry.stage)
    finally:
        entry.close()
        registry.remove_if_empty()
    return answers


def _markers(entry: Entry) -> Check:
    name = "temporary uppers"
    try:
        path = entry.make_scratch()
        where = os.path.dirname(path)
        disk = probe(os.fsencode(path), user=False)
        disk.form(None)
    except (Error, OSError) as error:
        reason = f"{where}: {error.strerror}" if isinstance(error, Unfit) else str(error)
        fix = "set XDG_CACHE_HOME to a directory on a file system with extended attributes"
        return Check(name=name, ok=False, detail=reason, fix=fix)
    return Check(name=name, ok=True, detail=f"in {where}, which has {_describe(disk)}", fix="")


def _kernel_driver(entry: Entry) -> Check:
    """Merge empty directories with the kernel's overlayfs. No fault if that fails: the other driver is there."""
    privileged = is_privileged()
    try:
        directory = os.path.join(os.path.realpath(entry.path), "scratch")
        layer = os.path.join(directory, "layer")
        os.mkdir(layer)
        upper = Upper(path=os.path.join(directory, "upper"), work=os.path.join(directory, "work"))
        os.mkdir(upper.path)
        os.mkdir(upper.work)
        layers = [Layer(name=layer, path=layer)]
        with layers[0].hold() as hold:
            KernelRoot(entry, layers, [hold], upper, kept=False).close()
        detail = (
            "works" if privileged else "works, with layers of your own; the layer host takes root"
        )
    except (Error, OSError) as error:
        detail = f"not here, views have the driver fuse ({error})"
    return Check(name="driver kernel", ok=True, detail=detail, fix="")


def _abilities(stage: str) -> list[Check]:
    """What this kernel lacks, and what that costs. No faults: views work without."""
    missing = [ability for ability in ABILITIES if ability.is_here(stage) is False]
    release = os.uname().release
    if not missing:
        return [Check(name="kernel", ok=True, detail=f"{release} lacks nothing", fix="")]
    return [
        Check(
            name="kernel",
            ok=True,
            detail=f"{release} is without {one.name} (Linux {one.since}): {one.cost}",
            fix="",
        )
        for one in missing
    ]


def _describe(disk: Disk) -> str:
    """The abilities of a file system, and what it lacks, in one line."""
    abilities = {
        "whiteout devices": disk.whiteout_device,
        "whiteout attributes": disk.whiteout_xattr,
        "whiteout names": disk.aufs_names,
        "RENAME_WHITEOUT": disk.rename_whiteout,
        "RENAME_EXCHANGE": disk.rename_exchange,
        "hard links": disk.hard_links,
        "file kinds in listings": disk.file_kinds,
        "file handles": disk.file_handles,
        "stat after unlink": disk.stat_after_unlink,
    }
    attributes = f"{disk.prefix.decode()}* attributes" if disk.prefix else "no attributes"
    can = [attributes, *(name for name, works in abilities.items() if works)]
    cannot = [name for name, works in abilities.items() if not works]
    return ", ".join(can) + (f"; without {', '.join(cannot)}" if cannot else "")
