"""smb.conf as lines: sections, continuation, comments, include.

Owns: the lexical rules. Knows nothing of what a parameter means, except ``include``, which brings in another file where it stands.
Invariant: every setting carries the file and line it began on, so that whatever is wrong with it can be found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pools.port import sockets
from smbd.config import macros
from smbd.config.model import ConfigError, ConfigWarning

GLOBAL = "global"
_DEPTH = 16


class Setting(NamedTuple):
    """``name = value`` as written, in ``section`` (as written too). An empty ``name`` announces the section itself."""

    section: str
    name: str
    value: str
    file: str
    line: int


class Lines(NamedTuple):
    """What one file and the files it includes said."""

    settings: list[Setting]
    warnings: list[ConfigWarning]
    errors: list[ConfigError]
    files: list[str]


def squeeze(name: str) -> str:
    """A parameter's or section's name as it is compared: without case and white space."""
    return "".join(name.split()).casefold()


def file_text(path: str) -> str:
    """The text of a configuration file; ``ConfigError`` when it cannot be read or is not UTF-8."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except FileNotFoundError:
        raise ConfigError(path, 0, "no such file: name the configuration with --config FILE") from None
    except OSError as error:
        raise ConfigError(path, 0, f"cannot be read: {error.strerror}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(path, raw.count(b"\n", 0, error.start) + 1, "is not UTF-8 text") from None


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, comments left out, a line that ends in a backslash joined with the next."""
    began, kept = 0, ""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not kept and line[:1] in ("#", ";"):
            continue
        if not kept:
            began = number
        joined = line.endswith("\\")
        kept += line[:-1] if joined else line
        if joined:
            continue
        if kept:
            yield began, kept
        kept = ""
    if kept:
        yield began, kept


class Reader:
    """Reads one file and what it includes into ``lines``."""

    def __init__(self, read_file: Callable[[str], str] = file_text) -> None:
        self.lines = Lines([], [], [], [])
        self._read_file = read_file
        self._section = GLOBAL
        self._open: list[str] = []

    def read(self, text: str, file: str) -> Lines:
        """Take in the text of ``file``. Settings before the first section belong to [global], as in smb.conf."""
        self.lines.files.append(file)
        self._open.append(file)
        for number, line in _logical(text):
            self._line(line, file, number)
        self._open.pop()
        return self.lines

    def _line(self, line: str, file: str, number: int) -> None:
        if line.startswith("["):
            self._begin(line, file, number)
            return
        name, equals, value = line.partition("=")
        name, value = " ".join(name.split()), value.strip()
        if not equals or not name:
            self.lines.errors.append(ConfigError(file, number, f"'{line}' is neither a [section] nor 'name = value'"))
        elif squeeze(name) == "include":
            self._include(value.strip('"'), file, number)
        else:
            self.lines.settings.append(Setting(self._section, name, value, file, number))

    def _begin(self, line: str, file: str, number: int) -> None:
        name = " ".join(line[1:].partition("]")[0].split())
        if "]" not in line or not name:
            self.lines.errors.append(ConfigError(file, number, f"'{line}' is not a section: it should read [name]"))
            return
        self._section = GLOBAL if squeeze(name) in (GLOBAL, "globals") else name
        self.lines.settings.append(Setting(self._section, "", "", file, number))

    def _include(self, value: str, file: str, number: int) -> None:
        target, left = macros.at_load(value, sockets.host_name())
        if left:
            # The file is read once, before any client is known.
            self._warn(file, number, f"include '{value}' is left out: %{left} is not known before a client connects")
            return
        target = os.path.join(os.path.dirname(file), target)
        if target in self._open or len(self._open) >= _DEPTH:
            self.lines.errors.append(ConfigError(file, number, f"include '{target}' includes itself"))
            return
        if not os.path.exists(target):
            self._warn(file, number, f"include '{target}': no such file")
            return
        try:
            text = self._read_file(target)
        except ConfigError as error:
            self.lines.errors.append(error)
        else:
            self.read(text, target)

    def _warn(self, file: str, number: int, text: str) -> None:
        self.lines.warnings.append(ConfigWarning(file, number, text))
