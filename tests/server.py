"""A real server for tests: ``python -m smbd run --config FILE`` on a free loopback port.

Owns: the process, its private directory and its log. ``MILLPOND_TEST_SERVER=samba`` puts Samba's smbd in its place (as root), to
tell a fault of a test from a fault of the server. ``MILLPOND_TEST_SETTINGS='pool mode = static; server mode = threaded'`` runs any live
test in another form of the server: [global] parameters that a test's own settings go before. ``MILLPOND_COMBINATION`` names a whole row of
them (``tests.combinations``).
Invariant: ``finish`` fails when the server does not end by itself with status 0, leaves a process behind, or logged a traceback.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psutil

from bench.load.account import tree
from bench.load.peers import ACCOUNT, ROOT, Millpond, Samba
from smbd.smb2 import status
from tests import combinations
from tests.wire_client import Offer, SocketTransport, WireClient

KIND = os.environ.get("MILLPOND_TEST_SERVER", "millpond")
IS_SAMBA = KIND == "samba"
OTHER = ("news", "Other.Pond-4451")
SHARE = "share"
_SETTINGS = "MILLPOND_TEST_SETTINGS"

# What Samba needs to offer what millpond offers by itself.
_SAMBA_SHARE = {
    "vfs objects": "acl_xattr streams_xattr",
    "acl_xattr:ignore system acls": "yes",
    "ea support": "yes",
    "store dos attributes": "yes",
    "map archive": "no",
}


class _Millpond(Millpond):
    share_name: ClassVar[str] = SHARE


class _Samba(Samba):
    share_name: ClassVar[str] = SHARE


def given_settings() -> dict[str, str]:
    """What ``MILLPOND_COMBINATION`` and ``MILLPOND_TEST_SETTINGS`` say; the second goes before the first."""
    pairs = (entry.partition("=") for entry in os.environ.get(_SETTINGS, "").split(";") if entry.strip())
    return combinations.chosen() | {name.strip(): value.strip() for name, _, value in pairs}


class Server:
    """A server under test. The options are those of ``bench.load.peers.Millpond``."""

    def __init__(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        share_settings: Mapping[str, str] | None = None,
        accounts: Sequence[tuple[str, str]] = (ACCOUNT, OTHER),
        **options: Any,
    ) -> None:
        self.settings = {**({} if IS_SAMBA else given_settings()), **(settings or {})}
        mine = {**(_SAMBA_SHARE if IS_SAMBA else {}), **(share_settings or {})}
        kind = _Samba if IS_SAMBA else _Millpond
        self.peer: Millpond = kind(settings=self.settings, share_settings=mine, accounts=accounts, **options)
        self.user, self.password = accounts[0] if accounts else ACCOUNT
        self.other_user, self.other_password = OTHER
        self.share = self.peer.share
        self.expected_traceback = False
        self._runs = False

    # -- life --------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Configures and starts; returns when connections are accepted."""
        self.peer.start()
        self._runs = True

    def finish(self) -> None:
        """SIGTERM; asserts a clean end and a clean log."""
        if not self._runs:
            return
        self._runs = False
        code = self.peer.stop()
        log = self.peer.log_text()
        assert code == 0 or IS_SAMBA, f"the server ended with status {code}\n{log[-4000:]}"
        assert not self.peer.left_over or IS_SAMBA, f"processes were left: {self.peer.left_over}\n{log[-4000:]}"
        assert self.expected_traceback or "Traceback" not in log, f"a traceback in the log\n{log[-8000:]}"

    def discard(self) -> None:
        """Ends what may still run and removes the directory. Asserts nothing."""
        self._runs = False
        self.peer.stop()
        self.peer.remove()

    @contextmanager
    def running(self) -> Iterator[Server]:
        """Started; finished unless something was wrong, discarded in any case."""
        try:
            self.start()
            yield self
            self.finish()
        finally:
            self.discard()

    # -- what it is --------------------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The loopback port."""
        return self.peer.port

    def on_port_445(self) -> None:
        """Before the start: an own loopback address and SMB's own port, for tools that know no other."""
        self.peer.host = f"127.{os.getpid() % 200 + 1}.{random.randrange(1, 250)}.{random.randrange(1, 250)}"
        self.peer.port = 445

    @property
    def pid(self) -> int:
        """The master's process id."""
        return self.peer.pid

    @property
    def log(self) -> str:
        """The log so far."""
        return self.peer.log_text()

    def pids(self, role: str) -> list[int]:
        """The processes of a role: 'worker', 'authd', 'srvsvc' or 'broker'."""
        return [row["pid"] for row in self.status("processes")["processes"] if row["role"] == role]

    def worker_of(self, client: WireClient) -> psutil.Process:
        """The worker that serves a client: the process that holds the other end of its connection."""
        assert isinstance(client.transport, SocketTransport)
        mine = client.transport.socket.getsockname()
        for process in reversed(tree(self.pid)):
            try:
                held = process.net_connections("tcp")
            except psutil.Error:
                continue
            if any(end.raddr and tuple(end.raddr) == tuple(mine) for end in held):
                return process
        raise AssertionError(f"no process of the server holds the connection from {mine}")

    # -- its tools ---------------------------------------------------------------------------------------------------------------

    def command(self, *words: str, text: str = "", timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Runs ``millpond WORDS --config FILE``."""
        return subprocess.run(
            [sys.executable, "-m", "smbd", *words, "--config", str(self.peer.config)], input=text, capture_output=True, text=True,
            timeout=timeout, cwd=ROOT, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def status(self, *words: str) -> Any:
        """``millpond status --json``. A server that listens may not be all there yet: who is told to try again does."""
        answers: list[subprocess.CompletedProcess[str]] = []

        def asked() -> bool:
            answers.append(self.command("status", *words, "--json"))
            return answers[-1].returncode == 0 or "try again" not in answers[-1].stderr

        eventually(asked, 20, "the server is never more than just starting")
        assert answers[-1].returncode == 0, answers[-1].stderr
        return json.loads(answers[-1].stdout)

    def buffers_in_use(self) -> int:
        """Pool buffers that are out, over all classes and processes."""
        return sum(row.get("in_use", 0) for row in self.status("pools")["pools"])

    def pool_bytes(self) -> int:
        """Memory the pools have committed, over all classes and processes."""
        return sum(row["committed_bytes"] for row in self.status("pools")["pools"])

    # -- its clients -------------------------------------------------------------------------------------------------------------

    def negotiated(self, timeout: float = 20.0, offer: Offer | None = None) -> WireClient:
        """A raw client that has negotiated."""
        client = WireClient((self.peer.host, self.port), timeout)
        assert client.negotiate(offer).status == status.SUCCESS
        return client

    def client(self, *, other: bool = False, timeout: float = 20.0, offer: Offer | None = None) -> WireClient:
        """A raw client with a session and a tree connect to the share."""
        client = self.negotiated(timeout, offer)
        who = (self.other_user, self.other_password) if other else (self.user, self.password)
        answer = client.session_setup(*who)
        assert answer.status == status.SUCCESS, status.name(answer.status)
        answer = client.tree_connect(SHARE)
        assert answer.status == status.SUCCESS, status.name(answer.status)
        return client


def eventually(condition: Callable[[], Any], timeout: float = 10.0, what: str = "it did not come about") -> Any:
    """The condition's first true value; asks again until the time is up."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return value


def tool(name: str) -> str:
    """The path of a program that the tests need. Absent is a failure, never a silent skip."""
    path = shutil.which(name)
    assert path, f"{name} is not installed: 'make packages' as root installs it"
    return path


@contextmanager
def stand_in(program: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that a command takes for the server in ``directory``: it says "up", and ends when its standard input does."""
    argv = [sys.executable, "-c", program, str(directory)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()
