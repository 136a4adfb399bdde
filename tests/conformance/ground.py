"""Where a suite runs: a server of its own, begun anew for each suite, with shares, accounts and whatever the suite wants to find.

Owns: a server's directory with its accounts, which last, and the server process and the shares' content, which do not.
Invariant: no suite meets what another one left: files, opens that outlive their connection, or sessions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from bench.load.peers import ACCOUNT
from smbd.smb2 import status
from tests.conformance.suites import BY_RIGHTS, DATA, GLOBAL, NOBODYS, SAMBA_SHARE, SHARE, SNAPSHOT, SNAPSHOT_FILE, SNAPSHOT_STREAM, Plan
from tests.conformance.torture import FILTER
from tests.server import IS_SAMBA, OTHER, Server, tool
from workers.vfs.root import RESERVED

# The second is who smbtorture is when it should be somebody else, the third who keeps the server busy.
LOADER: Final = ("man", "Third.Pond-4452")
ACCOUNTS: Final = (ACCOUNT, OTHER, LOADER)
LOADED: Final = "busy"  # the share of the third
_IMAGE_BYTES: Final = 1 << 30
_FILTER: Final = """\
#!/bin/sh
for word; do
    shift
    set -- "$@" "$(echo "$word" | sed 's/^SMBTORTURE/{chains}/')"
