"""``millpond reload`` and ``millpond stop``: tell a running server.

Owns: the two signals and the waiting. Invariant: a configuration that cannot be used is never sent for.
"""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING

from pools.port import processes
from smbd.cli import place
from smbd.instance import StartError

if TYPE_CHECKING:
    from smbd.cli.command import Run

_GRACE = 5.0
_RELOAD = """\
Have a running server read its configuration again. The file is checked first: one that cannot be used changes nothing.

example:
  millpond reload --config /etc/millpond/millpond.conf
"""
_STOP = """\
Have a running server end: connections get 'stop timeout' seconds to finish what they are doing. Waits until it has ended.

examples:
  millpond stop                    the 'millpond serve' of this user
  millpond stop --port 4450
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """reload, stop."""
    plain = argparse.RawDescriptionHelpFormatter
    about = "have a running server read its configuration again"
    reload = commands.add_parser("reload", help=about, description=_RELOAD, formatter_class=plain)
    place.add_options(reload)
    reload.set_defaults(action=_reload)
    stop = commands.add_parser("stop", help="have a running server end", description=_STOP, formatter_class=plain)
    place.add_options(stop)
    stop.add_argument("--timeout", type=float, metavar="SECONDS", default=0.0, help="how long to wait")
    stop.set_defaults(action=_stop)


def _reload(arguments: argparse.Namespace, _run: Run) -> int:
    pid = place.master(place.locate(arguments))
    _tell(pid, signal.SIGHUP)
    print(f"millpond: process {pid} reads its configuration again")
    return 0


def _stop(arguments: argparse.Namespace, _run: Run) -> int:
    config = place.locate(arguments)
    pid = place.master(config)
    seconds = arguments.timeout or config.stop_timeout + _GRACE
    if not _end(pid, seconds):
        raise StartError(f"process {pid} has not ended within {seconds:g} s: see its log, wait longer with --timeout, or kill -9 {pid}")
    print(f"millpond: process {pid} has ended")
    return 0


def _tell(pid: int, number: signal.Signals) -> None:
    try:
        processes.kill(pid, number)
    except ProcessLookupError:
        raise StartError(f"process {pid} has just ended") from None
    except PermissionError:
        raise StartError(f"process {pid} belongs to another user: do this as that user or as root") from None


def _end(pid: int, seconds: float) -> bool:
    """SIGTERM, then wait for the process; True when it is gone."""
    try:
        with processes.watched(pid) as ended:
            _tell(pid, signal.SIGTERM)
            return ended(seconds)
    except ProcessLookupError:
        return True


