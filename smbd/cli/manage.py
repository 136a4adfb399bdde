"""``millpond kick`` and ``millpond close``: end a client's session, or close what it has open.

Owns: both commands. They speak to the server through the socket in its lock directory (``smbd.control_messages``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pools.layout import WireError
from pools.port import sockets
from smbd.cli import place
from smbd.control_messages import CONTROL_SOCKET, ORDER, REPORT, Outcome, Verb
from smbd.instance import StartError

if TYPE_CHECKING:
    from smbd.cli.command import Run
    from smbd.config import Config

# The server gives a worker five seconds to answer.
_PATIENCE = 10.0
_KICK = """\
End sessions as if their clients had logged off: what they have open is closed, what they hold locked is free. A client that still wants
something logs on again by itself; to keep it out, remove its user or change 'hosts allow' first.

example:
  millpond status sessions        the first column names sessions
  millpond kick 3f00000000000012
"""
_CLOSE = """\
Close opens as if their clients had: the client's next request about one fails, and what it has not written yet is lost.

example:
  millpond status opens           the first column names opens
  millpond close 10000100000005
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """kick, close."""
    plain = argparse.RawDescriptionHelpFormatter
    kick = commands.add_parser("kick", help="end a client's session", description=_KICK, formatter_class=plain)
    kick.add_argument("ids", metavar="SESSION", nargs="+", type=_number, help="as 'millpond status sessions' names it")
    place.add_options(kick)
    kick.set_defaults(action=_kick)
    close = commands.add_parser("close", help="close a file that a client has open", description=_CLOSE, formatter_class=plain)
    close.add_argument("ids", metavar="OPEN", nargs="+", type=_number, help="as 'millpond status opens' names it")
    place.add_options(close)
    close.set_defaults(action=_close)


def _number(text: str) -> int:
    try:
        found = int(text, 16)
    except ValueError:
        found = -1
    if not 0 <= found < 1 << 64:
        raise argparse.ArgumentTypeError(f"'{text}' is not an id: up to 16 hexadecimal digits, as 'millpond status' shows them")
    return found


def _kick(arguments: argparse.Namespace, _run: Run) -> int:
    return _order(arguments, Verb.END_SESSION, "session", "{:016x}")


def _close(arguments: argparse.Namespace, _run: Run) -> int:
    return _order(arguments, Verb.CLOSE_OPEN, "open", "{:x}")


def _order(arguments: argparse.Namespace, verb: Verb, thing: str, form: str) -> int:
    """One after the other; the first that cannot be done ends it."""
    config = place.locate(arguments)
    place.master(config)
    for number in arguments.ids:
        name = f"{thing} {form.format(number)}"
        outcome = _ask(config, verb, number)
        if outcome is Outcome.UNKNOWN:
            raise StartError(f"there is no {name} (any more): 'millpond status {thing}s' shows what there is")
        if outcome is Outcome.UNANSWERED:
            text = "'millpond status processes' names it, and kill -9 ends it: one client, or with 'server mode = threaded' all of them"
            raise StartError(f"{name}: its process does not answer; {text}")
        print(f"millpond: {name} has ended" if verb is Verb.END_SESSION else f"millpond: {name} is closed")
    return 0


def _ask(config: Config, verb: Verb, number: int) -> Outcome:
    path = str(Path(config.lock_directory) / CONTROL_SOCKET)
    try:
        with sockets.connect_local(path, _PATIENCE) as server:
            server.sendall(ORDER.pack(verb, 0, number))
            return Outcome(REPORT.unpack(memoryview(server.recv(REPORT.size))).outcome)
    except PermissionError:
        raise StartError(f"{path}: belongs to another user: do this as that user or as root") from None
    except (FileNotFoundError, ConnectionError, TimeoutError, BlockingIOError, WireError):
        raise StartError(f"{path}: the server's srvsvc does not answer: it may just be starting; try again") from None