done
exec {iptables} -w "$@"
"""
_TRACEBACK: Final = "Traceback (most recent call last)"


class Unfit(Exception):
    """This machine cannot offer what a suite wants; the text says what is missing."""


class Ground:
    """A server that is begun, used by one suite, and ended; then by the next."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.server = Server(settings=settings, accounts=ACCOUNTS)
        self.peer = self.server.peer
        self._settings = dict(self.peer.settings)
        self._share_settings = dict(self.peer.share_settings)
        self._known = False
        self._logged = 0
        self._mounted = False
        self._filtering = False
        self._usual = self.peer.host, self.peer.port

    def begin(self, plan: Plan) -> None:
        """Empties the shares and starts the server as the plan wants it. ``Unfit``, ``PeerError``."""
        self.peer.settings = {**self._settings, **GLOBAL, **plan.settings}
        self.peer.share_settings = {**self._share_settings, **SHARE, **plan.share}
        if IS_SAMBA:
            here = {name: value.replace("{share}", str(self.peer.share)) for name, value in plan.samba.items()}
            self.peer.share_settings |= {**SAMBA_SHARE, **here}
        other = {"read only": "no", "wide links": "yes"}  # without the second, Samba refuses a folder that a user may not enter
        self.peer.shares = {name: {"path": str(self._folder(name)), **other} for name in (LOADED, NOBODYS)}
        by_rights = {"path": str(self.peer.share), "read only": "no", "hide unreadable": "yes"}
        self.peer.shares[BY_RIGHTS] = {**self.peer.share_settings, **by_rights}
        self._renew(self.peer.share, 0o777)
        self._renew(self._folder(LOADED), 0o777)
        self._renew(self._folder(NOBODYS), 0o777)
        for name in plan.fixtures:
            BEFORE.get(name, _nothing)(self)
        if not self._known:
            self.peer.prepare()
            self._known = True
        self.peer.write_config()
        self.peer.launch()
        self.peer.await_ready()
        for name in plan.fixtures:
            AFTER.get(name, _nothing)(self)

    def end(self) -> tuple[str, tuple[str, ...]]:
        """Stops the server: what it logged, and what was wrong with it."""
        code = self.peer.stop()
        text = self.peer.log_text()[self._logged :]
        self._logged += len(text)
        self._tidy()
        return text, () if IS_SAMBA else tuple(_problems(code, self.peer.left_over, text))

    def discard(self) -> None:
        """Removes everything."""
        self.end()
        self.server.discard()

    def _tidy(self) -> None:
        """What fixtures have left in the kernel; and back to the usual port."""
        self.peer.host, self.peer.port = self._usual
        if self._mounted:
            subprocess.run([tool("umount"), str(self.peer.share)], check=False)
            self._mounted = False
        if self._filtering:
            self._filtering = False
            done = subprocess.run([tool("iptables"), "-w", "-S"], capture_output=True, text=True, check=True)
            chains = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(f"-N {self._chains}_")]
            for words in (["-D", "OUTPUT", "-j"], ["-F"], ["-X"]):
                for chain in chains:
                    subprocess.run([tool("iptables"), "-w", *words, chain], capture_output=True, check=False)

    @property
    def _chains(self) -> str:
        """How the names of this ground's packet filter chains begin."""
        return f"TORTURE{self._usual[1]}"

    def _folder(self, name: str) -> Path:
        return self.peer.base / name

    def _renew(self, folder: Path, mode: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        folder.chmod(mode)

    # -- what suites want to find --------------------------------------------------------------------------------------------------

    def put_data(self) -> None:
        """A file with content that a suite works on, and that the user owns."""
        path = self.peer.share / DATA
        path.write_bytes(bytes(range(256)) * 1024)
        path.chmod(0o666)
        if os.geteuid() == 0:
            shutil.chown(path, self.server.user)

    def close_folder(self) -> None:
        """A share that everybody may connect to and nobody may look into."""
        self._folder(NOBODYS).chmod(0)

    def mount_btrfs(self) -> None:
        """A share on a file system whose files can have blocks in common."""
        image = self.peer.base / "image"
        with image.open("wb") as file:
            file.truncate(_IMAGE_BYTES)
        maker = shutil.which("mkfs.btrfs")
        if maker is None or os.geteuid() != 0:
            raise Unfit("needs btrfs-progs, and root to mount a file system")
        subprocess.run([maker, "-q", "-f", str(image)], check=True, capture_output=True)
        done = subprocess.run([tool("mount"), "-o", "loop", str(image), str(self.peer.share)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unfit(f"no btrfs here: {done.stderr.strip()}")
        self._mounted = True
        self.peer.share.chmod(0o777)

    def take_port_445(self) -> None:
        """Some tests know no other."""
        if os.geteuid() != 0:
            raise Unfit("needs root, for port 445")
        self.server.on_port_445()

    def filter_packets(self) -> None:
        """smbtorture cuts a connection by iptables, with chains that all its processes would share: here each ground has its own."""
        if os.geteuid() != 0 or shutil.which("iptables") is None:
            raise Unfit("needs iptables, and root to use it")
        wrapper = self.peer.base / FILTER
        wrapper.write_text(_FILTER.format(chains=self._chains, iptables=tool("iptables")))
        wrapper.chmod(0o755)
        self._filtering = True

    def take_snapshot(self) -> None:
        """A file with a named stream, written by a client, in a snapshot of the share's folder as file systems offer them."""
        with self.server.client() as client:
            stream, content = SNAPSHOT_STREAM
            for name, data in ((SNAPSHOT_FILE, b"kept"), (f"{SNAPSHOT_FILE}:{stream}", content)):
                opened = client.open(name)
                assert client.write(opened, 0, data).status == status.SUCCESS
                client.close(opened)
        snapshot = self.peer.share / ".snapshots" / SNAPSHOT
        snapshot.mkdir(parents=True)
        # The files of a snapshot have the numbers that they had, by which port posix finds what it keeps of them.
        kept = [path for path in (self.peer.share / SNAPSHOT_FILE, self.peer.share / RESERVED) if path.exists()]
        subprocess.run([tool("cp"), "-al", *map(str, kept), str(snapshot)], check=True)
        # smbtorture's own names: one file that is in the folder and in the snapshot, so that its number is in both.
        for root in (self.peer.share, snapshot):
            (root / "subdir").mkdir(mode=0o755)
        (self.peer.share / "subdir" / "hardlink").touch()
        (snapshot / "subdir" / "hardlink").hardlink_to(self.peer.share / "subdir" / "hardlink")


def _nothing(ground: Ground) -> None:
    pass


BEFORE: Final[Mapping[str, Callable[[Ground], None]]] = {
    "data": Ground.put_data, "nobodys": Ground.close_folder, "btrfs": Ground.mount_btrfs, "iptables": Ground.filter_packets,
    "port 445": Ground.take_port_445,
}  # fmt: skip
AFTER: Final[Mapping[str, Callable[[Ground], None]]] = {"snapshot": Ground.take_snapshot}
FIXTURES: Final = frozenset(BEFORE) | frozenset(AFTER)


def _problems(code: int, left: list[str], log: str) -> list[str]:
    found = []
    if code:
        found.append(f"the server ended with status {code}")
    found += [f"left running: {process}" for process in left]
    if tracebacks := log.count(_TRACEBACK):
        found.append(f"{tracebacks} tracebacks in the server's log")
    return found
