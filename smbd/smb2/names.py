"""Names: from the wire to a checked ``Path`` and back, case folding, wildcards and 8.3 names.

Owns: what a name may look like ([MS-FSCC] 2.1.5, [MS-SMB2] 2.2.13) and what matches what ([MS-FSA] 2.1.4.4). Invariant: a component of a
``Path`` is never empty, '.', '..' and holds neither a separator nor NUL; whoever joins components stays beneath.
"""

from __future__ import annotations

import re
import zlib
from codecs import lookup, utf_16_le_decode, utf_16_le_encode
from collections.abc import Callable
from typing import NamedTuple

from pools.layout import Readable
from smbd.smb2 import status
from smbd.smb2.status import SmbError

# Loaded now, while the process may read its library: a worker that acts for a user would look for this module with the user's rights.
lookup("utf-16-le")

COMPONENT_MAX = 255  # UTF-16 units; the file system's own limit (255 bytes on most) is met by its errno
PATH_MAX = 32767
DATA = "$DATA"
INDEX_ALLOCATION = "$INDEX_ALLOCATION"
EXACT = "exact"

QUOTA_COMPONENTS = ("$EXTEND", "$QUOTA")
QUOTA_STREAM = "$Q"
"""[MS-FSCC] 2.1.5.4: the file that stands for a volume's quotas is $Extend\\$Quota:$Q:$INDEX_ALLOCATION."""

