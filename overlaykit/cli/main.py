"""The programs `overlaykit` and `mount.fuse.overlaykit`: errors become one line and an exit status here, only here."""

from __future__ import annotations

import atexit
import errno
import os
import sys

from overlaykit import signals, standard
from overlaykit.cli import commands, output, umask
from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NoReturn

_TOO_MANY_FILES: Final = (errno.EMFILE, errno.ETOOMANYREFS)
"""Open files, and those on their way to another process (unix(7))."""

# As shells do.
_INTERRUPTED: Final = 128 + 2  # SIGINT
_READER_GONE: Final = 128 + 13  # SIGPIPE


def main() -> NoReturn:
    """Run the command of sys.argv and exit with its status."""
    _exit_with(sys.argv[1:])


def mount_helper() -> NoReturn:
    """Run the command of `mount.fuse.overlaykit` and exit with its status."""
    _exit_with([commands.MOUNT_HELPER, *sys.argv[1:]])


def _exit_with(arguments: list[str]) -> NoReturn:
    standard.fill()
    output.replace_streams()
    umask.clear_owner_bits()
    signals.await_children()
    status = run(arguments)
    signals.block_all()  # the command is done: an interrupt of Python's shutdown must not change its status
    _end(status)


def _end(status: int) -> NoReturn:
    """Exit. Where nothing waits for it, the interpreter does not take itself apart, which costs 7 ms of `diff`."""
    if "threading" not in sys.modules and not atexit._ncallbacks() and sys.getprofile() is None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (output.ReaderGone, output.StdoutUnwritable):  # the interpreter says so, as ever
            pass
        else:
            os._exit(status & 0xFF)
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Run a command and print its error, if any. Returns: its exit status."""
    return status_of(lambda: commands.run(arguments))


def status_of(body: Callable[[], int]) -> int:
    """The exit status that `body` returns, or that of its error, which is printed."""
    try:
        status = body()
        sys.stdout.flush()
    except output.ReaderGone:
        output.discard_stdout()
        return _READER_GONE
    except output.StdoutUnwritable as error:
        output.discard_stdout()
        return _fail(str(error), error.exit_code)
    except Error as error:
        return _fail(_too_many_files(error) or str(error), error.exit_code)
    except OSError as error:
        message = _too_many_files(error) or _deleted_directory(error) or _describe(error)
        return _fail(message, Error.exit_code)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _fail(message: str, status: int) -> int:
    output.print_error(message)
    return status


def _deleted_directory(error: OSError) -> str | None:
    """The message for a relative path in a deleted working directory, where getcwd(3) fails without a file name."""
    if error.errno == errno.ENOENT and error.filename is None:
        from overlaykit.namespace.environment import WorkingDirectoryDeleted, current_directory

        try:
            current_directory()
        except WorkingDirectoryDeleted as deleted:
            return str(deleted)
    return None


def _too_many_files(error: BaseException) -> str | None:
    """The message where the limit of open files is the cause, also of an error that names another way out."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _TOO_MANY_FILES:
            limit = os.sysconf("SC_OPEN_MAX")
            return (
                f"{_describe(cause)}: raise the limit of {limit} open files with 'ulimit -n 1024'"
            )
        cause = cause.__context__
    return None


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.filename is None:
        return reason
    return f"{os.fsdecode(error.filename)}: {reason}"
