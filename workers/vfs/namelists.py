"""Lists of names that a share treats in a way of their own: ``veto files``, ``hide files``, ``veto oplock files``.

Owns: their patterns as one expression. Invariant: a name is on a list or not whatever its case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from smbd.smb2.names import fold

_WILD = {"*": ".*", "?": "."}


class NameList:
    """Names with * and ? in them, as smb.conf has them; at least one."""

    __slots__ = ("_matches",)

    def __init__(self, patterns: Iterable[str]) -> None:
        text = "|".join("".join(_WILD.get(one) or re.escape(one) for one in fold(pattern)) for pattern in patterns)
        self._matches = re.compile(text, re.DOTALL).fullmatch

    def __contains__(self, name: str) -> bool:
        return self._matches(fold(name)) is not None


@lru_cache(maxsize=64)
def name_list(patterns: tuple[str, ...]) -> NameList:
    """The list of a share's parameter, made once."""
    return NameList(patterns)
