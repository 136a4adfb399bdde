"""Which server a command is about: a configuration file, or a running ``millpond serve``.

Owns: the options --config and --port, the answer to "does it run, and as which process?", and what can be in the way of looking at it.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pools.layout import WireError
from pools.port import files
from smbd.config import Config, load
from smbd.config import serve as folder
from smbd.instance import LOCK_FILE, PID_FILE, StartError

DEFAULT_CONFIG = "/etc/millpond/millpond.conf"


def add_options(parser: argparse.ArgumentParser) -> None:
    """--config and --port."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--config", metavar="FILE", help=f"the configuration of the server (default: {DEFAULT_CONFIG})")
    which.add_argument("--port", type=port, metavar="N", help="the 'millpond serve' of this user on port N")


def port(text: str) -> int:
    """A TCP port."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port from 1 to 65535")
    return int(text)


def locate(arguments: argparse.Namespace) -> Config:
    """The configuration of the server that is meant. Of a ``serve`` only its directories and port are known from outside."""
    if arguments.config:
        return load(arguments.config)
    if arguments.port:
        return folder.instance(arguments.port)
    serving = running_ports()
    if len(serving) > 1:
        raise StartError(f"'millpond serve' runs on ports {', '.join(map(str, serving))}: say which with --port")
    if serving:
        return folder.instance(serving[0])
    if not os.path.exists(DEFAULT_CONFIG):
        raise StartError(f"no 'millpond serve' runs here and there is no {DEFAULT_CONFIG}: name a server with --config FILE or --port N")
    return load(DEFAULT_CONFIG)


def running_ports() -> list[int]:
    """The ports on which this user's ``serve`` runs."""
    prefix = folder.state_prefix()
    found = []
    for entry in folder.state_root().glob(prefix + "*"):
        number = entry.name.removeprefix(prefix)
        if number.isdecimal() and holder(entry / "lock"):
            found.append(int(number))
    return sorted(found)


def holder(lock_directory: str | Path) -> int:
    """The process id of the master whose lock file this is; 0 when none runs. What others have put in a ``serve``'s place is no server."""
    directory = Path(lock_directory)
    if folder.is_state(directory.parent) and not folder.is_ours(directory.parent):
        return 0
    try:
        lock = files.open(directory / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe is not waited for
    except FileNotFoundError:
        return 0
    try:
        if not stat.S_ISREG(files.fstat(lock).st_mode):
            return 0
        files.lock(lock, shared=True)
    except BlockingIOError:
        text = files.pread(lock, 32, 0).strip()
        return int(text) if text.isdigit() else 0
    else:
        return 0  # nobody holds it: the number in the file is from the past
    finally:
        files.close(lock)


@contextmanager
def looking() -> Iterator[None]:
    """Around a look at a running server's state: what can be in the way, and the way out."""
    try:
        yield
    except FileNotFoundError as error:
        raise StartError(f"{error.filename}: not there (yet): the server is just starting or ending; try again") from None
    except PermissionError as error:
        raise StartError(f"{error.filename}: belongs to another user: do this as that user or as root") from None
    except WireError as error:
        raise StartError(f"{error}: use the millpond command of the running server") from None


def master(config: Config) -> int:
    """The master's process id; ``StartError`` when the server does not run."""
    with looking():
        found = holder(config.lock_directory)
    if not found:
        raise StartError(f"no server runs with {Path(config.pid_directory) / PID_FILE}: start it with 'millpond run' or 'millpond serve'")
    return found
