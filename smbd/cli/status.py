"""``millpond status``: what a running server is doing.

Owns: the command. The looking is the monitor's, which is loaded only then: a server forks from the same command and should inherit little.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from smbd.cli import place
from smbd.instance import StartError

if TYPE_CHECKING:
    from smbd.cli.command import Run

SECTIONS = ("sessions", "channels", "opens", "locks", "pools", "processes")
_STATUS = """\
Show who is connected, what is open and locked, and what memory and processes the server uses. Looking costs the server nothing.

examples:
  millpond status                            everything
  millpond status sessions opens             some of it
  millpond status --json | jq '.sessions[].user'
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """status."""
    status = commands.add_parser(
        "status",
        help="show sessions, channels, opens, locks, pools, processes",
        description=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status.add_argument("sections", metavar="SECTION", nargs="*", help=f"{', '.join(SECTIONS)} (default: all)")
    status.add_argument("--json", action="store_true", help="for programs; sizes in bytes, times in seconds since 1970")
    place.add_options(status)
    status.set_defaults(action=_status)


def _status(arguments: argparse.Namespace, _run: Run) -> int:
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        raise StartError(f"status has no section '{unknown[0]}': choose from {', '.join(SECTIONS)}")
    from smbd import monitor  # noqa: PLC0415  # see above

    config = place.locate(arguments)
    master = place.master(config)
    with place.looking():
        snapshot = monitor.take(config, master, arguments.sections)
    print(json.dumps(snapshot, indent=2) if arguments.json else monitor.as_text(snapshot), end="\n" if arguments.json else "")
    return 0
