"""Share names and path types as the Netpr... operations judge them: [MS-SRVS] 2.2.2.9 and 2.2.4. Pure."""

from __future__ import annotations

import re

# [MS-SRVS] 3.1.4.33: NameType
NAME_TYPE_USER, NAME_TYPE_COMPUTER, NAME_TYPE_SHARE = 1, 5, 9
_FORBIDDEN = re.compile(r'[\x00-\x1f"/\\\[\]:|<>+=;,?*]')
_LONGEST = {NAME_TYPE_COMPUTER: 15, NAME_TYPE_SHARE: 80}

UNC_COMPUTER, UNC_WILDCARD_COMPUTER, UNC, UNC_WILDCARD = 4144, 4145, 4096, 4097
RELATIVE_PLAIN, WILDCARD, ABSOLUTE, DRIVE = 8192, 1, 2, 4


def share_name_valid(name: str, kind: int) -> bool:
    """Whether ``name`` can be a name of this kind."""
    return 0 < len(name) <= _LONGEST.get(kind, 255) and not _FORBIDDEN.search(name) and name == name.strip()


def path_type(path: str) -> int | None:
    """The ITYPE of a path; None when it is none."""
    wild = WILDCARD if re.search(r"[?*]", path) else 0
    if not path or len(path) > 260 or re.search(r'[\x00-\x1f"<>|]', path):
        return None
    if path.startswith("\\\\"):
        parts = path[2:].split("\\")
        if not all(parts):
            return None
        return (UNC_COMPUTER if len(parts) == 1 else UNC) + wild
    drive = DRIVE if re.match(r"[A-Za-z]:", path) else 0
    rest = path[2:] if drive else path
    if ":" in rest or "\\\\" in rest:
        return None
    return RELATIVE_PLAIN + drive + (ABSOLUTE if rest.startswith("\\") else 0) + wild
