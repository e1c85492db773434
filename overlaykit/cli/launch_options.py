"""The options of a launch, which several commands share: one pair of functions for each topic.

`declare_TOPIC` adds its options to a command. `TOPIC` makes of their values a part of the arguments of `View` or of
`View.launch`.
"""

from __future__ import annotations

import os

from overlaykit import namespace
from overlaykit.cli.options import Usage
from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final, TypeAlias

    from overlaykit.cli.options import Options
    from overlaykit.namespace.environment import Environment

    Values: TypeAlias = Any
    """What `Options.parse` returns."""
    Part: TypeAlias = dict[str, Any]
    """Some of the keyword arguments of `View`."""


class LabelInvalid(Error):
    message = "--label {0}: give KEY=VALUE, or KEY"


_TERM = "xterm"
"""Of a terminal whose kind is unknown, as with podman."""


_ARGS = "--args"
_LONGEST_GRACE = 1_000_000
"""Seconds."""


_BUBBLEWRAPS: Final = {
    f"{option}{suffix}": what + condition
    for option, what in (
        ("--bind", "share the host's SRC at DEST, without its devices and set-user-ID programs"),
        ("--ro-bind", "the same, read-only"),
        ("--dev-bind", "the same as --bind, with its devices"),
    )
    for suffix, condition in (("", ""), ("-try", ", if SRC exists"))
}
"""The options of `namespace.binds.BUBBLEWRAPS`, with their help: that module is loaded once one is given."""


def declare_root(command: Options) -> None:
    """What the view shows, and where its changes go."""
    command.add_argument(
        "-l",
        dest="layers",
        metavar="LAYER",
        action="append",
        default=[],
        help="a layer: 'host', a name of the store, or a directory; top first (default: host)",
    )
    command.add_argument(
        "--writable",
        metavar="DIR",
        action="append",
        default=[],
        help="refuse changes outside of DIR (EROFS)",
    )
    command.add_exclusive(
        (
            "--upper",
            {"metavar": "DIR", "help": "keep changes in DIR (default: drop them at the end)"},
        ),
        ("--read-only", {"action": "store_true", "help": "refuse changes (EROFS)"}),
    )
    command.add_argument(
        "--keep-originals",
        action="store_true",
        help="keep beside the changes what each text of up to 1 MiB was before it is first written to, for 'apply"
        " --merge'; not with the driver kernel",
    )


def root(args: Values) -> Part:
    return {
        "layers": args.layers or ("host",),
        "upper": args.upper,
        "read_only": args.read_only,
        "writable": args.writable,
        "originals": args.keep_originals,
    }


def declare_binds(command: Options) -> None:
    """Paths shared with the host."""
    command.add_argument(
        "-v",
        "--volume",
        dest="binds",
        metavar="SRC:DST[:OPTION,...]",
        action="append",
        default=[],
        help="share the host's SRC with the view at DST; options: ro, noexec, nosuid, nodev, exec, suid, dev, rslave,"
        " rshared",
    )
    command.add_argument(
        "--mount",
        dest="mounts",
        metavar="type=bind,src=SRC,dst=DST[,ro]",
        action="append",
        default=[],
        help="the same, for paths with a colon; a field with a comma in double quotes; or type=tmpfs,dst=DST",
    )
    command.add_argument(
        "--tmpfs",
        dest="tmpfs",
        metavar="DST[:OPTION,...]",
        action="append",
        default=[],
        help="an empty file system in memory at DST; options: size=64m, mode=1777, ro, exec, suid, dev",
    )
    command.add_argument(
        "--shm-size", metavar="SIZE", help="the size of /dev/shm, as 64m (default: half the memory)"
    )
    for option, what in _BUBBLEWRAPS.items():
        command.add_argument(
            option, nargs=2, metavar=("SRC", "DEST"), action="append", default=[], help=what
        )


