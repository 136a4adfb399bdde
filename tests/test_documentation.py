"""The manual pages name what there is: every command, option and parameter, with its default."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from smbd.cli.command import parser
from smbd.cli.status import SECTIONS
from smbd.config import Config, Share, load
from smbd.config.model import parameters

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/millpond.conf.5").read_text(encoding="utf-8")
COMMAND = (ROOT / "docs/millpond.1").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", [Config, Share])
def test_every_parameter_is_documented(kind: type[Config] | type[Share]) -> None:
    lines = re.findall(r"^\.It Ic (.+)$", PAGE, re.MULTILINE)
    documented = {part.partition(" No = ")[0] for line in lines for part in re.split(r" , (?:Ic )?", line)}
    missing = [one.name for one in parameters(kind) if one.name not in documented]
    assert not missing


def test_documented_defaults_are_the_defaults() -> None:
    shown = {one.name: one.kind.show(one.default) for kind in (Config, Share) for one in parameters(kind)}
    for name, default in re.findall(r"Ic ([a-z0-9 ]+?) No = ([^,\n]+?)(?= ,|$)", PAGE, re.MULTILINE):
        if not default.startswith(("the ", "a ")):
            assert shown[name] == default, name


def test_every_command_and_option_is_documented() -> None:
    for name, command in commands(parser()):
        assert re.search(rf"^\.(Cm|It Cm) .*\b{name}\b", COMMAND, re.MULTILINE), name
        for option in command._option_string_actions:
            documented = option in ("-h", "--help", "-v") or f"Fl -{option[2:]}" in COMMAND
            assert documented, f"{name} {option}"


def test_the_synopsis_has_every_option_and_section() -> None:
    synopsis = COMMAND.partition(".Sh SYNOPSIS\n")[2].partition(".Sh ")[0]
    forms = [form for form in synopsis.split(".Nm\n") if form]
    for name, command in commands(parser()):
        own = [form for form in forms if re.search(rf"^\.Cm .*\b{name}\b", form, re.MULTILINE)]
        assert own, name
        options = [one[2:] for one in command._option_string_actions if one not in ("-h", "--help", "-v")]
        assert [one for one in options if not re.search(rf"Fl -{one}\b", own[0])] == [], name
    assert f".Op Cm {' | '.join(SECTIONS)}\n" in synopsis


def commands(made: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All of them, those within others too."""
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield name, command
                yield from commands(command)


def test_the_example_is_a_configuration_without_a_slip() -> None:
    config = load(str(ROOT / "docs/millpond.conf.example"))
    assert [warning.text for warning in config.warnings if "is not a folder on this machine" not in warning.text] == []
    assert set(config.shares) == {
        "homes", "public", "projects", "machines", "scratch", "company", "accounts", "incoming", "ipc$",
    }  # fmt: skip


def test_the_example_shows_what_an_administrator_looks_for() -> None:
    """Each with a line above it, or its share's comment, that says what it is for."""
    text = (ROOT / "docs/millpond.conf.example").read_text(encoding="utf-8")
    shown = (
        "server multi channel support", "max disconnected opens", "max disconnected opens per user", "smb3 unix extensions",
        "durable handles", "continuous availability", "vfs objects", "shadow:snapdir", "smb encrypt", "msdfs root", "admin users",
        "posix locking", "oplocks",
    )  # fmt: skip
    assert [name for name in shown if not re.search(rf"^\t{name} = ", text, re.MULTILINE)] == []
