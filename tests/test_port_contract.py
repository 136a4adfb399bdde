"""Nothing above ``pools/port`` asks the operating system itself: whoever does would work on one port only.

Each module's syntax tree is walked. What is looked for is a name of one of the modules through which Python speaks to the system; what only
names a thing (a flag, a signal's number, a type in an annotation) or computes (``os.path``) is nobody's call, and allowed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("authd", "pools", "smbd", "srvsvc", "workers")
LAYER = "pools/port/"
PORTS = ("pools.port.linux", "pools.port.posix", "pools.port.portable")

# Module: the way out.
WATCHED = {
    "_posixsubprocess": "processes",
    "_thread": "processes.start_thread",
    "asyncio": "the loops of pools.queue, smbd.reactor and workers.loop",
    "ctypes": "a function of its own in every port, declared in pools.port.interface",
    "fcntl": "files.lock, or a function in every port",
    "mmap": "memory.map_shared",
    "multiprocessing": "processes.fork",
    "os": "files, processes or credentials",
    "posix": "files, processes or credentials",
    "posix_ipc": "memory.create_shared_memory",
    "pty": "a function in every port",
    "resource": "processes.raise_descriptor_limit, sandbox.write_no_core",
    "select": "polling.poller",
    "selectors": "polling.poller",
    "setproctitle": "processes.set_title",
    "shutil": "files.remove_tree, or a function in every port",
    "signal": "processes.on_signals, hold_signals, kill",
    "socket": "sockets",
    "subprocess": "processes",
    "tempfile": "files",
    "threading": "processes.start_thread",
}

# Names of theirs that make no call, or none that a port could make otherwise.
HARMLESS = {
    "mmap": {"mmap"},  # as a type
    "os": {
        # computing
        "DirEntry", "PathLike", "environ", "fsdecode", "fsencode", "fspath", "makedev", "path", "stat_result", "strerror",
        # flags that POSIX has, and every Python
        "O_APPEND", "O_CREAT", "O_DIRECTORY", "O_EXCL", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "O_RDONLY", "O_RDWR", "O_WRONLY",
        "R_OK", "ST_RDONLY", "W_OK", "X_OK", "devnull",
    },
    "signal": {"SIGCHLD", "SIGHUP", "SIGINT", "SIGKILL", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIG_DFL", "SIG_IGN", "Signals"},
    "socket": {
        "AF_INET", "AF_INET6", "IPPROTO_IPV6", "IPV6_V6ONLY", "MSG_WAITALL", "SHUT_WR", "SOL_SOCKET", "SO_KEEPALIVE", "SO_REUSEADDR",
        "socket",
    },
    "threading": {"Lock", "RLock", "local"},  # the interpreter's own, and no thread
}  # fmt: skip

# (file, module): why this one may.
EXCUSED = {
    ("smbd/cli/command.py", "os"): "the command's own standard output, after its reader has gone",
    ("smbd/cli/watch.py", "shutil"): "the size of the terminal that the command itself writes to",
    ("smbd/cli/tune.py", "tempfile"): "the folder that is measured when none is named",
    ("smbd/tuning/datapath.py", "socket"): "a measurement of what one port has: it plays both ends of a connection over loopback",
    ("smbd/tuning/datapath.py", "tempfile"): "likewise: the file it measures with",
    ("smbd/tuning/rewrite.py", "os"): "an administrator's file, edited by an administrator's command: its owner is kept",
    ("smbd/tuning/rewrite.py", "shutil"): "likewise: its mode and times",
    ("smbd/tuning/rewrite.py", "tempfile"): "likewise: the draft beside it",
}


class Use(NamedTuple):
    """One name of a watched module in a file."""

    line: int
    module: str
    name: str
    called: bool


def uses(tree: ast.Module) -> Iterator[Use]:
    """Every use of a watched module. An import as another name is followed, one of all names is a use of '*'."""
    known: dict[str, str] = {}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                top = one.name.split(".")[0]
                if top in WATCHED:
                    known[one.asname or top] = top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and node.module.split(".")[0] in WATCHED:
            for one in node.names:
                name = node.module.partition(".")[2] or one.name
                yield Use(node.lineno, node.module.split(".")[0], name, False)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            yield Use(node.lineno, known[node.value.id], node.attr, id(node) in called)


def ports_named(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of one port's own modules."""
    for node in ast.walk(tree):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
        for name in names:
            if name.startswith(PORTS):
                yield node.lineno, name
                break


def offences(text: str, file: str) -> list[str]:
    """What a file may not do, each with its line and the way out."""
    tree = ast.parse(text)
    found = [f"{file}:{line}: {name} is one port's own; way out: the areas of pools.port" for line, name in ports_named(tree)]
    for use in uses(tree):
        harmless = use.name in HARMLESS.get(use.module, ())
        if harmless and not (use.called and use.module in ("mmap", "socket")):
            continue
        if (file, use.module) not in EXCUSED:
            found.append(f"{file}:{use.line}: {use.module}.{use.name} asks the system past the port; way out: {WATCHED[use.module]}")
    return sorted(found)


def files() -> list[str]:
    return sorted(
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if not path.relative_to(ROOT).as_posix().startswith(LAYER)
    )


def test_nothing_above_the_layer_asks_the_system_itself() -> None:
    found = [line for file in files() for line in offences((ROOT / file).read_text(encoding="utf-8"), file)]
    assert not found, "\n" + "\n".join(found)


def test_every_excuse_is_needed() -> None:
    for file, module in EXCUSED:
        there = [use for use in uses(ast.parse((ROOT / file).read_text(encoding="utf-8"))) if use.module == module]
        assert any(use.name not in HARMLESS.get(module, ()) for use in there), f"{file} does without {module} now: take it from the list"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import os\n\nos.open('x', os.O_RDONLY)\n", 3),
        ("import os as o\no.getpid()\n", 2),
        ("from os import getpid\n", 1),
        ("import socket\nsocket.socket()\n", 2),
        ("from select import epoll\n", 1),
        ("from pools.port import linux\n", 1),
        ("\nfrom pools.port.posix.files import open_beneath\n", 2),
        ("import pools.port.portable\n", 1),
        ("def f():\n    import ctypes\n    ctypes.CDLL(None)\n", 3),
    ],
)
def test_the_walk_finds(text: str, line: int) -> None:
    (found,) = offences(text, "smbd/x.py")
    assert found.startswith(f"smbd/x.py:{line}: ")
    assert "way out: " in found


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.path.join('a', 'b')\nos.O_RDWR | os.O_CREAT\n",
        "import socket\ndef f(sock: socket.socket) -> None: ...\n",
        "import signal\nsignal.Signals(9).name\n",
        "from os import path, environ\n",
        "from pools.port import choice, files\nfrom pools.port.interface import Place\n",
    ],
)
def test_the_walk_lets_pass(text: str) -> None:
    assert offences(text, "smbd/x.py") == []
