"""The forms of the server that the whole test suite passes in: a defect found in one is a defect of all.

Owns: the table. It is frozen: a row's name is what reports and bug descriptions speak of. Each possible pair of values of two parameters
stands in at least one row, and no fewer rows would do (three data paths meet three pool modes in nine pairs); ``test_combinations`` proves
both. What cannot be is ``port = posix`` with ``server mode = threaded``: portable calls set the identity of a whole process.

Usage: ``MILLPOND_COMBINATION=pocket pytest tests/process`` has every server that a test starts run in that form, except for what the test
itself sets. ``python -m tests.combinations [NAME ...]`` (``make combinations``) runs the tests from outside in each row and ends with a
table; its status is 1 unless everything passed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
VARIABLE: Final = "MILLPOND_COMBINATION"
SUITES: Final = ("tests/process", "tests/interop", "tests/fuzz")
PROCESSES: Final = "2"  # of pytest at once
_COUNT: Final = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")

VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "port": ("linux", "posix"),
    "data path": ("auto", "user", "kernel"),
    "pool mode": ("dynamic", "static", "malloc"),
    "server mode": ("forked", "threaded"),
}


class Combination(NamedTuple):
    """One row; the fields after ``name`` in the order of ``VALUES``."""

    name: str
    port: str
    data_path: str
    pool_mode: str
    server_mode: str

    @property
    def settings(self) -> dict[str, str]:
        """For [global]."""
        return dict(zip(VALUES, self[1:], strict=True))


TABLE: Final = (
    Combination("appliance", "linux", "auto", "static", "forked"),
    Combination("straight", "linux", "kernel", "dynamic", "forked"),
    Combination("plain", "linux", "user", "malloc", "forked"),
    Combination("pocket", "linux", "auto", "dynamic", "threaded"),
    Combination("pocket-fixed", "linux", "user", "static", "threaded"),
    Combination("pocket-straight", "linux", "kernel", "malloc", "threaded"),
    Combination("elsewhere", "posix", "user", "dynamic", "forked"),
    Combination("elsewhere-fixed", "posix", "kernel", "static", "forked"),
    Combination("elsewhere-plain", "posix", "auto", "malloc", "forked"),
)

Pair = tuple[tuple[str, str], tuple[str, str]]


def possible(settings: Mapping[str, str]) -> bool:
    """Whether a server can have these settings together."""
    return not (settings.get("port") == "posix" and settings.get("server mode") == "threaded")


def pairs(settings: Mapping[str, str]) -> set[Pair]:
    """Each two settings of a row."""
    return set(combinations(settings.items(), 2))


def chosen() -> dict[str, str]:
    """The settings of the row that ``MILLPOND_COMBINATION`` names; none without it. KeyError for a name that is in no row."""
    name = os.environ.get(VARIABLE, "")
    return {row.name: row for row in TABLE}[name].settings if name else {}


class Outcome(NamedTuple):
    """What came of a row. ``counts``: tests by how they ended; ``failures``: their names."""

    row: Combination
    counts: Mapping[str, int]
    failures: Sequence[str]
    status: int
    seconds: float


def run(row: Combination, options: Sequence[str]) -> Outcome:
    """The suites in this form. ``options``: further ones of pytest's."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-n", PROCESSES, "-q", "-rfE", "-o", "addopts=", "--tb=short", *SUITES, *options]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, VARIABLE: row.name}, stdout=subprocess.PIPE, text=True) as suite:
        assert suite.stdout is not None
        lines = []
        for line in suite.stdout:
            sys.stdout.write(line)
            lines.append(line)
    counts = {word.removesuffix("s"): int(number) for number, word in _COUNT.findall(lines[-1] if lines else "")}
    failures = [line.split()[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return Outcome(row, counts, failures, suite.returncode, time.monotonic() - begun)


def report(outcomes: Sequence[Outcome]) -> str:
    """The table."""
    words = ("passed", "failed", "error", "skipped")
    head = ("combination", *VALUES, *words, "seconds")
    rows = [(*one.row, *(str(one.counts.get(word, 0)) for word in words), f"{one.seconds:.0f}") for one in outcomes]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    lines += [f"{one.row.name}: {failure}" for one in outcomes for failure in one.failures]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """``[NAME ...] [-- OPTION ...]``: rows, all unless some are named, and options of pytest's."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    names, options = arguments[:at], arguments[at + 1 :]
    unknown = set(names) - {row.name for row in TABLE}
    if unknown:
        print(f"no such combination: {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in TABLE)}", file=sys.stderr)
        return 2
    outcomes = []
    for row in TABLE:
        if not names or row.name in names:
            print(f"--- {row.name}: {', '.join(f'{name} = {value}' for name, value in row.settings.items())}", flush=True)
            outcomes.append(run(row, options))
    print(report(outcomes))
    return int(any(one.status for one in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
