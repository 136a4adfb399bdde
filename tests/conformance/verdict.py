"""Counts beside Samba's own, and what is worse than it was.

Owns: the reading and writing of ``samba-4.17.json`` (Samba's outcomes for the same tests on the same kind of machine) and of
``expected/millpond.json`` (ours, when last recorded).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.conformance.torture import Suite

HERE = Path(__file__).resolve().parent
SAMBA = HERE / "samba-4.17.json"
EXPECTED = HERE / "expected" / "millpond.json"
OUTCOMES = ("success", "failure", "error", "skip")

Outcomes = Mapping[str, str]


def read(path: Path) -> dict[str, str]:
    """Test -> outcome."""
    found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return found


def of_suite(outcomes: Outcomes, suite: str) -> dict[str, str]:
    """The tests of one suite."""
    return {name: outcome for name, outcome in outcomes.items() if name == suite or name.startswith(f"{suite}.")}


def worse(suites: Iterable[Suite], expected: Outcomes) -> list[str]:
    """Tests that were a success when last recorded and are none now."""
    found = []
    for suite in suites:
        for name, outcome in of_suite(expected, suite.name).items():
            now = suite.outcomes.get(name, "absent")
            if outcome == "success" and now != "success":
                reason = suite.reasons.get(name, "").strip()
                found.append(f"{name}: was success, is {now}{': ' + reason if reason else ''}")
    return found


def table(suites: Iterable[Suite], samba: Outcomes) -> str:
    """One line per suite: pass/fail/skip here and at Samba."""
    lines = [f"{'suite':28}{'here: pass fail skip':>24}{'samba: pass fail skip':>26}{'seconds':>10}"]
    ours, theirs = [0, 0, 0], [0, 0, 0]
    for suite in suites:
        here = _counts(suite.outcomes)
        there = _counts(of_suite(samba, suite.name))
        ours = [a + b for a, b in zip(ours, here, strict=True)]
        theirs = [a + b for a, b in zip(theirs, there, strict=True)]
        note = "" if suite.ended else "  did not end in time"
        lines.append(f"{suite.name:28}{_three(here):>24}{_three(there):>26}{suite.seconds:>10.1f}{note}")
    lines.append(f"{'all':28}{_three(ours):>24}{_three(theirs):>26}")
    return "\n".join(lines)


def behind(suites: Iterable[Suite], samba: Outcomes) -> list[str]:
    """Tests that Samba passes and we do not."""
    found = []
    for suite in suites:
        for name, outcome in of_suite(samba, suite.name).items():
            now = suite.outcomes.get(name, "absent")
            if outcome == "success" and now != "success":
                reason = suite.reasons.get(name, "").strip().splitlines()
                found.append(f"{name}: {now}{': ' + reason[-1] if reason else ''}")
    return found


def record(suites: Iterable[Suite]) -> None:
    """Writes the outcomes of these suites into the expected ones."""
    expected = read(EXPECTED)
    for suite in suites:
        for name in of_suite(expected, suite.name):
            del expected[name]
        expected.update(suite.outcomes)
    EXPECTED.write_text(json.dumps(dict(sorted(expected.items())), indent=0) + "\n")


def _counts(outcomes: Outcomes) -> list[int]:
    kinds = list(outcomes.values())
    return [kinds.count("success"), kinds.count("failure") + kinds.count("error"), kinds.count("skip")]


def _three(counts: list[int]) -> str:
    return " ".join(f"{count:4}" for count in counts)