def binds(args: Values) -> Part:
    return {
        "binds": [
            *(namespace.parse_bind(text) for text in args.binds),
            *(namespace.parse_mount(text) for text in args.mounts if not _is_tmpfs(text)),
            *(
                bind
                for option in _BUBBLEWRAPS
                for source, target in vars(args)[option.removeprefix("--").replace("-", "_")]
                if (bind := namespace.binds.bubblewraps(option, source, target)) is not None
            ),
        ],
        "tmpfs": [
            *(
                namespace.tmpfs.parse_tmpfs(text, **_of_modifiers(args, at))
                for at, text in enumerate(args.tmpfs)
            ),
            *(namespace.tmpfs.parse_tmpfs_mount(text) for text in args.mounts if _is_tmpfs(text)),
        ],
        "shm_size": args.shm_size and namespace.tmpfs.parse_size(args.shm_size),
    }


def _of_modifiers(args: Values, at: int) -> dict[str, str]:
    """What stands before a --tmpfs, as options of tmpfs(5)."""
    said = args.modified.get(("--tmpfs", at), {})
    return {"mode" if option == "--perms" else "size": value for option, value in said.items()}


def _is_tmpfs(mount: str) -> bool:
    return "tmpfs" in mount and namespace.tmpfs.is_tmpfs(mount)


def declare_devices(command: Options) -> None:
    """Device nodes beside the usual ones."""
    command.add_argument(
        "--device",
        dest="devices",
        metavar="SRC[:DST][:rwm]",
        action="append",
        default=[],
        help="the host's device SRC, or all in the directory SRC; nvidia.com/gpu=all and the like: a vendor's GPUs",
    )
    command.add_argument("--gpus", metavar="all", help="the devices of all GPUs of this machine")


def devices(args: Values) -> Part:
    found = [device for text in args.devices for device in namespace.parse_device(text)]
    if args.gpus is not None:
        found += namespace.parse_gpus(args.gpus)
    return {"devices": list(dict.fromkeys(found))}


def declare_sharing(command: Options) -> None:
    """Which namespaces are the host's, and what those of the view's own have."""
    command.add_argument(
        "--share",
        dest="shared",
        metavar="NAME[,NAME...]",
        action="append",
        default=[],
        help="share namespaces with the host: net, ipc, uts, cgroup, time, user",
    )
    command.add_argument(
        "--userns",
        choices=("auto", "single", "subids", "keep-id", "host"),
        default="auto",
        help="'single': the caller's id is the only one, as root's; 'keep-id': as it is; 'subids': those of"
        " /etc/subuid, too; 'host': root's own (default: auto, what there is)",
    )
    for clock in ("--monotonic", "--boottime"):
        command.add_argument(
            clock,
            type=int,
            metavar="SECONDS",
            help=f"set the view's clock CLOCK_{clock[2:].upper()} off by so much (time_namespaces(7))",
        )


def sharing(args: Values) -> Part:
    if not args.shared:
        return {"userns": args.userns}
    from overlaykit.namespace import sharing

    shared = sharing.parse(args.shared)
    return {"shared": shared, "userns": args.userns}


def clocks(args: Values) -> Part:
    """Some of the keyword arguments of `View.execute`. Raises: TimeConflict, BadLie."""
    given = {
        name: value
        for name, value in (("--monotonic", args.monotonic), ("--boottime", args.boottime))
        if value is not None
    }
    told = any(one.startswith("uptime=") for one in args.lies)
    if not given and not told:
        return {}
    from overlaykit.namespace import sharing

    if "time" in sharing.parse(args.shared):
        raise sharing.TimeConflict("--lie uptime" if told else next(iter(given)))
    if told and given:
        from overlaykit.views import lies

        raise lies.BadLie("uptime", "leave it out with --monotonic and --boottime")
    return {"time_offsets": sharing.offsets(args.monotonic, args.boottime)} if given else {}


MODIFIERS: Final = ("--perms", "--size")
"""Options for the one that follows (`modifiers`)."""


