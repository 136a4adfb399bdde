"""``millpond top`` and ``millpond web``: a running server watched, on a terminal or with a browser.

Owns: both commands. The looking is the monitor's, which is loaded only then: a server forks from the same command and should inherit
little.
"""

from __future__ import annotations

import argparse
import errno
import shutil
import sys
from typing import TYPE_CHECKING

from pools.port import processes, sockets
from smbd.cli import place
from smbd.instance import StartError
from smbd.listeners import shown

if TYPE_CHECKING:
    from smbd.cli.command import Run

WEB_PORT = 8450
_HOME_AND_CLEAR = "\x1b[H\x1b[2J"
_TOP = """\
Show what a running server does, anew every two seconds: requests and bytes a second, the busiest connections first. Ctrl-C ends it.
Looking costs the server nothing.

examples:
  millpond top
  millpond top --interval 0.5
  millpond top --count 1 | head       once, for a script or a mail
"""
_WEB = """\
Serve a page about a running server for a browser, until Ctrl-C: / renews itself, /status.json is for programs, /metrics for Prometheus.
It shows names of users, clients and files to whoever can reach it, and asks for no password: it listens on this machine alone unless
--listen says otherwise, and answers only under the address it listens on, 'localhost' or a --name.

examples:
  millpond web
  millpond web --listen 192.168.1.5 --web-port 9450 --name nas.example.net
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """top, web."""
    plain = argparse.RawDescriptionHelpFormatter
    top = commands.add_parser("top", help="watch what a running server does", description=_TOP, formatter_class=plain)
    top.add_argument("--interval", type=_seconds, metavar="SECONDS", default=2.0, help="between two looks, from 0.1 (default 2)")
    top.add_argument("--count", type=_whole, metavar="N", default=0, help="end after so many (default: Ctrl-C ends it)")
    place.add_options(top)
    top.set_defaults(action=_top)
    web = commands.add_parser("web", help="a page about a running server, and metrics", description=_WEB, formatter_class=plain)
    web.add_argument("--listen", metavar="ADDR", default="127.0.0.1", help="the address to listen on (default 127.0.0.1)")
    web.add_argument("--web-port", type=place.port, metavar="N", default=WEB_PORT, help=f"the page's port (default {WEB_PORT})")
    web.add_argument("--name", action="append", default=[], help="another name it may be asked for by; may be repeated")
    place.add_options(web)
    web.set_defaults(action=_web)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.1 <= found <= 3600:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 0.1 to 3600")
    return found


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1")
    return int(text)


def _top(arguments: argparse.Namespace, _run: Run) -> int:
    from smbd import monitor  # noqa: PLC0415  # see above
    from smbd.monitor.top import SECTIONS, frame  # noqa: PLC0415  # see above

    config = place.locate(arguments)
    master = place.master(config)
    on_terminal = sys.stdout.isatty()
    with processes.watched(master) as ended, place.looking():
        before = monitor.take(config, master, SECTIONS)
        shown = 0
        try:
            # The first screen has something to compare with, too.
            while not ended(arguments.interval):
                after = monitor.take(config, master, SECTIONS)
                columns, lines = shutil.get_terminal_size() if on_terminal else (200, 1000)
                screen = "\n".join(frame(before, after, columns, lines - 1))
                print(f"{_HOME_AND_CLEAR}{screen}" if on_terminal else f"{screen}\n", flush=True)
                before, shown = after, shown + 1
                if shown == arguments.count:
                    return 0
        except KeyboardInterrupt:
            return 0
    raise StartError(f"the server (process {master}) has ended")


def _web(arguments: argparse.Namespace, _run: Run) -> int:
    from smbd import monitor  # noqa: PLC0415  # see above
    from smbd.monitor.web import Web  # noqa: PLC0415  # see above

    config = place.locate(arguments)

    def look() -> monitor.Snapshot:
        master = place.holder(config.lock_directory)
        if not master:
            raise FileNotFoundError(errno.ENOENT, "no server runs", config.lock_directory)
        return monitor.take(config, master)

    place.master(config)
    with place.looking():
        look()
    names = frozenset((*arguments.name, sockets.host_name()))
    try:
        web = Web((arguments.listen, arguments.web_port), look, names)
    except OSError as error:
        where = shown(arguments.listen, arguments.web_port)
        raise StartError(f"{where}: {error.strerror or error}: choose with --listen and --web-port") from None
    with web:
        print(f"millpond: http://{shown(arguments.listen, int(web.server_address[1]))}/ until Ctrl-C", flush=True)
        try:
            web.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0
