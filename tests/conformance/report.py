"""The report of a run: a table beside Samba's figures, and a section for each kind of test that wants attention.

Owns: the words. Counting and comparing is ``verdict``'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.conformance import verdict
from tests.conformance.torture import Suite
from tests.conformance.verdict import Change, Expectations, Outcomes


def progress(suite: Suite) -> str:
    """A suite in one line."""
    counts = ", ".join(f"{suite.count(outcome)} {outcome}" for outcome in verdict.OUTCOMES if suite.count(outcome))
    late = f"; too long: {', '.join(suite.late)}" if suite.late else ""
    problems = f"; {'; '.join(suite.problems)}" if suite.problems else ""
    return f"{suite.name}: {counts or 'nothing'} in {suite.seconds:.0f} s{late}{problems}"


def table(suites: Sequence[Suite], samba: Outcomes) -> str:
    """One line per suite: pass, fail and skip here and at Samba."""
    lines = [f"{'suite':36}{'here: pass fail skip':>24}{'samba: pass fail skip':>26}{'seconds':>10}"]
    ours, theirs = [0, 0, 0], [0, 0, 0]
    for suite in sorted(suites, key=lambda one: one.name):
        here = _counts(suite.outcomes)
        there = _counts(_beside(suite, samba))
        ours = [a + b for a, b in zip(ours, here, strict=True)]
        theirs = [a + b for a, b in zip(theirs, there, strict=True)]
        lines.append(f"{suite.name:36}{_three(here):>24}{_three(there):>26}{suite.seconds:>10.1f}")
    lines.append(f"{'all':36}{_three(ours):>24}{_three(theirs):>26}")
    return "\n".join(lines)


def sections(suites: Sequence[Suite], samba: Outcomes, expectations: Expectations) -> str:
    """What deserves attention, each kind with its number; nothing when there is nothing."""
    parts = [
        _section("passed by Samba and not here", verdict.behind(suites, samba)),
        _section("passed though a failure was expected (--update takes it over)", verdict.better(suites, expectations)),
        _section("passed only the second time", [name for suite in suites for name in suite.unsteady]),
        _section("took too long", [name for suite in suites for name in suite.late]),
        _section("WORSE than expected", verdict.worse(suites, expectations)),
        _section("wrong beside the tests", [f"{suite.name}: {problem}" for suite in suites for problem in suite.problems]),
    ]
    return "\n".join(part for part in parts if part)


def reasons(suites: Iterable[Suite]) -> str:
    """All that smbtorture said of tests that failed or were skipped."""
    return "\n".join(f"\n{name}:\n{text}" for suite in suites for name, text in suite.reasons.items())


def document(suites: Sequence[Suite], samba: Outcomes, expectations: Expectations) -> dict[str, Any]:
    """The same for machines."""
    return {
        "suites": {suite.name: suite._asdict() for suite in suites},
        "totals": {outcome: sum(suite.count(outcome) for suite in suites) for outcome in verdict.OUTCOMES},
        "worse": [change._asdict() for change in verdict.worse(suites, expectations)],
        "better": [change._asdict() for change in verdict.better(suites, expectations)],
        "behind": [change._asdict() for change in verdict.behind(suites, samba)],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """JSON into a file."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def _section(title: str, found: Sequence[Change | str]) -> str:
    return "\n".join([f"\n{title}: {len(found)}", *(f"  {one}" for one in found)]) if found else ""


def _beside(suite: Suite, samba: Outcomes) -> Outcomes:
    theirs = verdict.of_suite(samba, suite.name)
    return theirs if suite.whole else {name: outcome for name, outcome in theirs.items() if name in suite.outcomes}


def _counts(outcomes: Outcomes) -> list[int]:
    kinds = list(outcomes.values())
    return [kinds.count("success"), kinds.count("failure") + kinds.count("error"), kinds.count("skip")]


def _three(counts: list[int]) -> str:
    return " ".join(f"{count:4}" for count in counts)
