"""The drivers, which merge a view's layers into its root file system, and the choice of one.

`fuse` is our file system, served by a daemon; `kernel` the kernel's overlayfs; `auto` the kernel's where it can show
the view. The first of these that names a driver counts: the caller (`--driver`, `View(driver=)`), the variable
OVERLAYKIT_DRIVER, the user's configuration file, the machine's.
"""

from __future__ import annotations

import os

from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

FUSE: Final = "fuse"
KERNEL: Final = "kernel"
AUTO: Final = "auto"
NAMES: Final = (FUSE, KERNEL, AUTO)

VARIABLE: Final = "OVERLAYKIT_DRIVER"

_FILE: Final = os.path.join("overlaykit", "config.toml")
_KEY: Final = "driver"
_ANY: Final = "give 'fuse', 'kernel' or 'auto'"


class DriverUnknown(Error):
    message = "{0}: there is no driver '{1}': " + _ANY


class ConfigurationInvalid(Error):
    message = "{0}: {1}: mend the file, or remove it"


def chosen(given: str | None) -> str:
    """The driver to use, `given` if that is not None. Raises: DriverUnknown, ConfigurationInvalid."""
    if given is not None:
        return _known("--driver", given)
    if named := os.environ.get(VARIABLE):
        return _known(VARIABLE, named)
    for path in configuration_files():
        configured = _configured(path)
        if configured is not None:
            return configured
    return FUSE


def configuration_files() -> Iterator[str]:
    """The configuration files that may be there: the user's, then the machine's."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(home):  # as the XDG base directory specification says
        home = os.path.join(os.path.expanduser("~"), ".config")
    if os.path.isabs(home):
        yield os.path.join(home, _FILE)
    yield os.path.join("/etc", _FILE)


def _known(source: str, name: str) -> str:
    if name not in NAMES:
        raise DriverUnknown(source, name)
    return name


def _configured(path: str) -> str | None:
    """The driver that a configuration file names; None if it names none or is not there."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationInvalid(path, error.strerror) from error
    with file:
        import tomllib  # late: most users have no such file

        try:
            settings = tomllib.load(file)
        except (ValueError, OSError) as error:
            raise ConfigurationInvalid(path, str(error).replace("\n", " ")) from error
    for key in settings:
        if key != _KEY:
            raise ConfigurationInvalid(path, f"there is no setting '{key}', only '{_KEY}'")
    if _KEY not in settings:
        return None
    name = settings[_KEY]
    if not isinstance(name, str):
        raise ConfigurationInvalid(path, f"{_KEY} is no text: {_ANY}")
    return _known(path, name)