def declare_contents(command: Options) -> None:
    """What the view has beside its layers and what is shared."""
    for option, metavar, what in (
        ("--dir", "DEST", "make the directory DEST, and those above it, where they are missing"),
        (
            "--perms",
            "OCTAL",
            "permissions for the next --dir, --tmpfs, --bind-data or --ro-bind-data",
        ),
        ("--size", "BYTES", "the size of the next --tmpfs"),
    ):
        command.add_argument(option, metavar=metavar, action="append", default=[], help=what)
    command.add_argument(
        "--symlink",
        dest="symlinks",
        nargs=2,
        metavar=("SRC", "DEST"),
        action="append",
        default=[],
        help="make DEST a symbolic link to SRC",
    )
    for option, what in (("--bind-data", ""), ("--ro-bind-data", ", read-only")):
        command.add_argument(
            option,
            nargs=2,
            metavar=("FD", "DEST"),
            action="append",
            default=[],
            help=f"mount a file in memory at DEST{what}, with what is read from the descriptor FD",
        )


def contents(command: str, args: Values) -> Part:
    """Some of the keyword arguments of `View.execute`. Raises: Usage, NotOpen, BadTarget."""
    if args.perms or args.size:
        raise Usage(command, f"{' or '.join(MODIFIERS)}: write each option before it on its own")
    if not (args.dir or args.symlinks or args.bind_data or args.ro_bind_data):
        return {}
    from overlaykit.cli import modifiers
    from overlaykit.namespace import contents

    found = []
    for option, given in (("--bind-data", args.bind_data), ("--ro-bind-data", args.ro_bind_data)):
        for at, (number, target) in enumerate(given):
            if not number.isdecimal():
                raise Usage(command, f"{option} {number} {target}: give the number of a descriptor")
            _require_open(option, int(number))
            path = contents.target(option, target)
            read_only = option == "--ro-bind-data"
            mode = modifiers.mode_of(args.modified.get((option, at), {}), 0o600)
            found.append(contents.Data(int(number), path, read_only=read_only, mode=mode))
    return {
        "directories": tuple(
            contents.Directory(
                contents.target("--dir", path),
                modifiers.mode_of(args.modified.get(("--dir", at), {}), 0o755),
            )
            for at, path in enumerate(args.dir)
        ),
        "symlinks": tuple(
            contents.Symlink(source, contents.target("--symlink", path))
            for source, path in args.symlinks
        ),
        "data": tuple(found),
    }


def declare_hiding(command: Options) -> None:
    """What of the host stays outside, and what is shared by name."""
    command.add_argument(
        "--hide",
        metavar="PATH",
        action="append",
        default=[],
        help="cover PATH, if it exists, by an empty read-only place",
    )
    command.add_argument(
        "--share-home",
        action="store_true",
        help="show the keys in the home directory to a view over the host (default: .ssh, .gnupg, credentials of"
        " clouds, profiles of browsers and the like are hidden)",
    )
    command.add_argument(
        "--socket",
        dest="sockets",
        metavar="NAME",
        action="append",
        default=[],
        help="share a socket of the host: x11, wayland, session-bus, system-bus, ssh-auth, or with --network host"
        " those that are abstract",
    )


def hiding(args: Values) -> Part:
    return {"hidden": args.hide, "share_home": args.share_home, "sockets": args.sockets}


def declare_network(command: Options) -> None:
    """Ports, the name and the network."""
    command.add_argument(
        "-p",
        "--publish",
        dest="ports",
        metavar="[IP:][HOST:]PORT[/udp]",
        action="append",
        default=[],
        help="publish the view's port PORT as the host's HOST (default: a free one), TCP or UDP; ranges as 8000-8009:"
        "9000-9009 (default IP: 127.0.0.1)",
    )
    command.add_argument(
        "--name",
        help="the view's name and, unless the network is the host's, its host name (default: generated)",
    )
    command.add_argument(
        "--network",
        "--net",
        dest="networks",
        metavar="MODE|NAME",
        action="append",
        default=[],
        help="'private': its own, with published ports and no route out; 'outbound': the same, with connections outward"
        " through pasta or slirp4netns; 'auto': 'outbound' from the first connection on, where one is installed,"
        " or 'private'; 'host': the host's, with all that it reaches;"
        " 'none': its own, with no ports; 'bridge': one that root's views share, with a way to other machines; NAME:"
        " shared by the views that name it, which reach one another by their names, and given again, beside it, 'auto'"
        " or 'outbound' (default: auto)",
    )


def network(args: Values) -> Part:
    return {
        "name": args.name,
        "network": args.networks,
        "names": _names(args),
        "ports": [port for text in args.ports for port in namespace.parse_ports(text)],
    }


