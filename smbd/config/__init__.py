"""Configuration in smb.conf syntax: text -> frozen ``Config``.

Owns: reading, defaults, warnings. ``load`` a file, ``parse`` a text, or take a folder's options with ``serve.from_serve``.
Invariant: what comes out is complete and frozen; a reload makes a new one, and a bad file makes none (``ConfigError``).
"""

from __future__ import annotations

from smbd.config.build import build
from smbd.config.model import Config, ConfigError, ConfigWarning, Share
from smbd.config.reader import Reader, file_text

__all__ = ["Config", "ConfigError", "ConfigWarning", "Share", "load", "parse"]


def parse(text: str, name: str = "<text>") -> Config:
    """The configuration in ``text``; ``name`` stands in messages, and included files are looked for beside it."""
    return build(Reader().read(text, name))


def load(path: str) -> Config:
    """The configuration in the file ``path``; ``ConfigError`` when it cannot be read or used."""
    return parse(file_text(path), path)
