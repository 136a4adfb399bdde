"""Kinds of parameter values: text of smb.conf -> Python value, and back for ``millpond check``.

Owns: the reading of booleans, numbers, sizes, octal modes, lists and names of choices. Pure.
Invariant: ``kind.read(kind.show(value)) == value``; what cannot be read is a ``ValueError`` whose text says what would be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from smbd.config.interfaces import parse as parse_interface

_TRUE = frozenset({"yes", "true", "1", "on"})
_FALSE = frozenset({"no", "false", "0", "off"})
_SIZE = re.compile(r"(\d+)\s*([KMGTP]?)(?:i?B)?", re.IGNORECASE)
_WORD = re.compile(r'(?:"[^"]*"|[^\s,;"])+')
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of value is read from text and shown as text. ``expects`` is for people; ``plain``: JSON may have the value itself."""

    read: Callable[[str], Any]
    show: Callable[[Any], str]
    expects: str
    plain: bool = True


def _read_boolean(text: str) -> bool:
    word = text.casefold()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"'{text}' is neither yes nor no")


def _read_size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a size (a number of bytes, or one with K, M or G)")
    return int(match[1]) << _UNITS[match[2].upper()]


def _show_size(value: int) -> str:
    for unit in "PTGMK":
        shift = _UNITS[unit]
        if value and value % (1 << shift) == 0:
            return f"{value >> shift}{unit}"
    return str(value)


def _read_mode(text: str) -> int:
    if not re.fullmatch(r"[0-7]{1,5}", text) or int(text, 8) > 0o7777:
        raise ValueError(f"'{text}' is not an octal mode between 0000 and 7777")
    return int(text, 8)


def _read_words(text: str) -> tuple[str, ...]:
    return tuple(word for word in (found.replace('"', "") for found in _WORD.findall(text)) if word)


def _read_interfaces(text: str) -> tuple[str, ...]:
    words = _read_words(text)
    for word in words:
        parse_interface(word)
    return words


def _show_words(words: tuple[str, ...]) -> str:
    return ", ".join(f'"{word}"' if re.search(r"[\s,;]", word) else word for word in words)


def _read_patterns(text: str) -> tuple[str, ...]:
    return tuple(pattern for pattern in text.split("/") if pattern)


def _show_patterns(patterns: tuple[str, ...]) -> str:
    return "".join(f"/{pattern}" for pattern in patterns) + "/" if patterns else ""


def _read_text(text: str) -> str:
    if len(text) > 1 and text.startswith('"') and text.endswith('"') and '"' not in text[1:-1]:
        return text[1:-1]
    return text


def _show_text(text: str) -> str:
    # A backslash at the end would join the next line.
    return f'"{text}"' if text != text.strip() or text.endswith("\\") or _read_text(text) != text else text


def whole(lowest: int = 0, highest: int = 2**63 - 1) -> Kind:
    """A whole number within bounds."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,19}", text):
            raise ValueError(f"'{text}' is not a whole number")
        value = int(text)
        if not lowest <= value <= highest:
            raise ValueError(f"{value} is not between {lowest} and {highest}")
        return value

    return Kind(read, str, f"a whole number from {lowest}")


def seconds(lowest: float = 0.0, highest: int = 10**9) -> Kind:
    """A duration in seconds, fractions allowed. Thirty years are enough, and in milliseconds they fit into a counter's word."""

    def read(text: str) -> float:
        if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) < lowest:
            raise ValueError(f"'{text}' is not a number of seconds of at least {lowest:g}")
        if float(text) > highest:
            raise ValueError(f"{text} seconds are more than {highest}")
        return float(text)

    return Kind(read, lambda value: f"{value:g}", "seconds")


def size(lowest: int = 0, highest: int = 2**62) -> Kind:
    """A number of bytes; K, M, G, T and P are powers of 1024."""

    def read(text: str) -> int:
        value = _read_size(text)
        if not lowest <= value <= highest:
            raise ValueError(f"{text} is not between {_show_size(lowest)} and {_show_size(highest)}")
        return value

    return Kind(read, _show_size, "a size: bytes, or a number with K, M or G")