def declare_names(command: Options) -> None:
    """The names of the view and of others, and who resolves them."""
    add = command.add_argument
    add("--hostname", metavar="NAME", help="the host name (default: the view's name)")
    add(
        "--add-host",
        dest="hosts",
        metavar="NAME:IP",
        action="append",
        default=[],
        help="an address for a name, in the view's /etc/hosts",
    )
    add(
        "--dns",
        metavar="IP",
        action="append",
        default=[],
        help="a name server, in an /etc/resolv.conf of the view's own (default: the host's, if there is a way outward)",
    )
    add(
        "--dns-search",
        metavar="DOMAIN",
        action="append",
        default=[],
        help="a domain in which names are looked up; '.' for none",
    )
    add(
        "--dns-option",
        metavar="OPTION",
        action="append",
        default=[],
        help="an option of resolv.conf(5), as ndots:2",
    )


def declare_lies(command: Options) -> None:
    """What the view is told of the machine."""
    command.add_argument(
        "--lie",
        dest="lies",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="have programs find this in place of the truth: cpus=N, memory=SIZE (or 'limit', as --cpus and --memory"
        " say), uptime=TIME, or these three and more as proc=lxcfs shows them; kernel=RELEASE (uname(2));"
        " hostname=NAME, machine-id=HEX, os-release=FILE, dmi.FIELD=TEXT",
    )


def lies(args: Values) -> Part:
    """Raises: BadLie, BadLimit, BadNames."""
    if not args.lies:
        return {}
    from overlaykit.views import lies

    found, hostname = lies.parse(args.lies, limits(args).get("limits"))
    if hostname is not None:
        if args.hostname is not None:
            raise lies.BadLie(f"hostname={hostname}", "leave it out with --hostname")
        args.hostname = hostname
    return {"lies": found}


def _names(args: Values) -> namespace.Names | None:
    """Raises: BadNames."""
    if args.hostname is None and not (args.hosts or args.dns or args.dns_search or args.dns_option):
        return None
    from overlaykit.namespace import names

    return names.parse(
        hostname=args.hostname,
        dns=args.dns,
        searches=args.dns_search,
        options=args.dns_option,
        hosts=args.hosts,
    )


def declare_life(command: Options) -> None:
    """Whether the view goes on without its caller, and whether it stays after its command."""
    command.add_argument(
        "-d",
        "--detach",
        action="store_true",
        help="leave the view running, print its name, and keep what the command prints ('overlaykit logs')",
    )
    command.add_argument(
        "--rm",
        action="store_true",
        help="remove the view when its command ends (default: for views without a --name)",
    )
    command.add_argument(
        "--restart",
        metavar="no|on-failure[:N]|always|unless-stopped",
        default="no",
        help="start a detached view again when its command ends, until 'overlaykit stop' (default: no)",
    )


def check_restart(args: Values, *, detached: bool) -> None:
    """Raises: BadPolicy, RestartOfWhat."""
    if args.restart == "no":
        return
    from overlaykit.views import restarting

    if restarting.parse(args.restart).kind != "no":
        if args.rm:
            raise restarting.RestartOfWhat(
                args.restart, "--rm removes the view at its end: leave one out"
            )
        if args.name is None:
            raise restarting.RestartOfWhat(args.restart, "give the view a --name")
        if not detached:
            raise restarting.RestartOfWhat(args.restart, "it is for detached views: add -d")


def declare_labels(command: Options) -> None:
    """What the view is for, to find it by."""
    command.add_argument(
        "--label",
        dest="labels",
        metavar="KEY[=VALUE]",
        action="append",
        default=[],
        help="label the view ('overlaykit inspect', 'ps --filter label=KEY=VALUE')",
    )


def labels(args: Values) -> Part:
    """Raises: LabelInvalid."""
    found = {}
    for text in args.labels:
        key, _, value = text.partition("=")
        if not key:
            raise LabelInvalid(text)
        found[key] = value
    return {"labels": found}


