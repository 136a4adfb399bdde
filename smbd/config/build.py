"""Settings -> ``Config``: which parameter a name means, in which section, and whether the whole makes sense.

Owns: the rules between sections (share parameters in [global] are defaults of every share; ``copy``) and the warnings.
Invariant: either a complete ``Config`` comes out or a ``ConfigError`` that names every wrong line.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pools.buffer import CAPACITIES, CLASSES, LARGEST
from pools.plan import Plan, make_plan, plan_bytes
from pools.port import choice
from smbd.config import shadow, values
from smbd.config.known import WITHOUT_EFFECT
from smbd.config.model import Config, ConfigError, ConfigWarning, Parameter, Share, derived, parameters
from smbd.config.reader import GLOBAL, Lines, Setting, squeeze

IPC = "ipc$"
HOMES = "homes"
_ACL_NAME = "acl_xattr:security_acl_name"
_DELAY = "smbd:writetimeupdatedelay"
_BUILT_IN = frozenset({"acl_xattr", "streams_xattr"})
_PRINTING = frozenset({"printers", "print$"})


class _Meaning(NamedTuple):
    parameter: Parameter
    inverse: bool


def _index(found: Iterable[Parameter]) -> dict[str, _Meaning]:
    names: dict[str, _Meaning] = {}
    for parameter in found:
        for name in (parameter.name, *parameter.synonyms):
            names[squeeze(name)] = _Meaning(parameter, False)
        for name in parameter.inverses:
            names[squeeze(name)] = _Meaning(parameter, True)
    return names


GLOBALS = _index(parameters(Config))
SHARES = _index(parameters(Share))
_KNOWN = frozenset(squeeze(name) for name in WITHOUT_EFFECT)


@dataclass(slots=True)
class _Section:
    name: str
    file: str
    line: int
    found: dict[str, Any] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


class _Builder:
    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.globals = _Section(GLOBAL, lines.files[0] if lines.files else "", 0)
        self.defaults = _Section("defaults", "", 0)
        self.sections: dict[str, _Section] = {}

    def build(self) -> Config:
        for setting in self.lines.settings:
            self._take(setting)
        shares = {key: self._share(key, section) for key, section in self.sections.items()}
        if IPC not in shares:
            shares[IPC] = self._share(IPC, _Section("IPC$", "", 0))
        self._judge()
        self._stop_at_errors()
        found = self.globals.found
        config = Config(
            shares=shares,
            files=tuple(self.lines.files),
            options=self.globals.options,
            **{**found, **derived(found)},
        )
        self._judge_pools(config)
        self._judge_port(config)
        self._stop_at_errors()
        return replace(config, warnings=tuple(self.lines.warnings))

    def _stop_at_errors(self) -> None:
        if self.lines.errors:
            first, *rest = self.lines.errors
            raise ConfigError(first.file, first.line, first.text, tuple(rest))

    def _take(self, setting: Setting) -> None:
        """One setting into its section."""
        if setting.section == GLOBAL:
            if setting.name:
                self._global(setting)
            return
        key = setting.section.casefold()
        section = self.sections.get(key)
        if section is None:
            section = self.sections[key] = _Section(setting.section, setting.file, setting.line)
        elif not setting.name:
            self._warn(setting, f"[{setting.section}] stands here again: both parts are taken together")
        if squeeze(setting.name) == "copy":
            self._copy(setting, section)
        elif setting.name:
            self._assign(setting, section, SHARES)

    def _global(self, setting: Setting) -> None:
        # smb.conf: a share's parameter in [global] is the default of every share.
        if squeeze(setting.name) in GLOBALS or squeeze(setting.name) not in SHARES:
            self._assign(setting, self.globals, GLOBALS)
        else:
            self._assign(setting, self.defaults, SHARES)

    def _assign(self, setting: Setting, section: _Section, names: dict[str, _Meaning]) -> None:
        key = squeeze(setting.name)
        meaning = names.get(key)
        if meaning is None:
            if ":" in setting.name:
                section.options[key] = setting.value
            else:
                self._unknown(setting, names)
            return
        try:
            value = meaning.parameter.kind.read(setting.value)
        except ValueError as error:
            self._fault(setting, f"{setting.name} = {setting.value}: {error}")
            return
        section.found[meaning.parameter.attribute] = not value if meaning.inverse else value

    def _copy(self, setting: Setting, section: _Section) -> None:
        source = self.sections.get(setting.value.casefold())
        if source is None or source is section:
            self._fault(setting, f"copy = {setting.value}: no such section above")
            return
        section.found = {**source.found, **section.found}
        section.options = {**source.options, **section.options}

    def _unknown(self, setting: Setting, names: dict[str, _Meaning]) -> None:
        key = squeeze(setting.name)
        if names is SHARES and key in GLOBALS:
            self._warn(setting, f"'{setting.name}' belongs in [global]: ignored in [{setting.section}]")
        elif key in _KNOWN:
            self._warn(setting, f"'{setting.name}' has no effect in Millpond: ignored")
        else:
            known = {name: meaning.parameter.name for name, meaning in names.items()}
            close = difflib.get_close_matches(key, known, 1, 0.75)
            hint = f" (did you mean '{known[close[0]]}'?)" if close else ""
            self._warn(setting, f"unknown parameter '{setting.name}': ignored{hint}")

    def _share(self, key: str, section: _Section) -> Share:
        found = {**self.defaults.found, **section.found}
        if key == IPC:
            found |= {"path": "", "read_only": False, "available": True}
            return Share(name="IPC$", kind="pipe", options=section.options, **{"comment": "IPC Service", **found})
        if key in _PRINTING:
            self._about(section, f"[{section.name}]: printers are not served")
            found["available"] = False
        elif key != HOMES and not found.get("path") and not found.get("msdfs_proxy"):
            self._about(section, f"[{section.name}] has no path: it is not available")
            found["available"] = False
        options = {**self.globals.options, **section.options}
        found["shadow"] = self._shadow(section, found.get("vfs_objects", ()), options)
        found["acl_name"] = self._acl_name(section, options.get(_ACL_NAME, ""))
        found["write_time_delay"] = self._delay(section, options.get(_DELAY, "0"))
        return Share(name=section.name, options=options, **found)

    def _acl_name(self, section: _Section, name: str) -> str:
        """Samba's option: the whole name of an xattr."""
        if name and not re.fullmatch(r"(user|security|trusted)\.[!-~]{1,200}", name):
            text = f"[{section.name}]: {_ACL_NAME} = {name} is no name of an attribute, as user.NTACL is"
            self.lines.errors.append(ConfigError(section.file, section.line, text))
        return name

    def _delay(self, section: _Section, text: str) -> float:
        """Samba's option, in microseconds."""
        try:
            return int(values.whole().read(text)) / 1_000_000
        except ValueError as error:
            self.lines.errors.append(ConfigError(section.file, section.line, f"[{section.name}]: {_DELAY}: {error}"))
            return 0.0

    def _shadow(self, section: _Section, modules: tuple[str, ...], options: dict[str, str]) -> shadow.Shadow | None:
        """The modules that a share names: those that make a difference, and those that are part of the server."""
        wanted = {module.casefold() for module in modules}
        for module in sorted(wanted - shadow.MODULES - _BUILT_IN):
            self._about(section, f"[{section.name}]: vfs objects: '{module}' has no effect in Millpond: ignored")
        if not wanted & shadow.MODULES:
            return None
        try:
            return shadow.Shadow(snapper=True) if shadow.SNAPPER in wanted else shadow.read(options)
        except ValueError as error:
            self.lines.errors.append(ConfigError(section.file, section.line, f"[{section.name}]: {error}"))
            return None

    def _judge(self) -> None:
        """What is readable line by line and wrong as a whole."""
        found = self.globals.found
        if found.get("server_min_protocol", 0) > found.get("server_max_protocol", 0xFFFF):
            text = "server min protocol is above server max protocol: no dialect is left"
            self.lines.errors.append(ConfigError(self.globals.file, 0, text))
        if found.get("merge_memory"):
            text = "merge memory = yes: who measures how long writes to his pages take can learn what other clients' pages hold"
            self._about(self.globals, text)
        for section in self.sections.values():
            path = section.found.get("path", "")
            if path and not path.startswith(("/", "%")):
                text = f"path = {path} in [{section.name}] is not absolute: it has to start with /"
                self.lines.errors.append(ConfigError(section.file, section.line, text))
            elif path and "%" not in path and not os.path.isdir(path):
                self._about(section, f"[{section.name}]: {path} is not a folder on this machine")

    def _judge_port(self, config: Config) -> None:
        """Whether the port in use can do what the rest asks of it."""
        if config.port == "linux" != choice.DEFAULT:
            self.lines.errors.append(ConfigError(self.globals.file, 0, "port = linux: this system is not Linux; port = posix serves here"))
        if config.port != "posix":
            return
        if config.server_mode == "threaded":
            text = "server mode = threaded needs port = linux: portable calls give a whole process one identity, not each thread its own"
            self.lines.errors.append(ConfigError(self.globals.file, 0, text))
        if config.data_path == "kernel":
            self._about(self.globals, "data path = kernel has no effect with port = posix: data passes through memory there")

    def _judge_pools(self, config: Config) -> None:
        """Whether a connection can have what its pool begins with, and the largest PDU with its answer."""
        try:
            plan = make_plan(config.pool_classes, dict(config.pool_reserve_slabs), dict(config.pool_static_slabs))
        except ValueError as error:
            self.lines.errors.append(ConfigError(self.globals.file, 0, str(error)))
            return
        limit = min(config.pool_ceiling, config.pool_budget)
        which = "pool ceiling" if config.pool_ceiling <= config.pool_budget else "pool budget"
        static = config.pool_mode == "static"
        begins = plan_bytes(plan.static if static else plan.reserve)
        if config.pool_mode != "malloc" and begins > limit:
            name = "pool static slabs" if static else "pool reserve slabs"
            text = f"{name} take {begins >> 10}K, {which} allows {limit >> 10}K: no connection could begin"
            self.lines.errors.append(ConfigError(self.globals.file, 0, text))
        elif not static and begins + 2 * CLASSES[LARGEST].slab_bytes > limit:
            self._about(self.globals, f"{which} = {limit >> 20}M: not enough for a request of 8M and its answer, which will be refused")
        elif static:
            self._judge_static(config, plan)

    def _judge_static(self, config: Config, plan: Plan) -> None:
        """Nothing can be had later: what clients may ask for needs a buffer from the start."""
        largest = max(capacity for capacity, slabs in zip(CAPACITIES, plan.static, strict=True) if slabs)
        if largest < max(config.smb2_max_read, config.smb2_max_write, config.smb2_max_trans):
            way_out = "more of them, or smaller smb2 max read, write and trans"
            text = f"pool static slabs: the largest buffer is {largest >> 10}K, larger reads and writes will be refused: {way_out}"
            self._about(self.globals, text)

    def _warn(self, setting: Setting, text: str) -> None:
        self.lines.warnings.append(ConfigWarning(setting.file, setting.line, text))

    def _about(self, section: _Section, text: str) -> None:
        self.lines.warnings.append(ConfigWarning(section.file, section.line, text))

    def _fault(self, setting: Setting, text: str) -> None:
        self.lines.errors.append(ConfigError(setting.file, setting.line, text))


def build(lines: Lines) -> Config:
    """The configuration the lines describe, or a ``ConfigError`` with everything that is wrong with them."""
    return _Builder(lines).build()
