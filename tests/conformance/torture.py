"""smbtorture: how a suite is run, and what it says.

Owns: the run of one plan, test by test within its time, and the reading of the subunit (version 1) output.
Invariant: each test that smbtorture lists for a plan has an outcome. One that hung or took smbtorture down with it is an 'error' whose
reason says so, and the tests behind it are run all the same.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from tests.conformance.suites import Plan
from tests.server import SHARE, Server, tool

_OUTCOME = re.compile(r"^(test|success|successful|failure|skip|error|xfail|uxsuccess): (.+?)( \[)?$")
_TWICE = re.compile(r"^(.*?\.)(.+)\.\2$")
_ATTEMPTS = 12
FILTER = "iptables"  # beneath a server's directory: the program that cuts connections


class Suite(NamedTuple):
    """What came of a plan, by the names under which outcomes are kept. ``reasons``: test -> the text of its failure.

    ``late``: tests that were ended because they took too long. ``problems``: of the server or of whoever else was there. ``unsteady``:
    tests that passed only when they were run again.
    """

    name: str
    outcomes: dict[str, str]
    reasons: dict[str, str]
    seconds: float
    late: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    whole: bool = True
    unsteady: tuple[str, ...] = ()

    def count(self, outcome: str) -> int:
        """Tests with an outcome."""
        return sum(1 for found in self.outcomes.values() if found == outcome)


class Reader:
    """Reads the output line by line. ``running``: the test that has begun and not ended."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.running: str | None = None
        self._reading: str | None = None
        self._text: list[str] = []

    def feed(self, line: str) -> None:
        """One line, without its end."""
        if self._reading is not None:
            self._more(line)
            return
        match = _OUTCOME.match(line)
        if match is None:
            return
        kind, name, more = match.groups()
        if kind == "test":
            self.running = name
            return
        self.running = None
        self.outcomes[name] = "success" if kind == "successful" else kind
        if more:
            self._reading, self._text = name, []

    def _more(self, line: str) -> None:
        assert self._reading is not None
        if line == "]":
            self.reasons[self._reading] = "\n".join(self._text)
            self._reading = None
        else:
            self._text.append(line)

    def give_up(self, reason: str) -> str | None:
        """The output ended in the middle of a test: what that was. None when it ended between two."""
        lost = self.running
        if lost is not None:
            self.outcomes[lost], self.reasons[lost] = "error", reason
            self.running = None
        return lost


@cache
def listed() -> tuple[str, ...]:
    """The names of smbtorture's smb2 tests, as it reports them."""
    done = subprocess.run([tool("smbtorture"), "-s", "/dev/null", "--list"], capture_output=True, text=True, timeout=60, check=True)
    return tuple(_TWICE.sub(r"\1\2", line) for line in done.stdout.splitlines() if line.startswith("smb2."))


def members(plan: Plan) -> list[str]:
    """What a plan consists of."""
    names = [name for name in listed() if name == plan.suite or name.startswith(f"{plan.suite}.")]
    return [name for name in names if not plan.tests or name in plan.tests]


def run_plan(server: Server, plan: Plan, patience: float) -> Suite:
    """Runs a plan against a server that is ready for it; each test may take ``patience`` seconds."""
    begun = time.monotonic()
    reader, late = Reader(), []
    wanted = members(plan)
    names: Sequence[str] = plan.tests or (plan.suite,)
    for _ in range(_ATTEMPTS):
        known = len(reader.outcomes)
        reason = _run(_command(server, plan, names), server.peer.base, reader, patience)
        lost = reader.give_up(reason)
        if lost is not None and reason.startswith("not done"):
            late.append(lost)
        names = [name for name in wanted if name not in reader.outcomes]
        if not names or len(reader.outcomes) == known:
            break
    outcomes = {plan.key(name): outcome for name, outcome in reader.outcomes.items()}
    reasons = {plan.key(name): text for name, text in reader.reasons.items()}
    took_long = tuple(plan.key(name) for name in late)
    return Suite(plan.title, outcomes, reasons, time.monotonic() - begun, took_long, whole=not plan.tests)


def _command(server: Server, plan: Plan, names: Sequence[str]) -> list[str]:
    options = (
        "torture:progress=no", f"torture:localdir={server.share}", f"torture:user2name={server.other_user}",
        f"torture:user2password={server.other_password}", f"torture:iptables_command={server.peer.base / FILTER}",
        f"private dir={server.peer.base}", f"lock directory={server.peer.base}",
        *plan.options,
    )  # fmt: skip
    return [
        tool("smbtorture"), f"//{server.peer.host}/{SHARE}", f"-U{server.user}%{server.password}", "-s", "/dev/null",
        "-p", str(server.port), "--fullname", "--format=subunit", *(f"--option={option}" for option in options), *names,
    ]  # fmt: skip


def _run(command: list[str], cwd: Path, reader: Reader, patience: float) -> str:
    """One smbtorture; why it ended."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cwd, text=True, errors="replace"
    ) as torture:
        for line in _lines(torture, reader, patience):
            reader.feed(line)
        if torture.poll() is None:
            torture.kill()
            return f"not done after {patience:g} s"
    return f"smbtorture ended with status {torture.returncode} in the middle of it"


def _lines(torture: subprocess.Popen[str], reader: Reader, patience: float) -> Iterator[str]:
    """Its output, until it ends or one test has taken too long."""
    lines: SimpleQueue[str | None] = SimpleQueue()
    threading.Thread(target=_pump, args=(torture, lines), daemon=True).start()
    running, deadline = reader.running, time.monotonic() + patience
    while True:
        if reader.running != running:
            running, deadline = reader.running, time.monotonic() + patience
        try:
            line = lines.get(timeout=max(deadline - time.monotonic(), 0.01))
        except Empty:
            return
        if line is None:
            torture.wait()
            return
        yield line


def _pump(torture: subprocess.Popen[str], lines: SimpleQueue[str | None]) -> None:
    assert torture.stdout is not None
    for line in torture.stdout:
        lines.put(line.rstrip("\n"))
    lines.put(None)
