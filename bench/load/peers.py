"""The servers that are measured, each started here as a process of its own on a free loopback port.

Owns: a private directory per server (share, state, log, configuration) and the process. Also used by the tests.
Invariant: what was started is ended, by its process id, and its directory removed; nothing of the machine's own Samba is touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psutil

from bench.load.account import tree
from bench.load.wire import Where

ROOT = Path(__file__).resolve().parents[2]
# An account that every Debian has: Samba serves Unix accounts only, and all peers should do the same work for identity.
ACCOUNT = ("games", "Mill.Pond-4450")
PATIENCE = 20.0
Settings = Mapping[str, str]


class PeerError(Exception):
    """A server did not start or stop; the text ends with its log."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody accepts connections on a loopback address."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def mortal(command: Sequence[str]) -> list[str]:
    """The command, ended by the kernel when this process dies (where util-linux is there)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", *command] if setpriv else list(command)


class Peer:
    """A server process. Subclasses say how it is configured and called."""

    title: ClassVar[str] = ""
    root: ClassVar[Path] = ROOT  # of the tree that the server runs from
    share_name: ClassVar[str] = "bench"
    protections: ClassVar[tuple[str, ...]] = ("plain", "signed", "encrypted")

    def __init__(self, base: Path | None = None, port: int | None = None, accounts: Sequence[tuple[str, str]] = (ACCOUNT,)) -> None:
        self.base = Path(tempfile.mkdtemp(prefix=f"bench-{type(self).__name__.lower()}-", dir=base))
        self.base.chmod(0o755)
        self.share = self.base / "share"
        self.share.mkdir()
        self.share.chmod(0o777)
        self.log = self.base / "server.log"
        self.host = "127.0.0.1"
        self.port = port or free_port()
        self.accounts = tuple(accounts)
        self.process: subprocess.Popen[bytes] | None = None
        self.left_over: list[str] = []

    # -- for subclasses ----------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Writes the configuration and the accounts."""

    def command(self) -> list[str]:
        """How the server is called, in the foreground."""
        raise NotImplementedError

    # -- for users ---------------------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process that heads the tree."""
        assert self.process is not None
        return self.process.pid

    @property
    def where(self) -> Where:
        """The first account's way to the share."""
        return Where(self.port, *self.accounts[0], share=self.share_name, host=self.host)

    def log_text(self) -> str:
        """What the server has written so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def launch(self) -> None:
        """Starts the process without waiting for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                mortal(self.command()), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.root, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(self.root), "PYTHONUNBUFFERED": "1"},
            )

    def start(self) -> None:
        """Prepares, launches, and returns when connections are accepted."""
        self.prepare()
        self.launch()
        self.await_ready()

    def await_ready(self) -> None:
        """Returns when connections are accepted; ``PeerError`` when the process ends first or takes too long."""
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE
        while not listening(self.port, self.host):
            try:
                code = self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    self.stop()
                    raise PeerError(f"{self.title} does not listen after {PATIENCE:.0f} s\n{self.log_text()[-4000:]}") from None
            else:
                raise PeerError(f"{self.title} ended with status {code}\n{self.log_text()[-4000:]}")

    def stop(self) -> int:
        """SIGTERM, then SIGKILL for whatever is left of it after a while; the exit status (negative: the signal)."""
        if self.process is None:
            return 0
        family = {process.pid: process for process in (*tree(self.process.pid), *self._strays())}
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        family.update((process.pid, process) for process in self._strays())
        family.pop(os.getpid(), None)
        _gone, alive = psutil.wait_procs(list(family.values()), timeout=3)
        self.left_over = [_title(process) for process in alive]
        for process in alive:
            with suppress(psutil.NoSuchProcess):  # it ended by itself after all
                process.kill()
        if self.process.poll() is None:
            self.process.wait(PATIENCE)
        self.process = None
        return code

    def _strays(self) -> list[psutil.Process]:
        """Descendants that made themselves independent: their command line names this server's own directory."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and any(str(self.base) in word for word in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def remove(self) -> None:
        """Removes the server's directory."""
        shutil.rmtree(self.base, ignore_errors=True)


def _title(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())}"
    except psutil.Error:
        return str(process.pid)


def _ini(sections: Mapping[str, Settings]) -> str:
    return "".join(f"[{name}]\n" + "".join(f"    {key} = {value}\n" for key, value in values.items()) for name, values in sections.items())