def choice(values: Mapping[str, Any], hint: str = "") -> Kind:
    """One of several words, each with the value it stands for; the first word of a value is the one shown. ``hint``: of what else
    somebody may have meant, for the error.
    """
    shown: dict[Any, str] = {}
    for word, value in values.items():
        shown.setdefault(value, word)
    known = {word.casefold(): value for word, value in values.items()}
    wanted = ", ".join(shown.values())

    def read(text: str) -> Any:
        try:
            return known[" ".join(text.casefold().split())]
        except KeyError:
            raise ValueError(f"'{text}' is none of: {wanted}" + (f" ({hint})" if hint else "")) from None

    return Kind(read, lambda value: shown[value], wanted, plain=False)


def ordered(names: tuple[str, ...]) -> Kind:
    """A list out of ``names`` in order of preference; words that all begin with + or - change the default list."""
    known = {name.casefold(): name for name in names}

    def one(word: str) -> str:
        try:
            return known[word.casefold()]
        except KeyError:
            raise ValueError(f"'{word}' is none of: {', '.join(names)}") from None

    def read(text: str) -> tuple[str, ...]:
        words = _read_words(text)
        if words and all(word[0] in "+-" for word in words):
            dropped = {one(word[1:]) for word in words if word[0] == "-"}
            return tuple(name for name in names if name not in dropped)
        chosen = tuple(dict.fromkeys(one(word) for word in words))
        if not chosen:
            raise ValueError(f"names nothing; choose from: {', '.join(names)}")
        return chosen

    return Kind(read, ", ".join, f"a list of: {', '.join(names)}")


def numbers(lowest: int, highest: int) -> Kind:
    """A list of whole numbers."""
    single = whole(lowest, highest)

    def read(text: str) -> tuple[int, ...]:
        found = tuple(dict.fromkeys(single.read(word) for word in _read_words(text)))
        if not found:
            raise ValueError("names no number")
        return found

    return Kind(read, lambda value: ", ".join(map(str, value)), f"whole numbers from {lowest} to {highest}")


def sizes(choices: tuple[int, ...]) -> Kind:
    """A list of sizes out of ``choices``, ascending."""
    known = " ".join(_show_size(one) for one in choices)

    def read(text: str) -> tuple[int, ...]:
        found = sorted({_one_of(word, choices, known) for word in _read_words(text)})
        if not found:
            raise ValueError(f"names no size; choose from: {known}")
        return tuple(found)

    return Kind(read, lambda value: " ".join(map(_show_size, value)), f"sizes out of {known}")


def counts(choices: tuple[int, ...], highest: int) -> Kind:
    """A list of SIZE:COUNT with sizes out of ``choices``, ascending; what has the count 0 is left out."""
    known = " ".join(_show_size(one) for one in choices)
    single = whole(0, highest)

    def read(text: str) -> tuple[tuple[int, int], ...]:
        found: dict[int, int] = {}
        for word in _read_words(text):
            size, colon, count = word.partition(":")
            if not colon:
                raise ValueError(f"'{word}' is not SIZE:COUNT, as in 64K:2")
            found[_one_of(size, choices, known)] = single.read(count)
        return tuple(sorted((size, count) for size, count in found.items() if count))

    def show(value: tuple[tuple[int, int], ...]) -> str:
        return " ".join(f"{_show_size(size)}:{count}" for size, count in value)

    return Kind(read, show, f"a list of SIZE:COUNT with sizes out of {known}")


def _one_of(word: str, choices: tuple[int, ...], known: str) -> int:
    value = _read_size(word)
    if value not in choices:
        raise ValueError(f"{word} is none of: {known}")
    return value


def _read_level(text: str) -> int:
    # smb.conf: "3 auth:5" sets classes of messages apart; the first number that belongs to no class is the level.
    for word in _read_words(text):
        name, _, level = word.rpartition(":")
        if name in ("", "all") and level.isdigit():
            return min(int(level), 10)
    raise ValueError(f"'{text}' is not a level from 0 to 10")


boolean = Kind(_read_boolean, lambda value: "yes" if value else "no", "yes or no")
mode = Kind(_read_mode, lambda value: f"{value:04o}", "an octal mode", plain=False)
text = Kind(_read_text, _show_text, "text")
patterns = Kind(_read_patterns, _show_patterns, "names with * and ?, each between slashes: /name/*.ext/")
words = Kind(_read_words, _show_words, "a list of names")
interfaces = Kind(_read_interfaces, _show_words, "addresses, networks or names, each with options in quotation marks")
level = Kind(_read_level, str, "a level from 0 to 10")
