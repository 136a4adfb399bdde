"""Which port is in use.

Owns: the areas, one for each Protocol of the interface. Invariant: an area has the functions of one port, all of them and nothing else,
from the import on. ``use`` changes that; the composition root calls it when the configuration is read, before anything was built on the
port and before the first fork.

An area is a module object that ``use`` fills with the chosen port's very functions. Who imports one (``from pools.port import files``) and
calls ``files.preadv(...)`` looks up one attribute, which the interpreter caches as that of any module: a hot path pays nothing for the
choice. A function that a module binds to a name of its own while it is imported would stay the default port's: bind where an object is
made.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Final, NamedTuple, cast

from pools.port.interface import Credentials, Files, Memory, Polling, Processes, Sandbox, Sockets, Watching

NAMES: Final = ("linux", "posix")
DEFAULT: Final = "linux" if sys.platform == "linux" else "posix"


class Port(NamedTuple):
    """One port's modules. They are compared with the interface where they are put in here."""

    name: str
    credentials: Credentials
    files: Files
    memory: Memory
    polling: Polling
    processes: Processes
    sandbox: Sandbox
    sockets: Sockets
    watching: Watching


credentials = cast(Credentials, ModuleType("credentials"))
files = cast(Files, ModuleType("files"))
memory = cast(Memory, ModuleType("memory"))
polling = cast(Polling, ModuleType("polling"))
processes = cast(Processes, ModuleType("processes"))
sandbox = cast(Sandbox, ModuleType("sandbox"))
sockets = cast(Sockets, ModuleType("sockets"))
watching = cast(Watching, ModuleType("watching"))

_AREAS: Final[tuple[tuple[object, type], ...]] = (
    (credentials, Credentials),
    (files, Files),
    (memory, Memory),
    (polling, Polling),
    (processes, Processes),
    (sandbox, Sandbox),
    (sockets, Sockets),
    (watching, Watching),
)
_in_use = ""


def _linux() -> Port:
    from pools.port.linux import credentials, files, memory, polling, processes, sandbox, sockets, watching  # noqa: PLC0415 - of the one in use

    return Port("linux", credentials, files, memory, polling, processes, sandbox, sockets, watching)


def _posix() -> Port:
    from pools.port.posix import credentials, files, memory, polling, processes, sandbox, sockets, watching  # noqa: PLC0415 - likewise

    return Port("posix", credentials, files, memory, polling, processes, sandbox, sockets, watching)


def load(name: str) -> Port:
    """A port, whether it is the one in use or not. ImportError where the machine has not what it needs; ValueError for no port's name."""
    if name == "linux":
        return _linux()
    if name == "posix":
        return _posix()
    raise ValueError(f"{name!r} is no port: one of {', '.join(NAMES)}")


def use(name: str) -> None:
    """From here on the areas are those of port ``name``."""
    global _in_use
    if name == _in_use:
        return
    for (area, protocol), chosen in zip(_AREAS, load(name)[1:], strict=True):
        for function in vars(protocol):
            if not function.startswith("_"):
                setattr(area, function, getattr(chosen, function))
    _in_use = name


def in_use() -> str:
    """The name of the port in use."""
    return _in_use


use(DEFAULT)