class Millpond(Peer):
    """This project's server. ``settings`` go to [global], ``share_settings`` to the share, ``shares`` are more sections."""

    title = "millpond"

    def __init__(
        self,
        base: Path | None = None,
        *,
        settings: Settings | None = None,
        share_settings: Settings | None = None,
        shares: Mapping[str, Settings] | None = None,
        port: int | None = None,
        accounts: Sequence[tuple[str, str]] = (ACCOUNT,),
    ) -> None:
        super().__init__(base, port, accounts)
        self.settings = dict(settings or {})
        self.share_settings = dict(share_settings or {})
        self.shares = dict(shares or {})
        self.config = self.base / "smb.conf"

    def globals(self) -> dict[str, str]:
        """The [global] section without the caller's own settings."""
        directories = {"private dir": "private", "lock directory": "lock", "state directory": "state", "pid directory": "run"}
        for folder in directories.values():
            (self.base / folder).mkdir(mode=0o700, exist_ok=True)
        return {
            "workgroup": "WORKGROUP",
            "netbios name": "MILLPOND",
            "smb ports": str(self.port),
            "interfaces": f"{self.host}/8" if self.host != "127.0.0.1" else self.host,
            "bind interfaces only": "yes",
            **{key: str(self.base / folder) for key, folder in directories.items()},
        }

    def write_config(self) -> None:
        """Writes smb.conf."""
        share = {"path": str(self.share), "read only": "no", "create mask": "0777", "directory mask": "0777"}
        sections = {"global": {**self.globals(), **self.settings}, self.share_name: {**share, **self.share_settings}, **self.shares}
        self.config.write_text(_ini(sections))

    def prepare(self) -> None:
        self.write_config()
        for user, password in self.accounts:
            self.add_account(user, password)

    def add_account(self, user: str, password: str) -> None:
        """Adds an account with the server's own tool."""
        _run([sys.executable, "-m", "smbd", "user", "add", user, "--password-stdin", "--config", str(self.config)], f"{password}\n")

    def command(self) -> list[str]:
        return [sys.executable, "-m", "smbd", "run", "--config", str(self.config)]


def _run(command: list[str], text: str) -> None:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    if done.returncode:
        raise PeerError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")


def _sources(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for package in ("pools", "smbd", "workers") for path in sorted((root / package).rglob("*.py"))]


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()


class Compiled(Millpond):
    """The same sources compiled: what ``make compile`` has put into build/compiled."""

    title = "millpond-compiled"
    root = ROOT / "build" / "compiled"

    def prepare(self) -> None:
        if not self.root.is_dir():
            raise PeerError(f"{self.root} is not there: 'make compile' makes it")
        old = [name for name in _sources(ROOT) if not _same(ROOT / name, self.root / name)]
        if old:
            raise PeerError(f"{self.root} is of other sources than these ({old[0]} and {len(old) - 1} more): 'make compile' makes it anew")
        super().prepare()


class Threaded(Millpond):
    """The same server with a thread for each client instead of a process."""

    title = "millpond-threaded"

    def globals(self) -> dict[str, str]:
        return super().globals() | {"server mode": "threaded"}


class Samba(Millpond):
    """Samba's smbd as installed, in a directory of its own. Needs root."""

    title = "samba"

    def globals(self) -> dict[str, str]:
        mine = super().globals()
        for folder in ("lock", "state"):
            (self.base / folder).chmod(0o755)  # smbd looks for its siblings' lock files with the user's rights
        for key in ("cache directory", "binddns dir", "ncalrpc dir"):
            own = self.base / key.split()[0]
            own.mkdir(exist_ok=True)
            mine[key] = str(own)
        mine |= {
            "server role": "standalone server",
            "passdb backend": "tdbsam",
            "log file": str(self.base / "log.%m"),
            "disable spoolss": "yes",
            "load printers": "no",
            "disable netbios": "yes",
        }
        return mine

    def add_account(self, user: str, password: str) -> None:
        _run(["pdbedit", "-s", str(self.config), "-a", "-t", "-u", user], f"{password}\n{password}\n")

    def command(self) -> list[str]:
        return ["smbd", "--foreground", "--no-process-group", "--debug-stdout", "-s", str(self.config)]


class SambaNoAio(Samba):
    """Samba without its I/O threads: faster on files in the page cache."""

    title = "samba-sync"

    def globals(self) -> dict[str, str]:
        return super().globals() | {"aio read size": "0", "aio write size": "0", "use sendfile": "yes"}


class Impacket(Peer):
    """impacket's smbserver: SMB 2.0.2 only, no encryption."""

    title = "impacket"
    protections = ("plain", "signed")

    def command(self) -> list[str]:
        user, password = self.accounts[0]
        example = shutil.which("smbserver.py", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
        if example is None:
            raise PeerError("smbserver.py of impacket is not installed")
        return [
            sys.executable, example, "-smb2support", "-ip", "127.0.0.1", "-port", str(self.port), "-username", user, "-password", password,
            self.share_name, str(self.share),
        ]


PEERS: dict[str, type[Peer]] = {peer.title: peer for peer in (Millpond, Threaded, Compiled, Samba, SambaNoAio, Impacket)}
USUAL = tuple(title for title in PEERS if title not in (Compiled.title, Threaded.title))  # made first, or asked for
