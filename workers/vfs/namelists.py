"""Lists of names that a share treats in a way of their own: ``veto files``, ``hide files``, ``veto oplock files``.

Owns: their patterns as one expression. Invariants: a name is on a list or not whatever its case; to find that out takes no longer than the
name and the patterns are long, times each other, whatever name a client makes up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from smbd.smb2.names import fold


def _expression(pattern: str) -> str:
    """What lies between two stars is found at its first place, and not looked for again: a later one would do no better."""
    first, *others = ("".join("." if one == "?" else re.escape(one) for one in part) for part in pattern.split("*"))
    if not others:
        return first
    return first + "".join(f"(?>.*?{part})" for part in others[:-1] if part) + ".*" + others[-1]


class NameList:
    """Names with * and ? in them, as smb.conf has them; at least one."""

    __slots__ = ("_matches",)

    def __init__(self, patterns: Iterable[str]) -> None:
        self._matches = re.compile("|".join(_expression(fold(pattern)) for pattern in patterns), re.DOTALL).fullmatch

    def __contains__(self, name: str) -> bool:
        return self._matches(fold(name)) is not None


@lru_cache(maxsize=64)
def name_list(patterns: tuple[str, ...]) -> NameList:
    """The list of a share's parameter, made once."""
    return NameList(patterns)
