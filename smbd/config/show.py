"""A configuration as text in smb.conf syntax, and as plain values for JSON.

Owns: the way back from ``Config``. Invariant: ``parse(as_text(config))`` has the same parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smbd.config.build import IPC
from smbd.config.model import Config, Share, parameters

_INDENT = "\t"


def as_text(config: Config, defaults: bool = False) -> str:
    """The effective configuration, parameters at their defaults only with ``defaults``."""
    lines = ["[global]", *_lines(config, config.options, defaults)]
    for key, share in config.shares.items():
        body = list(_lines(share, share.options, defaults))
        if key != IPC or defaults:
            lines += ["", f"[{share.name}]", *body]
    return "\n".join(lines) + "\n"


def _lines(section: Config | Share, options: Mapping[str, str], defaults: bool) -> Iterator[str]:
    for parameter in parameters(type(section)):
        value = getattr(section, parameter.attribute)
        if defaults or value != parameter.default:
            yield f"{_INDENT}{parameter.name} = {parameter.kind.show(value)}"
    for name, value in options.items():
        yield f"{_INDENT}{name} = {value}"


def as_json(config: Config) -> dict[str, Any]:
    """``{"global": {...}, "shares": {name: {...}}}`` with every parameter by its smb.conf name."""
    shares = {share.name: _values(share) for share in config.shares.values()}
    return {"files": list(config.files), "global": _values(config), "shares": shares}


def _values(section: Config | Share) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for parameter in parameters(type(section)):
        value = getattr(section, parameter.attribute)
        found[parameter.name] = value if parameter.kind.plain else parameter.kind.show(value)
    return found | dict(section.options)
