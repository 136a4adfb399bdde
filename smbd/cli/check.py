"""``millpond check``: the effective configuration, or what is wrong with it.

Owns: the showing. Invariant: what is shown, saved as a file, is the same configuration.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from smbd.cli import place
from smbd.config import Config, ConfigError, ConfigWarning, load
from smbd.config.show import as_json, as_text

if TYPE_CHECKING:
    from smbd.cli.command import Run

_CHECK = """\
Read a configuration as the server would and show what it comes to, like testparm. Warnings name file and line on standard error.
Exit status 0 when the server could use it, 1 when it could not.

examples:
  millpond check                          what differs from the defaults
  millpond check --verbose my.conf        every parameter
  millpond check --json | jq .shares
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """check."""
    check = commands.add_parser(
        "check", help="check a configuration and show what it comes to", description=_CHECK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    check.add_argument("file", metavar="FILE", nargs="?", help="the configuration; the same as --config FILE")
    check.add_argument("--config", metavar="FILE", help=f"the configuration (default: {place.DEFAULT_CONFIG})")
    check.add_argument("--verbose", "-v", action="store_true", help="defaults too")
    check.add_argument("--json", action="store_true", help="for programs; errors and warnings too")
    check.set_defaults(action=_check)


def _check(arguments: argparse.Namespace, _run: Run) -> int:
    path = arguments.file or arguments.config or place.DEFAULT_CONFIG
    try:
        config = load(path)
    except ConfigError as error:
        if not arguments.json:
            raise
        errors = [_problem(one) for one in (error, *error.further)]
        print(json.dumps({"ok": False, "errors": errors, "warnings": []}, indent=2))
        return 1
    if arguments.json:
        print(json.dumps(_report(config), indent=2))
        return 0
    for warning in config.warnings:
        print(f"millpond: {warning}", file=sys.stderr)
    print(as_text(config, defaults=arguments.verbose), end="")
    return 0


def _report(config: Config) -> dict[str, Any]:
    return {"ok": True, "errors": [], "warnings": [_problem(one) for one in config.warnings], **as_json(config)}


def _problem(one: ConfigError | ConfigWarning) -> dict[str, Any]:
    return {"file": one.file, "line": one.line, "text": one.text}