def declare_limits(command: Options) -> None:
    """What the view may use of the machine."""
    add = command.add_argument
    add("-m", "--memory", metavar="SIZE", help="memory: 512m, 2g; a view that needs more is killed")
    add(
        "--memory-swap",
        metavar="SIZE",
        help="memory and swap together, -1 for any swap (default: twice --memory)",
    )
    add("--cpus", type=float, metavar="N", help="how many processors' time: 0.5, 2")
    add("--cpuset-cpus", metavar="LIST", help="which processors: 0-2,5")
    add("--pids-limit", type=int, metavar="N", help="how many processes and threads")
    add(
        "--io-weight",
        type=int,
        metavar="N",
        help="the share of disk bandwidth, from 1 to 10000 (usual: 100)",
    )
    add(
        "--disk",
        metavar="SIZE",
        help="what the view may write to its disk: 512m, 2g; more fails with ENOSPC",
    )


def limits(args: Values) -> Part:
    disk = None if args.disk is None else namespace.parse_size("--disk", args.disk)
    given = (
        args.memory,
        args.memory_swap,
        args.cpus,
        args.cpuset_cpus,
        args.pids_limit,
        args.io_weight,
    )
    if all(one is None for one in given):
        return {"disk": disk}
    swap: int | None = None
    if args.memory_swap is not None:
        unlimited = args.memory_swap == "-1"
        swap = -1 if unlimited else namespace.parse_size("--memory-swap", args.memory_swap)
    return {
        "disk": disk,
        "limits": namespace.Limits(
            memory=None if args.memory is None else namespace.parse_size("--memory", args.memory),
            memory_swap=swap,
            cpus=args.cpus,
            cpuset=args.cpuset_cpus,
            pids=args.pids_limit,
            io_weight=args.io_weight,
        ),
    }


def declare_machine(command: Options) -> None:
    """A machine for the command, in place of a view alone."""
    add = command.add_argument
    add(
        "--vm",
        action="store_true",
        help="run the command under a kernel of its own, in QEMU: with --memory (default: 256m), --cpus and --disk as "
        "the machine's own (docs/machines.md)",
    )
    add(
        "--disk-file",
        metavar="FILE",
        help="with --vm: keep what the machine writes in FILE, a qcow2 disk, made if it is missing",
    )
    add(
        "--kernel",
        metavar="PATH",
        help="with --vm: a directory with boot/ and lib/modules/, or the image in such a boot/ (default: Debian's "
        "cloud kernel, fetched once)",
    )


def declare_driver(command: Options) -> None:
    command.add_argument(
        "--driver",
        metavar="fuse|kernel|auto",
        help="what merges the layers: 'fuse': overlaykit's own file system; 'kernel': the kernel's overlayfs, without a"
        " daemon; 'auto': the kernel's where it can show the view (default: $OVERLAYKIT_DRIVER, else what"
        " ~/.config/overlaykit/config.toml or /etc/overlaykit/config.toml says, else fuse)",
    )

    command.add_argument(
        "--data-plane",
        choices=("on", "off"),
        default="on",
        help="'off': Python answers each request to overlaykit's own file system, and native code none, to find out"
        " where a fault is (default: on)",
    )
    command.add_argument(
        "--no-open",
        choices=("on", "off", "auto"),
        default="auto",
        help="'on': programs open files of overlaykit's own file system without asking it, faster; an error of a"
        " copy-up, as of a full disk, is then reported by fsync(2) and close(2), not open(2); not with the layer host"
        " and with a limit that overlaykit itself keeps (--disk); 'auto': if all layers are of the store, without"
        " --disk (default: auto)",
    )


def driver(args: Values) -> Part:
    return {
        "driver": args.driver,
        "data_plane": args.data_plane == "on",
        "no_open": args.no_open,
    }


def declare_confinement(command: Options) -> None:
    """What the command may ask of the kernel."""
    for option, what in (("--cap-add", "keep"), ("--cap-drop", "drop")):
        command.add_argument(
            option,
            metavar="CAP[,CAP...]",
            action="append",
            default=[],
            help=f"{what} capabilities of capabilities(7), or ALL",
        )
    command.add_argument(
        "--security-opt",
        metavar="OPTION",
        action="append",
        default=[],
        help="'seccomp=unconfined' or 'seccomp=FILE': no system call filter, or that of a profile in JSON;"
        " 'no-new-privileges=false': set-user-ID programs gain privileges; 'mask=PATH:...', 'unmask=PATH:...',"
        " 'unmask=ALL': cover paths, or leave paths of /proc and /sys as they are",
    )
    command.add_argument(
        "--privileged",
        action="store_true",
        help="all capabilities, no filter of system calls, nothing of /proc and /sys covered",
    )


