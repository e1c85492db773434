"""The launcher: run a command in new namespaces, with a detached mount as its root.

May import: `_native` and the other modules of floor 1; never `fuse`, `layers` or `overlay`. Start reading at `spec` and
`launcher` (the caller's side), then `view_plan`, the list of steps that makes a view, and `plan`, their bytes. A
program in C carries the plan out (native/supervisor.c).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.namespace import (
        accounts,
        binds,
        bridge,
        cgroups,
        descriptors,
        environment,
        identities,
        tmpfs,
    )
    from overlaykit.namespace.accounts import GroupsConflict, GroupUnknown, Identity, UserUnknown
    from overlaykit.namespace.binds import (
        BadBind,
        BadMount,
        Bind,
        TargetTwice,
        parse_bind,
        parse_mount,
    )
    from overlaykit.namespace.cgroups import Cgroups, LimitUnavailable
    from overlaykit.namespace.confinement import Confinement
    from overlaykit.namespace.descriptors import BadDescriptors, NotOpen
    from overlaykit.namespace.devices import (
        BadDevice,
        Device,
        NoDevice,
        NoGpu,
        parse_device,
        parse_gpus,
    )
    from overlaykit.namespace.diagnosis import UserNamespacesRefused, diagnose
    from overlaykit.namespace.environment import WorkingDirectoryDeleted
    from overlaykit.namespace.failure import (
        BindOptionsRefused,
        BindSourceMissing,
        BindTargetMismatch,
        BindTargetMissing,
        CommandNotExecutable,
        CommandNotFound,
        FilterRefused,
        GroupsRefused,
        KeyringRefused,
        LimitRefused,
        ProcRefused,
        SymlinkRefused,
        TimeRefused,
        UserNotMapped,
        WorkingDirectoryMissing,
        WorkingDirectoryRelative,
    )
    from overlaykit.namespace.identities import (
        NoSubordinateIds,
        UserNamespaceNeeded,
        UserNamespaceOfHost,
        available,
    )
    from overlaykit.namespace.join import NotJoinable, namespaces_of
    from overlaykit.namespace.launcher import execute, execute_in, launch
    from overlaykit.namespace.limits import BadLimit, Limits, parse_size
    from overlaykit.namespace.names import BadNames, Names
    from overlaykit.namespace.network import (
        AddressUnknown,
        PortInUse,
        PortPrivileged,
        PortsNeedPrivateNetwork,
    )
    from overlaykit.namespace.ports import BadPort, Port, parse_ports
    from overlaykit.namespace.processes import Processes
    from overlaykit.namespace.spec import End, LaunchSpec, RootMount, Terminal
    from overlaykit.namespace.tmpfs import BadSize, BadTmpfs, Tmpfs
    from overlaykit.namespace.ulimits import BadUlimit, Ulimit, parse_ulimit
    from overlaykit.namespace.users import enter, errno_as_root, is_privileged, isolate_mounts

__all__ = [
    "AddressUnknown",
    "BadBind",
    "BadDescriptors",
    "BadDevice",
    "BadLimit",
    "BadMount",
    "BadNames",
    "BadPort",
    "BadSize",
    "BadTmpfs",
    "BadUlimit",
    "Bind",
    "BindOptionsRefused",
    "BindSourceMissing",
    "BindTargetMismatch",
    "BindTargetMissing",
    "Cgroups",
    "CommandNotExecutable",
    "CommandNotFound",
    "Confinement",
    "Device",
    "End",
    "FilterRefused",
    "GroupUnknown",
    "GroupsConflict",
    "GroupsRefused",
    "Identity",
    "KeyringRefused",
    "LaunchSpec",
    "LimitRefused",
    "LimitUnavailable",
    "Limits",
    "Names",
    "NoDevice",
    "NoGpu",
    "NoSubordinateIds",
    "NotJoinable",
    "NotOpen",
    "Port",
    "PortInUse",
    "PortPrivileged",
    "PortsNeedPrivateNetwork",
    "ProcRefused",
    "Processes",
    "RootMount",
    "SymlinkRefused",
    "TargetTwice",
    "Terminal",
    "TimeRefused",
    "Tmpfs",
    "Ulimit",
    "UserNamespaceNeeded",
    "UserNamespaceOfHost",
    "UserNamespacesRefused",
    "UserNotMapped",
    "UserUnknown",
    "WorkingDirectoryDeleted",
    "WorkingDirectoryMissing",
    "WorkingDirectoryRelative",
    "accounts",
    "available",
    "binds",
    "bridge",
    "cgroups",
    "descriptors",
    "diagnose",
    "enter",
    "environment",
    "errno_as_root",
    "execute",
    "execute_in",
    "identities",
    "is_privileged",
    "isolate_mounts",
    "launch",
    "namespaces_of",
    "parse_bind",
    "parse_device",
    "parse_gpus",
    "parse_mount",
    "parse_ports",
    "parse_size",
    "parse_ulimit",
    "tmpfs",
]

_MODULES: Final = {
    "accounts": ("GroupUnknown", "GroupsConflict", "Identity", "UserUnknown"),
    "binds": ("BadBind", "BadMount", "Bind", "TargetTwice", "parse_bind", "parse_mount"),
    "confinement": ("Confinement",),
    "cgroups": ("Cgroups", "LimitUnavailable"),
    "descriptors": ("BadDescriptors", "NotOpen"),
    "devices": ("BadDevice", "Device", "NoDevice", "NoGpu", "parse_device", "parse_gpus"),
    "diagnosis": ("UserNamespacesRefused", "diagnose"),
    "environment": ("WorkingDirectoryDeleted",),
    "failure": (
        "BindOptionsRefused",
        "BindSourceMissing",
        "BindTargetMismatch",
        "BindTargetMissing",
        "CommandNotExecutable",
        "CommandNotFound",
        "FilterRefused",
        "KeyringRefused",
        "GroupsRefused",
        "LimitRefused",
        "ProcRefused",
        "SymlinkRefused",
        "TimeRefused",
        "UserNotMapped",
        "WorkingDirectoryMissing",
        "WorkingDirectoryRelative",
    ),
    "identities": ("NoSubordinateIds", "UserNamespaceNeeded", "UserNamespaceOfHost", "available"),
    "limits": ("BadLimit", "Limits", "parse_size"),
    "launcher": ("execute", "execute_in", "launch"),
    "join": ("NotJoinable", "namespaces_of"),
    "names": ("BadNames", "Names"),
    "network": ("AddressUnknown", "PortInUse", "PortPrivileged", "PortsNeedPrivateNetwork"),
    "ports": ("BadPort", "Port", "parse_ports"),
    "processes": ("Processes",),
    "spec": ("End", "LaunchSpec", "RootMount", "Terminal"),
    "tmpfs": ("BadSize", "BadTmpfs", "Tmpfs"),
    "ulimits": ("BadUlimit", "Ulimit", "parse_ulimit"),
    "users": ("enter", "errno_as_root", "is_privileged", "isolate_mounts"),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    # Late: a launch loads what it uses. Few have binds or ports.
    module = f"{__name__}.{_MODULE_OF.get(name, name)}"
    if name in _MODULE_OF:
        __import__(module)
        return getattr(sys.modules[module], name)
    if name in __all__:
        __import__(module)
        return sys.modules[module]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
