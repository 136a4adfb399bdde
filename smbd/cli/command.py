"""The parser and the one place where errors become lines.

Owns: the table of commands. Each command is a function ``(arguments, run) -> exit status`` in a module of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from authd.users import UserError
from smbd.cli import check, control, manage, record, serving, status, tune, users, watch
from smbd.cli.place import DEFAULT_CONFIG
from smbd.config import Config, ConfigError
from smbd.instance import StartError
from smbd.version import VERSION, form

_ABOUT = """\
Millpond serves folders to Windows, macOS and Linux over SMB 2 and SMB 3.

Try it, without any set-up:      millpond serve ~/Public
Run it for good:                 millpond check --config /etc/millpond/millpond.conf
                                 millpond run   --config /etc/millpond/millpond.conf
"""
_MORE = """\
'millpond COMMAND --help' explains a command and shows examples. The configuration is written like smb.conf; millpond.conf(5) lists the
parameters. Without --config or --port, a command looks for a running 'millpond serve' of this user, then for {config}.
"""


class Run(Protocol):
    """Serves ``config`` until told to stop and returns the exit status; ``StartError`` or ``OSError`` when it cannot start.

    ``prepare`` is called once this process is known to be the only instance and before the first fork; ``ready`` once it listens;
    ``reread`` on SIGHUP: a new configuration, or ``ConfigError`` and everything stays as it is.
    """

    def __call__(
        self, config: Config, *, reread: Callable[[], Config], prepare: Callable[[], None], ready: Callable[[], None]
    ) -> int: ...


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    made = argparse.ArgumentParser(
        prog="millpond",
        description=_ABOUT,
        epilog=_MORE.format(config=DEFAULT_CONFIG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"millpond {VERSION}, {form()}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (serving, users, status, watch, manage, check, record, tune, control):
        module.add_commands(commands)
    return made


def main(argv: Sequence[str] | None = None, *, run: Run) -> int:
    """Carry out one command; returns the exit status (2 for a command line that cannot be read)."""
    _complete_streams()
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    try:
        status: int = arguments.action(arguments, run)
        sys.stdout.flush()
    except ConfigError as error:
        for one in (error, *error.further):
            _say(str(one))
    except (StartError, UserError) as error:
        _say(str(error))
    except BrokenPipeError:
        # Whoever read our output has seen enough (`millpond status | head`). Nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _say(f"{error.filename or arguments.command}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130
    else:
        return status
    return 1


def _complete_streams() -> None:
    """A standard stream that the caller closed leads nowhere; otherwise it is no stream at all, and a file opened later has its number."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  # open as long as the process
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # likewise
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # likewise


def _say(text: str) -> None:
    print(f"millpond: {text}", file=sys.stderr)