def confinement(args: Values) -> Part:
    """Raises: Error."""
    if not (args.cap_add or args.cap_drop or args.security_opt or args.privileged):
        return {}
    from overlaykit.namespace import confinement_options

    return {
        "confinement": confinement_options.parse(
            add=args.cap_add,
            drop=args.cap_drop,
            security=args.security_opt,
            privileged=args.privileged,
        )
    }


def declare_environment(command: Options) -> None:
    """The command's environment and its working directory."""
    command.add_argument(
        "-e",
        "--env",
        dest="env",
        metavar="KEY[=VALUE]",
        action="append",
        default=[],
        help="set an environment variable; without a value to the caller's, and KEY* for all that begin so",
    )
    command.add_argument(
        "--env-file",
        dest="env_files",
        metavar="FILE",
        action="append",
        default=[],
        help="set those of a file: lines KEY=VALUE, or KEY for the caller's; # begins a comment",
    )
    command.add_argument(
        "--unsetenv",
        dest="unset",
        metavar="KEY",
        action="append",
        default=[],
        help="leave a variable of the caller's out",
    )
    command.add_argument(
        "--clearenv", action="store_true", help="leave all variables of the caller's out"
    )
    command.add_argument(
        "-w",
        "--workdir",
        dest="cwd",
        metavar="DIR",
        help="the working directory in the view (default: the current one if it exists there, else /)",
    )


def environment(command: str, args: Values) -> Environment:
    """The caller's environment as the options change it; those of -e come last. Raises: Usage, BadEnvironmentFile."""
    from overlaykit.views import shared_sockets

    callers = namespace.environment.initial()
    # Before those that name what they are to reach.
    shared = getattr(args, "sockets", ())
    env: Environment = ()
    if not args.clearenv:
        env = shared_sockets.without_variables(callers, shared)
    for key in args.unset:
        env = namespace.environment.replace(env, key, None)
    for path in args.env_files:
        for key, value in namespace.environment.read_file(path, callers).items():
            env = namespace.environment.replace(env, key, value)
    for setting in args.env:
        key, equals, value = setting.partition("=")
        if not key:
            raise Usage(command, f"-e {setting}: give KEY=VALUE, or KEY for the caller's value")
        found = {key: value} if equals else namespace.environment.matching(callers, key)
        for name, given in found.items():
            env = namespace.environment.replace(env, name, given)
    if args.tty and namespace.environment.get(env, "TERM") is None:
        env = namespace.environment.replace(env, "TERM", _TERM)
    return env


def declare_terminal(command: Options, *, detaches: bool = False) -> None:
    """A terminal of the view's own."""
    kept = "; with -d: keep the input open for 'overlaykit attach'" if detaches else ""
    command.add_argument(
        "-i",
        "--interactive",
        dest="interactive",
        action="store_true",
        help="with -t: pass standard input on to the terminal (without -t it is the command's in any case)"
        + kept,
    )
    command.add_argument(
        "-t",
        "--tty",
        dest="tty",
        action="store_true",
        help="give the command a terminal of its own, with job control; -it for an interactive one",
    )


def terminal(args: Values) -> namespace.Terminal | None:
    return namespace.Terminal(interactive=args.interactive) if args.tty else None


def declare_identity(command: Options) -> None:
    """The user and the limits of the command."""
    command.add_argument(
        "-u",
        "--user",
        dest="user",
        metavar="USER[:GROUP]",
        help="the user of the command: names of the view's /etc/passwd and /etc/group, or numbers (default: root)",
    )
    command.add_argument(
        "--group-add",
        dest="groups",
        metavar="GROUP|keep-groups",
        action="append",
        default=[],
        help="add a supplementary group, by name or number; keep-groups: the caller's stay",
    )
    command.add_argument(
        "--ulimit",
        dest="ulimits",
        metavar="NAME=SOFT[:HARD]",
        action="append",
        default=[],
        help="limit a resource, as nofile=1024; -1: no limit (see setrlimit(2))",
    )


