"""%-macros in parameter values: ``path = /srv/%U`` and the like.

Owns: which letter stands for what. Pure: the caller says who the client is. Invariant: a substituted user, group or client name
cannot add a path component (``/`` becomes ``_``, leading dots are dropped), so no client chooses a folder by its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from pools.port import processes
from smbd.config.model import Share
from smbd.version import VERSION

_MACRO = re.compile(r"%(?:\$\(([^)]*)\)|(.))", re.DOTALL)


class Client(NamedTuple):
    """What a client's connection contributes to macros; what is not known yet stays empty."""

    session_user: str = ""  # %U: the name the client logged on with
    session_group: str = ""  # %G
    user: str = ""  # %u: the name it acts under (force user)
    group: str = ""  # %g
    home: str = ""  # %H: home directory of %u
    domain: str = ""  # %D
    machine: str = ""  # %m: the client's name
    address: str = ""  # %I
    local_address: str = ""  # %i
    protocol: str = ""  # %R
    server: str = ""  # %L: this server's NetBIOS name
    host: str = ""  # %h: this server's host name


def _safe(name: str) -> str:
    return name.replace("/", "_").replace("\\", "_").replace("\0", "").lstrip(".")


def table(client: Client, share: Share | None = None) -> dict[str, str]:
    """Letter -> text. %S and %P are there when a share is given."""
    found = {
        "U": _safe(client.session_user or client.user),
        "G": _safe(client.session_group),
        "u": _safe(client.user or client.session_user),
        "g": _safe(client.group),
        "H": client.home,
        "D": _safe(client.domain),
        "m": _safe(client.machine or client.address),
        "M": _safe(client.machine or client.address),
        "I": client.address,
        "i": client.local_address,
        "R": client.protocol,
        "L": client.server,
        "h": client.host,
        "v": VERSION,
        "w": "\\",
        "d": str(processes.own_pid()),
        "%": "%",
    }
    if share is not None:
        found["S"] = _safe(share.name)
        found["P"] = share.path if "%P" not in share.path else ""
    return found


def expand(text: str, letters: Mapping[str, str]) -> str:
    """``text`` with its macros replaced; a macro that is not in ``letters`` stays as it is."""
    if "%" not in text:
        return text

    def one(match: re.Match[str]) -> str:
        if match[1] is not None:
            return os.environ.get(match[1], "")
        return letters.get(match[2], match[0])

    return _MACRO.sub(one, text)


def may_give(text: str, expanded: str) -> bool:
    """Whether ``expanded``, a path, can be what ``text`` is for some client. %H and the like may be several components, others one."""
    pattern, at = "", 0
    for match in _MACRO.finditer(text):
        several = match[1] is not None or match[2] in "HP"
        pattern += re.escape(text[at : match.start()]) + ("%" if match[2] == "%" else ".+" if several else "[^/]+")
        at = match.end()
    return ".." not in expanded.split("/") and re.fullmatch(pattern + re.escape(text[at:]), expanded, re.DOTALL) is not None


def at_load(text: str, host: str) -> tuple[str, str]:
    """``text`` with what is known before any client connects, and the first macro letter that is not ('' when all are)."""
    known = {"h": host, "L": host.partition(".")[0].upper(), "v": VERSION, "%": "%"}
    left = [letter for letter in _MACRO.findall(text) if letter[1] and letter[1] not in known]
    return expand(text, known), left[0][1] if left else ""