_FORBIDDEN = re.compile(r'[\x00-\x1f"*/:<>?|]')
_FORBIDDEN_STREAM = re.compile(r"[\x00/:\\]")
_WILD = re.compile(r'[*?<>"]')
# What a disk may hold and the wire may not: control characters and separators, what is no UTF-8, a dot or blank at the end.
_STRANGE = re.compile(r'[\x01-\x1f"*:<>?\\|\udc80-\udcff]|[ .]$')
_UNDECODED = re.compile(r"[\udc80-\udcff]")
# The private characters that macOS, Linux' cifs ("mapposix") and Services for Macintosh use for the same purpose.
_PRIVATE = {0x22: 0xF020, 0x2A: 0xF021, 0x3A: 0xF022, 0x3C: 0xF023, 0x3E: 0xF024, 0x3F: 0xF025, 0x5C: 0xF026, 0x7C: 0xF027}
_PRIVATE |= {control: 0xF000 + control for control in range(1, 32)}
_PRIVATE |= {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
_PRIVATE_END = {" ": "\uf028", ".": "\uf029"}


class Path(NamedTuple):
    """A place beneath a share's root, in the client's spelling or the disk's; ``components`` is empty for the root itself.

    ``stream`` is '' for the unnamed stream. ``type`` is '' when the name said none, DATA when it named a data stream ("f::$DATA" may not
    be a directory) and INDEX_ALLOCATION when it can only be a directory (also: it ended in a backslash). EXACT is a name of the POSIX
    extensions: the disk's own, in which only the slash means anything, and no symlink is followed. What is above and beneath it is, too.
    """

    components: tuple[str, ...] = ()
    stream: str = ""
    type: str = ""

    @property
    def name(self) -> str:
        """The last component; '' for the root."""
        return self.components[-1] if self.components else ""

    @property
    def parent(self) -> Path:
        """The directory it is in; the root's parent is the root."""
        return Path(self.components[:-1], "", EXACT if self.type == EXACT else "")

    @property
    def base(self) -> Path:
        """The same file without stream and type."""
        return Path(self.components, "", EXACT if self.type == EXACT else "")

    def child(self, name: str) -> Path:
        """``name`` in this directory."""
        return Path((*self.components, name), "", EXACT if self.type == EXACT else "")

    def wire_from(self, depth: int) -> str:
        """What follows the first ``depth`` components, with the separator in front."""
        rest = "".join("\\" + component for component in self.components[depth:])
        return f"{rest}:{self.stream}" if self.stream else rest

    def wire(self) -> str:
        """Backslashes between components, none in front; the stream as ":name"."""
        joined = "\\".join(self.components)
        return f"{joined}:{self.stream}" if self.stream else joined


ROOT = Path()


def decode(raw: Readable) -> str:
    """A counted UTF-16LE string from the wire. OBJECT_NAME_INVALID for odd lengths and for halves of surrogate pairs."""
    try:
        return utf_16_le_decode(raw, "strict", True)[0]  # the codec itself: its name is not looked up for every file
    except UnicodeDecodeError as error:
        raise SmbError(status.OBJECT_NAME_INVALID) from error


def encode(text: str) -> bytes:
    """UTF-16LE; lone surrogates, from names that are none, survive."""
    return utf_16_le_encode(text, "surrogatepass")[0]


def parse(raw: Readable) -> Path:
    """The name of a CREATE request or of a rename target (share-relative, UTF-16LE)."""
    return parse_text(decode(raw))


def parse_text(text: str) -> Path:
    """As ``parse``, from text. A slash separates too, as with Samba: no name can hold one, and clients made for Unix send them."""
    if not text:
        return ROOT
    if "/" in text:
        text = text.replace("/", "\\")
    if text[0] == "\\":
        raise SmbError(status.INVALID_PARAMETER)  # [MS-SMB2] 3.3.5.9: a separator in front
    if len(text) > PATH_MAX:
        raise SmbError(status.NAME_TOO_LONG)
    stream = kind = ""
    if ":" in text:
        text, stream, kind = _split_stream(text)
        if not text:
            return Path((), stream, kind)
    elif text[-1] == "\\":
        text, kind = text[:-1], INDEX_ALLOCATION
    components = tuple(text.split("\\"))
    if ".." in components:
        components = _without_dots(components)
    for component in components:
        _check(component)
    return Path(components, stream, kind)


def _without_dots(components: tuple[str, ...]) -> tuple[str, ...]:
    """'..' takes the name before it away, whatever that is on the disk: it is gone before anything is looked up, as with Windows and Samba.

    OBJECT_PATH_SYNTAX_BAD where there is none, for nothing leads out of a share.
    """
    kept: list[str] = []
    for component in components:
        if component != "..":
            kept.append(component)
        elif kept:
            _check(kept.pop())
        else:
            raise SmbError(status.OBJECT_PATH_SYNTAX_BAD)
    return tuple(kept)


def parse_posix(text: str) -> Path:
    """A name of the POSIX extensions: separated by slashes, relative to the share. OBJECT_PATH_SYNTAX_BAD for dots that lead elsewhere."""
    if len(text) > PATH_MAX:
        raise SmbError(status.NAME_TOO_LONG)
    components = tuple(part for part in text.split("/") if part)
    for component in components:
        if component in (".", ".."):
            raise SmbError(status.OBJECT_PATH_SYNTAX_BAD)
        if "\0" in component:
            raise SmbError(status.OBJECT_NAME_INVALID)
        if len(component) > COMPONENT_MAX:
            raise SmbError(status.NAME_TOO_LONG)
    return Path(components, "", EXACT)


def display_exact(name: str) -> str:
    """A name on the disk as the POSIX extensions show it: only what is no UTF-8 cannot be told as it is."""
    return display(name) if _UNDECODED.search(name) else name


def beneath_share(text: str, share: str) -> str:
    r"""What ``server\share\path``, a name of a DFS namespace, means in its share ([MS-SMB2] 3.3.5.9). One that names no share, or another
    one, is taken for a path as it is: there are clients that send such.
    """
    _, _, rest = text.lstrip("\\").partition("\\")
    named, _, path = rest.partition("\\")
    return path.lstrip("\\") if fold(named) == fold(share) else text.lstrip("\\")


def parse_stream(text: str) -> str:
    """What a rename within a file asks for, ":new" or ":new:$DATA"; '' is the unnamed stream. The statuses are [MS-FSA] 2.1.5.15.11.1's."""
    first, *parts = text.split(":")
    if first or not 0 < len(parts) <= 2 or not parts[-1]:
        raise SmbError(status.INVALID_PARAMETER)
    if len(parts[0]) > COMPONENT_MAX or _FORBIDDEN_STREAM.search(parts[0]):
        raise SmbError(status.INVALID_PARAMETER)
    if len(parts) == 2 and parts[1].upper() != DATA:
        raise SmbError(status.OBJECT_TYPE_MISMATCH)
    return parts[0]


def _split_stream(text: str) -> tuple[str, str, str]:
    """(path, stream, type). [MS-FSCC] 2.1.5.3: name:stream:type; only the last component may have one."""
    cut = text.index(":")
    path, rest = text[:cut], text[cut + 1 :]
    parts = rest.split(":")
    if len(parts) > 2 or "\\" in rest:
        raise SmbError(status.OBJECT_NAME_INVALID)
    stream, kind = parts[0], parts[1].upper() if len(parts) == 2 else DATA
    if len(stream) > COMPONENT_MAX or _FORBIDDEN_STREAM.search(stream) or path.endswith("\\") or (len(parts) == 1 and not stream):
        raise SmbError(status.OBJECT_NAME_INVALID)
    if kind == INDEX_ALLOCATION and stream.upper() in ("", "$I30"):
        return path, "", INDEX_ALLOCATION
    if kind == INDEX_ALLOCATION and stream.upper() == QUOTA_STREAM and tuple(path.upper().split("\\")) == QUOTA_COMPONENTS:
        return path, QUOTA_STREAM, DATA
    if kind != DATA:
        raise SmbError(status.OBJECT_NAME_INVALID)
    return path, stream, DATA


def _check(component: str) -> None:
    """[MS-FSCC] 2.1.5.2; what Windows answers to a dot was found by asking it: it is a bad name."""
    if not component or component == "." or _FORBIDDEN.search(component):
        raise SmbError(status.OBJECT_NAME_INVALID)
    if len(component) > COMPONENT_MAX:
        raise SmbError(status.OBJECT_NAME_INVALID)


def display(name: str) -> str:
    """How a name from the disk (decoded with surrogateescape) appears to clients. ``name`` itself, unless it holds what SMB cannot say."""
    if _STRANGE.search(name) is None:
        return name
    shown = name.translate(_PRIVATE)
    return shown[:-1] + _PRIVATE_END.get(shown[-1], shown[-1])


def fold(name: str) -> str:
    """The key under which two spellings of a name are one. One character to one character, as an upcase table does it."""
    if name.isascii():
        return name.upper()
    return "".join(map(_upper, name))


def _upper(character: str) -> str:
    upper = character.upper()
    if len(upper) != 1 or character == "\u00b5" or (upper < "\x80" <= character):
        return character  # no 'SS' for sharp s, no 'I' for a dotless i: Windows' table has neither
    return upper


Match = Callable[[str], bool]


def has_wildcards(expression: str) -> bool:
    """Whether ``matcher`` could match more than one name."""
    return _WILD.search(expression) is not None


def matcher(expression: str) -> Match:
    """A predicate for one directory search. The empty expression is the caller's error; "*" and "*.*" match everything.

    Never exponential, and long expressions cost no more than long names: a search expression is a stranger's.
    """
    if expression in ("*", "*.*"):
        return _everything
    folded = _STARS.sub("*", fold(expression))
    if not has_wildcards(folded):
        return lambda name: fold(name) == folded
    if len(folded) - sum(map(folded.count, '*<>"')) > COMPONENT_MAX:
        return _nothing  # more characters than a name has
    if folded.count("*") + 2 * folded.count("<") <= 2 and len(folded) <= COMPONENT_MAX:
        match = re.compile(_to_regex(folded), re.DOTALL).fullmatch
        return lambda name: match(fold(name)) is not None
    positions = _Positions(folded)
    return lambda name: positions.match(fold(name))


def _everything(_name: str) -> bool:
    return True


def _nothing(_name: str) -> bool:
    return False


_STARS = re.compile(r"\*+")
# [MS-FSA] 2.1.4.4. DOS_STAR eats no final dot; DOS_QM is empty before a dot and at the end; DOS_DOT is a dot or the end.
_REGEX = {"*": ".*", "?": ".", "<": r"(?:[^.]|\.(?=.*\.))*", ">": r"(?:[^.]|(?=\.)|\Z)", '"': r"(?:\.|\Z)"}


def _to_regex(expression: str) -> str:
    return "".join(_REGEX.get(character) or re.escape(character) for character in expression)


class _Positions:
    """The same language by the set of positions in the expression that a name's beginning can lead to: a number with a bit for each.

    A character of a name costs a few operations on such numbers, however many stars there are.
    """

    __slots__ = ("_before_dot", "_characters", "_dots", "_ends", "_last", "_marks", "_stars", "_stays", "_wild")

    def __init__(self, expression: str) -> None:
        places: dict[str, int] = {}
        for at, character in enumerate(expression):
            places[character] = places.get(character, 0) | 1 << at
        star, dos_star, dos_mark, dos_dot = (places.pop(wild, 0) for wild in '*<>"')
        self._marks = places.pop("?", 0)  # one character, any
        self._characters = places
        self._wild, self._dots = dos_mark, dos_dot  # one that is no dot; one that is
        self._stars, self._stays = star, star | dos_star
        self._before_dot = self._stays | dos_mark  # what is nothing before a dot; elsewhere only stars are
        self._ends = self._before_dot | dos_dot  # and at the end of the name
        self._last = 1 << len(expression)

    def match(self, name: str) -> bool:
        """Whether the whole of a folded name is matched."""
        final_dot = name.rfind(".")
        states = 1
        for index, character in enumerate(name):
            dot = character == "."
            states = _past(states, self._before_dot if dot else self._stays)
            steps = self._characters.get(character, 0) | self._marks | (self._dots if dot else self._wild)
            states = (states & steps) << 1 | states & (self._stars if index == final_dot else self._stays)
            if not states:
                return False
        return bool(_past(states, self._ends) & self._last)


def _past(states: int, empty: int) -> int:
    """``states``, and what they lead to by passing over positions in ``empty``: an addition carries through each run of them."""
    runs = empty & ~(empty << 1)  # where a run of such positions begins
    behind = empty << 1 & ~empty  # what comes behind its end
    ends = states | behind
    return states | ((empty << 1) & ~((ends - runs) ^ ends) if runs else 0)


_SHORT = re.compile(r"[A-Z0-9!#$%&'()\-@^_`{}~]{1,8}(?:\.[A-Z0-9!#$%&'()\-@^_`{}~]{1,3})?")
_NOT_SHORT = re.compile(r"[^A-Z0-9!#$%&'()\-@^_`{}~]")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def is_short(name: str) -> bool:
    """Whether ``name`` is its own 8.3 name ([MS-FSCC] 2.1.5.2.1)."""
    return _SHORT.fullmatch(name.upper()) is not None


def short_name(name: str) -> str:
    """A stable 8.3 name made of the name alone: three characters, '~', four of a hash, the extension. '' where the name is short itself.

    Made, not stored: two names of a directory may have the same one, and then it means neither. A name has the same one as the disk has it
    and as it is shown.
    """
    if is_short(name):
        return ""
    folded = fold(display(name))
    stem, dot, extension = folded.rpartition(".")
    if not dot or not stem:
        stem, extension = folded, ""
    value = zlib.crc32(folded.encode("utf-8", "surrogatepass"))
    code = "".join(_DIGITS[value // 36**place % 36] for place in range(4))
    short = f"{_NOT_SHORT.sub('', stem)[:3]}~{code}"
    suffix = _NOT_SHORT.sub("", extension)[:3]
    return f"{short}.{suffix}" if suffix else short
