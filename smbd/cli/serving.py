"""``millpond serve`` and ``millpond run``: hand a configuration to the server.

Owns: the life of a ``serve``'s state directory. Invariants: it is filled and removed only by the one server on its port, and none is left
by a server that could not start.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pools.port import files
from smbd.cli import connect, place
from smbd.cli.enrol import accounts, enrol
from smbd.config import Config, load
from smbd.config.serve import Serve, default_port, from_serve, make_state, state_directory
from smbd.instance import Instance, StartError

if TYPE_CHECKING:
    from smbd.cli.command import Run

_SERVE = """\
Serve one folder, without any set-up: everything the server needs to remember lies in memory and is gone when it ends (Ctrl-C).
Without --user there is one user with your name; without a password one is made up and shown.

examples:
  millpond serve ~/Public                          read and write, for you
  millpond serve /srv/films --guest --read-only    read, for everybody
  millpond serve . --user ann --user bob:secret    two users; Ann's password is made up
  millpond serve . --listen 127.0.0.1 --config-option 'smb encrypt = required'
"""
_RUN = """\
Serve what a configuration file describes, in the foreground: for systemd or another supervisor. The file is written like smb.conf.
SIGHUP (or 'millpond reload') reads it again; SIGTERM (or 'millpond stop') lets connections finish and ends.

example:
  millpond run --config /etc/millpond/millpond.conf
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """serve, run."""
    plain = argparse.RawDescriptionHelpFormatter
    serve = commands.add_parser("serve", help="serve one folder now, without set-up", description=_SERVE, formatter_class=plain)
    serve.add_argument("directory", metavar="DIR", help="the folder to serve")
    serve.add_argument("--share", metavar="NAME", default="", help="the share's name (default: the folder's)")
    serve.add_argument("--port", type=place.port, metavar="N", default=0, help=f"TCP port (default here: {default_port()})")
    serve.add_argument("--listen", metavar="ADDR", action="append", default=[], help="listen on this address or interface only; repeatable")
    serve.add_argument("--user", metavar="NAME[:PASSWORD]", action="append", default=[], help="who may log on; repeatable")
    serve.add_argument("--guest", action="store_true", help="let everybody in, without a password")
    serve.add_argument("--read-only", action="store_true", help="nothing can be changed")
    serve.add_argument(
        "--config-option", metavar="'NAME = VALUE'", action="append", default=[], help="any parameter of millpond.conf(5); repeatable"
    )
    serve.set_defaults(action=_serve)
    run = commands.add_parser("run", help="serve what a configuration file describes", description=_RUN, formatter_class=plain)
    run.add_argument("--config", metavar="FILE", default=place.DEFAULT_CONFIG, help="the configuration (default: %(default)s)")
    run.set_defaults(action=_run)


def _serve(arguments: argparse.Namespace, run: Run) -> int:
    port = arguments.port or default_port()
    options = Serve(
        directory=arguments.directory,
        share=arguments.share,
        port=port,
        listen=tuple(arguments.listen),
        guest=arguments.guest,
        read_only=arguments.read_only,
        options=tuple(arguments.config_option),
    )
    config = from_serve(options)
    people = accounts(arguments.user, arguments.guest)
    state = state_directory(port)
    made = make_state(state)
    _warn(config)

    ours = False

    def prepare() -> None:
        nonlocal ours
        ours = True
        enrol(config, people)

    def ready() -> None:
        print(connect.text(config, people, arguments.guest), flush=True)

    try:
        return run(config, reread=lambda: from_serve(options), prepare=prepare, ready=ready)
    finally:
        if ours:
            files.remove_tree(state, ignore_errors=True)
        elif made:
            _take_back(state)


def _take_back(state: Path) -> None:
    """Remove a state directory made for a server that could not start, unless another has begun there meanwhile: under its lock."""
    instance = Instance(state / "lock", state / "lock")
    try:
        instance.acquire()
    except StartError:
        return
    files.remove_tree(state, ignore_errors=True)
    instance.release()


def _run(arguments: argparse.Namespace, run: Run) -> int:
    path = arguments.config
    config = load(path)
    _warn(config)
    return run(config, reread=_reread(path), prepare=_nothing, ready=lambda: _listening(config))


def _reread(path: str) -> Callable[[], Config]:
    def reread() -> Config:
        config = load(path)
        _warn(config)
        return config

    return reread


def _nothing() -> None:
    """A server with a configuration file has its user database already."""


def _listening(config: Config) -> None:
    names = [share.name for share in config.shares.values() if share.available and share.kind == "disk"]
    ports = ", ".join(map(str, config.smb_ports))
    print(f"millpond: {config.netbios_name} serves {', '.join(names) or 'no share yet'} on port {ports}", flush=True)


def _warn(config: Config) -> None:
    for warning in config.warnings:
        print(f"millpond: {warning}", file=sys.stderr)
