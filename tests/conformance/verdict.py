"""What a run means: beside Samba's outcomes, and beside what was expected.

Owns: the reading and writing of ``samba-4.17.json`` (test -> outcome, on the same kind of machine with the same options), of
``expected/millpond.json`` (test -> "success", or {outcome: reason}), and the reading of what differs in a form of the server
(``expected/posix.json``: with ``port = posix``).
Invariant: whatever is expected and no success has a reason, which begins with one of ``WHYS``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from tests.conformance.torture import Suite

HERE: Final = Path(__file__).resolve().parent
SAMBA: Final = HERE / "samba-4.17.json"
EXPECTED: Final = HERE / "expected" / "millpond.json"
DIFFERENT: Final = {("port", "posix"): HERE / "expected" / "posix.json"}  # by a setting of [global]
OUTCOMES: Final = ("success", "failure", "error", "skip")
WHYS: Final = (
    "contradicts the specification", "contradicts a sibling test", "needs what Linux lacks", "needs what port posix lacks",
    "made for another server", "not yet",
)  # fmt: skip
_RANK: Final = {"success": 2, "failure": 1, "skip": 1}  # everything else is worse: hung, crashed, or not there at all

Outcomes = Mapping[str, str]
Value = TypeVar("Value")


class Expectation(NamedTuple):
    """An outcome and, unless it is a success, why it is not."""

    outcome: str
    reason: str = ""


Expectations = Mapping[str, Expectation]


class Change(NamedTuple):
    """A test that did not come out as expected. ``why``: what smbtorture said, or the reason why a failure was expected."""

    name: str
    was: str
    now: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: was {self.was}, is {self.now}{': ' + self.why if self.why else ''}"


# -- the two files ---------------------------------------------------------------------------------------------------------------------


def samba() -> Outcomes:
    """Samba's outcomes."""
    found: dict[str, str] = json.loads(SAMBA.read_text()) if SAMBA.exists() else {}
    return found


def record_samba(suites: Iterable[Suite]) -> None:
    """Samba's outcomes of these suites take the place of those before."""
    kept = dict(samba())
    for suite in suites:
        if suite.whole:
            for name in of_suite(kept, suite.name):
                del kept[name]
        kept.update(suite.outcomes)
    SAMBA.write_text(json.dumps(dict(sorted(kept.items())), indent=0) + "\n")


def expected(path: Path = EXPECTED) -> dict[str, Expectation]:
    """What is expected of each test."""
    found = json.loads(path.read_text()) if path.exists() else {}
    return {name: Expectation(value) if isinstance(value, str) else Expectation(*value.popitem()) for name, value in found.items()}


def expected_of(settings: Mapping[str, str]) -> dict[str, Expectation]:
    """What is expected of a server with these settings in [global]."""
    found = expected()
    for setting, path in DIFFERENT.items():
        if setting in settings.items():
            found |= expected(path)
    return found


def write_expected(expectations: Expectations, path: Path = EXPECTED) -> None:
    """A line for each test."""
    lines = []
    for name, (outcome, reason) in sorted(expectations.items()):
        lines.append(f"{json.dumps(name)}: {json.dumps({outcome: reason} if reason else outcome)}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def without_reason(expectations: Expectations) -> list[str]:
    """Tests that may fail though nobody says why."""
    return [name for name, (outcome, reason) in expectations.items() if outcome != "success" and not reason.startswith(WHYS)]


# -- what came of a run ----------------------------------------------------------------------------------------------------------------


def of_suite(outcomes: Mapping[str, Value], suite: str) -> dict[str, Value]:
    """The tests of one suite."""
    return {name: outcome for name, outcome in outcomes.items() if name == suite or name.startswith(f"{suite}.")}


def _known(suite: Suite, expectations: Expectations) -> Expectations:
    """What is expected of the tests that a suite was to run."""
    known = of_suite(expectations, suite.name)
    return known if suite.whole else {name: found for name, found in known.items() if name in suite.outcomes}


def worse(suites: Iterable[Suite], expectations: Expectations) -> list[Change]:
    """Tests that came out worse than expected, and failures of tests that nobody expected anything of."""
    found = []
    for suite in suites:
        known = _known(suite, expectations)
        for name in sorted({*known, *suite.outcomes}):
            was, now = known.get(name, Expectation("success")).outcome, suite.outcomes.get(name, "absent")
            if _RANK.get(now, 0) < _RANK.get(was, 0):
                found.append(Change(name, was if name in known else "unknown", now, _said(suite, name)))
    return found


def better(suites: Iterable[Suite], expectations: Expectations) -> list[Change]:
    """Tests that were expected to fail, and passed."""
    found = []
    for suite in suites:
        for name, (was, reason) in _known(suite, expectations).items():
            if was != "success" and suite.outcomes.get(name) == "success":
                found.append(Change(name, was, "success", reason))
    return found


def behind(suites: Iterable[Suite], theirs: Outcomes) -> list[Change]:
    """Tests that Samba passes and we do not."""
    found = []
    for suite in suites:
        for name, outcome in of_suite(theirs, suite.name).items():
            now = suite.outcomes.get(name, "absent")
            if outcome == "success" and now != "success" and (suite.whole or name in suite.outcomes):
                found.append(Change(name, "a success there", f"{now} here", _said(suite, name)))
    return found


def taken_over(suites: Iterable[Suite], expectations: Expectations) -> dict[str, Expectation]:
    """What is expected from now on: also what became better or was unknown. What became worse is for a person to write."""
    after = dict(expectations)
    for suite in suites:
        for name, now in suite.outcomes.items():
            was = after.get(name)
            if now == "success":
                after[name] = Expectation(now)
            elif was is None:
                after[name] = Expectation(now, f"not yet: {_said(suite, name) or now}")
            elif was.outcome not in ("success", now) and now != "error":
                after[name] = Expectation(now, was.reason)
    return after


def _said(suite: Suite, name: str) -> str:
    """The end of what smbtorture said of a test, in one line."""
    lines = suite.reasons.get(name, "").strip().splitlines()
    return lines[-1].strip() if lines else ""
