"""The programs that stand for real clients, and the trees they carry.

Owns: how smbclient, rpcclient and smbcacls are told dialect, protection and account; ``Case`` and the table of cases; ``plant``.
Invariant: a tool that fails shows its whole output in the assertion.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.server import SHARE, Server, tool


class Case(NamedTuple):
    """A dialect under a protection. ``algorithm``: the only cipher or signing algorithm offered, '' for the tool's own order."""

    dialect: str
    protection: str = "off"  # smbclient's words: off, sign, encrypt
    algorithm: str = ""

    def __str__(self) -> str:
        return "-".join(part for part in self if part)


DIALECTS = ("SMB2_02", "SMB2_10", "SMB3_00", "SMB3_02", "SMB3_11")
NUMBERS = {"SMB2_02": 0x0202, "SMB2_10": 0x0210, "SMB3_00": 0x0300, "SMB3_02": 0x0302, "SMB3_11": 0x0311}
CASES = (
    *(Case(dialect, protection) for dialect in DIALECTS for protection in ("off", "sign")),
    *(Case(dialect, "encrypt") for dialect in DIALECTS[2:]),
    *(Case("SMB3_11", "encrypt", cipher) for cipher in ("AES-128-CCM", "AES-128-GCM", "AES-256-CCM", "AES-256-GCM")),
    *(Case("SMB3_11", "sign", name) for name in ("HMAC-SHA256", "AES-128-CMAC", "AES-128-GMAC")),
)
NEWEST = Case("SMB3_11", "encrypt")
SIGNED = Case("SMB3_11", "sign")


def run(command: list[str], *, ok: bool | None = True, timeout: float = 60, text: str = "", cwd: Path | None = None) -> str:
    """The output of a program, standard error included; fails when its status is not what ``ok`` says (None: either)."""
    done = subprocess.run(
        command, capture_output=True, timeout=timeout, check=False, input=text.encode(), cwd=cwd, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert ok is None or (done.returncode == 0) == ok, f"{' '.join(command)}\nstatus {done.returncode}\n{output}"
    return output


def samba_options(server: Server, case: Case, user: str = "", password: str = "") -> list[str]:
    """The options that every program of Samba takes."""
    who = f"{user or server.user}%{password or server.password}"
    options = [
        "-s", "/dev/null", "-p", str(server.port), "-U", who, f"--client-protection={case.protection}",
        f"--option=client min protocol={case.dialect}", f"--option=client max protocol={case.dialect}", "--option=unix charset=UTF-8",
        "--option=client ipc min protocol=SMB2_02", "--option=client ipc max protocol=SMB3_11",
        f"--option=private dir={server.peer.base}", f"--option=lock directory={server.peer.base}",
    ]
    if case.algorithm:
        kind = "signing" if case.protection == "sign" else "encryption"
        options.append(f"--option=client smb3 {kind} algorithms={case.algorithm}")
    return options


def smbclient(
    server: Server, commands: str, case: Case = NEWEST, *, ok: bool | None = True, share: str = SHARE, timeout: float = 60, **who: str
) -> str:
    """smbclient's output for a list of commands."""
    command = [tool("smbclient"), f"//{server.peer.host}/{share}", *samba_options(server, case, **who), "-t", "50", "-c", commands]
    return run(command, ok=ok, timeout=timeout)


def rpcclient(server: Server, commands: str, case: Case = SIGNED, *, ok: bool | None = True, **who: str) -> str:
    """rpcclient's output for a list of commands."""
    return run([tool("rpcclient"), server.peer.host, *samba_options(server, case, **who), "-c", commands], ok=ok)


def smbcacls(server: Server, path: str, *words: str, ok: bool = True, case: Case = SIGNED, **who: str) -> str:
    """smbcacls' output for a file of the share. It knows no port but 445: the server must listen there (``host``)."""
    options = samba_options(server, case, **who)
    port = options.index("-p")
    del options[port:port + 2]
    return run([tool("smbcacls"), f"//{server.peer.host}/{SHARE}", path, *options, *words], ok=ok)


# -- trees -----------------------------------------------------------------------------------------------------------------------

NAMES = (
    "plain.txt",
    "with space.bin",
    "Ünïcödé – naïve.dat",
    "日本語のファイル名.txt",
    "🐟 fish and 𝄞 clef.bin",
    "combining é vs é.txt",
    "Ελληνικά.Μικρά",
    "UPPER.and.lower.TXT",
    "long " + "n" * 200 + ".bin",
    "'quote' & (brackets) [x] {y} #1 ~ % ^.txt",
)
SIZES = (0, 1, 4095, 4096, 65536, 65537, 1 << 20, (1 << 20) + 7, 3, 9 << 20)


def plant(root: Path, *, folders: int = 2) -> dict[str, str]:
    """Writes a tree of files with telling names and sizes beneath ``root``; relative path -> SHA-256."""
    numbers = random.Random(445)
    for depth in range(folders):
        folder = root.joinpath(*(f"folder {level} ordner-ø" for level in range(depth)))
        folder.mkdir(parents=True, exist_ok=True)
        for name, size in zip(NAMES, SIZES, strict=True):
            (folder / name).write_bytes(numbers.randbytes(size if depth == 0 else size % 70000))
    (root / "empty folder").mkdir()
    return digests(root)


def digests(root: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every regular file beneath ``root``; the server's own hidden folder is not part of it."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and ".millpond" not in path.parts:
            found[str(path.relative_to(root))] = digest(path)
    return found


def digest(path: Path) -> str:
    """A file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