def identity(args: Values) -> Part:
    """Some of the keyword arguments of `View.execute`."""
    home = not any(setting.startswith("HOME=") for setting in args.env)
    found: Part = {"ulimits": [namespace.parse_ulimit(text) for text in args.ulimits]}
    if args.user is not None or args.groups:
        found["identity"] = namespace.Identity(
            user=args.user, groups=tuple(args.groups), home=home and args.user is not None
        )
    return found


def declare_process(command: Options) -> None:
    """How the command is started and how it ends."""
    command.add_argument(
        "--entrypoint",
        metavar="COMMAND",
        help="run COMMAND; the words that follow the options are its arguments",
    )
    command.add_argument(
        "--stop-timeout",
        type=float,
        metavar="SECONDS",
        help="SIGTERM goes to all processes of the view, and those that are left after the time are killed (default:"
        " it goes to the command alone, as any signal)",
    )
    command.add_argument(
        "--new-session",
        action="store_true",
        help="leave the caller's session, so that the command has no terminal to push input into",
    )
    command.add_argument(
        "--json-status-fd",
        type=int,
        metavar="FD",
        help="write lines of JSON to FD: child-pid at the start, exit-code at the end",
    )
    command.add_argument(
        _ARGS,
        dest="args_from",
        type=int,
        metavar="FD",
        help="read more options from FD, each ended by a NUL",
    )


def process(command: str, args: Values) -> Part:
    """Some of the keyword arguments of `View.execute`. Raises: Usage, NotOpen."""
    grace = args.stop_timeout
    if grace is not None and not 0 <= grace <= _LONGEST_GRACE:
        raise Usage(command, f"--stop-timeout {grace:g}: give 0 to {_LONGEST_GRACE} seconds")
    if args.json_status_fd is not None:
        _require_open("--json-status-fd", args.json_status_fd)
    return {
        "new_session": args.new_session,
        "grace": None if grace is None else int(grace * 1000),
        "json_status": args.json_status_fd,
    }


def more_arguments(arguments: Sequence[str], descriptor: int) -> list[str]:
    """The arguments with those of a descriptor in place of the first --args. Raises: NotOpen, OSError."""
    _require_open(_ARGS, descriptor)
    with open(descriptor, "rb") as file:
        more = [os.fsdecode(one) for one in file.read().removesuffix(b"\0").split(b"\0")]
    at = next(at for at, one in enumerate(arguments) if one.partition("=")[0] == _ARGS)
    words = 1 if "=" in arguments[at] else 2
    return [*arguments[:at], *more, *arguments[at + words :]]


def _require_open(option: str, descriptor: int) -> None:
    if descriptor not in namespace.descriptors.inherited():
        raise namespace.NotOpen(option, descriptor)


def declare_descriptors(command: Options) -> None:
    """The descriptors that the command inherits."""
    command.add_argument(
        "--preserve-fds",
        type=int,
        default=0,
        metavar="N",
        help="pass the N descriptors from 3 on, directories and namespaces too: a program reads outside of its view "
        "through them (default: pipes, sockets, plain files and terminals pass, under any number)",
    )
    command.add_argument(
        "--preserve-fd",
        metavar="FD[,FD...]",
        action="append",
        default=[],
        help="pass these descriptors",
    )


def _data(args: Values) -> list[list[str]]:
    return [*vars(args).get("bind_data", ()), *vars(args).get("ro_bind_data", ())]


def descriptors(args: Values, inherited: frozenset[int]) -> frozenset[int]:
    """Those of `inherited` that the command gets. Raises: Error."""
    for number in (
        vars(args).get("json_status_fd"),
        *(int(number) for number, _ in _data(args) if number.isdecimal()),
    ):
        inherited -= {number}
    named = namespace.descriptors.named(args.preserve_fds, args.preserve_fd, inherited)
    return frozenset(named | namespace.descriptors.passed_by_default(inherited))
