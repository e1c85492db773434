"""The launcher: run a command in new namespaces, with a detached mount as its root.

May import: `_native`, `errors`, `health`, `privilege`, `procfs`, `signals`, `standard`; never `fuse`, `layers` or
`overlay`. Start reading at `spec` and `launch` (the parent's side), then `monitor` and `init`, each a list of system
calls in order. `doctor` and `duplicate` are not imported here: few callers need them.
"""

from overlaykit.namespace import binds, descriptors, environment
from overlaykit.namespace.binds import (
    BadBind,
    BadMount,
    Bind,
    TargetTwice,
    parse_bind,
    parse_mount,
)
from overlaykit.namespace.descriptors import BadDescriptors, NotOpen
from overlaykit.namespace.diagnosis import UserNamespacesRefused, diagnose
from overlaykit.namespace.environment import WorkingDirectoryDeleted
from overlaykit.namespace.failure import (
    BindSourceMissing,
    BindTargetMismatch,
    BindTargetMissing,
    CommandNotExecutable,
    CommandNotFound,
    ProcRefused,
    WorkingDirectoryMissing,
    WorkingDirectoryRelative,
)
from overlaykit.namespace.identities import available
from overlaykit.namespace.launch import launch
from overlaykit.namespace.network import (
    AddressUnknown,
    PortInUse,
    PortPrivileged,
    PortsNeedPrivateNetwork,
)
from overlaykit.namespace.ports import BadPort, Port, parse_port
from overlaykit.namespace.processes import Processes
from overlaykit.namespace.spec import LaunchSpec, RootMount
from overlaykit.namespace.users import enter, errno_as_root, is_privileged, isolate_mounts

__all__ = [
    "AddressUnknown",
    "BadBind",
    "BadDescriptors",
    "BadMount",
    "BadPort",
    "Bind",
    "BindSourceMissing",
    "BindTargetMismatch",
    "BindTargetMissing",
    "CommandNotExecutable",
    "CommandNotFound",
    "LaunchSpec",
    "NotOpen",
    "Port",
    "PortInUse",
    "PortPrivileged",
    "PortsNeedPrivateNetwork",
    "ProcRefused",
    "Processes",
    "RootMount",
    "TargetTwice",
    "UserNamespacesRefused",
    "WorkingDirectoryDeleted",
    "WorkingDirectoryMissing",
    "WorkingDirectoryRelative",
    "available",
    "binds",
    "descriptors",
    "diagnose",
    "enter",
    "environment",
    "errno_as_root",
    "is_privileged",
    "isolate_mounts",
    "launch",
    "parse_bind",
    "parse_mount",
    "parse_port",
]
