"""smbtorture: the suites, how one is run, and what it says.

Owns: the list of suites and their options, the run of one suite within its time, and the reading of its subunit output.
Invariant: a test that began and has no outcome is reported as 'error'; a suite that did not end is reported so, with the tests it did.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.server import SHARE, Server, tool

# What this server is held to from the first release on; the rest follows as its features do.
CORE = (
    "connect", "read", "rw", "create", "dir", "getinfo", "setinfo", "lock", "compound", "compound_find", "compound_async", "credits",
    "session", "session-id", "sharemode", "deny", "rename", "mkdir", "tcon", "streams",
)  # fmt: skip
REST = (
    "acls", "acls_non_canonical", "dosmode", "ea", "fileid", "ioctl", "ioctl-on-stream", "mangle", "maximum_allowed", "notify", "openattr",
    "oplock", "lease", "sdread", "secleak", "set-sparse-ioctl", "timestamp_resolution", "timestamps", "twrp", "winattr", "zero-data-ioctl",
    "durable-open", "durable-open-disconnect", "durable-v2-open", "replay", "multichannel",
)  # fmt: skip
QUICK = ("connect", "read", "rw", "lock", "sharemode", "mkdir", "tcon", "compound_find")

OPTIONS = {
    "set-sparse-ioctl": ("torture:filename=prepared.bin",),
    "zero-data-ioctl": ("torture:filename=prepared.bin", "torture:offset=4096", "torture:beyond_final_zero=65536"),
    "ea": ("torture:acl_xattr_name=hidden.by.the.server",),
}
LIMIT = 200.0

# How the share has to be for the suites: every user may do everything that its descriptor allows.
GLOBAL = {"server multi channel support": "yes", "server min protocol": "SMB2_02"}
SHARE_SETTINGS = {
    "ea support": "yes",
    "map acl inherit": "yes",
    "store dos attributes": "yes",
    "map readonly": "no",
    "kernel oplocks": "no",
    "posix locking": "no",
    "create mask": "0777",
    "directory mask": "0777",
}

_OUTCOME = re.compile(r"^(test|success|successful|failure|skip|error|xfail|uxsuccess): (.+?)( \[)?$")


class Suite(NamedTuple):
    """What came of one suite. ``reasons``: test -> the text of its failure."""

    name: str
    outcomes: dict[str, str]
    reasons: dict[str, str]
    seconds: float
    ended: bool

    def count(self, outcome: str) -> int:
        """Tests with an outcome."""
        return sum(1 for found in self.outcomes.values() if found == outcome)


def full_name(suite: str) -> str:
    """'connect' and 'smb2.connect' are the same."""
    return suite if suite.startswith("smb2.") else f"smb2.{suite}"


def parse(lines: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Outcomes and reasons of a subunit (version 1) text."""
    outcomes: dict[str, str] = {}
    reasons: dict[str, str] = {}
    reading: str | None = None
    text: list[str] = []
    for raw in lines:
        line = raw.rstrip("\n")
        if reading is not None:
            if line == "]":
                reasons[reading] = "\n".join(text)
                reading = None
            else:
                text.append(line)
            continue
        match = _OUTCOME.match(line)
        if match is None:
            continue
        kind, name, more = match.groups()
        if kind == "test":
            outcomes.setdefault(name, "error")
            continue
        outcomes[name] = "success" if kind in ("success", "successful") else kind
        if more:
            reading, text = name, []
    return outcomes, reasons


def run_suite(server: Server, suite: str, limit: float = LIMIT) -> Suite:
    """Runs one suite against a running server, within ``limit`` seconds."""
    name = full_name(suite)
    prepared = server.share / "prepared.bin"
    prepared.write_bytes(bytes(range(256)) * 1024)
    prepared.chmod(0o666)
    command = [
        tool("smbtorture"), f"//{server.peer.host}/{SHARE}", f"-U{server.user}%{server.password}", "-s", "/dev/null",
        "-p", str(server.port), "--fullname", "--format=subunit", "--option=torture:progress=no",
        f"--option=private dir={server.peer.base}", f"--option=lock directory={server.peer.base}", f"--maximum-runtime={int(limit)}",
        *(f"--option={option}" for option in OPTIONS.get(name.removeprefix("smb2."), ())), name,
    ]  # fmt: skip
    begin = time.monotonic()
    ended = True
    out: str | bytes
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit, check=False, cwd=server.peer.base, stdin=subprocess.DEVNULL)
        out = done.stdout
    except subprocess.TimeoutExpired as late:
        out, ended = late.stdout or b"", False
    outcomes, reasons = parse(out.decode(errors="replace").splitlines() if isinstance(out, bytes) else out.splitlines())
    return Suite(name, outcomes, reasons, time.monotonic() - begin, ended)


def clear(share: Path) -> None:
    """Empties the share between suites, so that what one left does not disturb the next."""
    subprocess.run(["find", str(share), "-mindepth", "1", "-delete"], capture_output=True, check=False)
