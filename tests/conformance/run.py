"""A run: plans over a few servers side by side.

Owns: the order (long ones first), the grounds, and what is heard of it meanwhile.
Invariants: a plan that this machine cannot offer a ground for is no silent hole: it comes back in ``Run.unfit`` with what is missing. Where
the kernel lets them, servers side by side have a network and mounts each, and nothing of a run that is ended in the middle remains.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import NamedTuple

from tests.conformance import isolation
from tests.conformance.ground import LOADED, LOADER, Ground, Unfit
from tests.conformance.janitor import Janitor
from tests.conformance.load import Load
from tests.conformance.report import progress
from tests.conformance.suites import PLANS, Plan
from tests.conformance.torture import Suite, run_plan


class Wish(NamedTuple):
    """How to run. ``settings``: [global] for all servers; ``patience``: seconds a test may take; ``log``: where the servers' logs go."""

    jobs: int
    patience: float
    settings: Mapping[str, str]
    under_load: bool
    log: Path | None


class Run(NamedTuple):
    """What came of it."""

    suites: list[Suite]
    unfit: dict[str, str]


class _Teller:
    """Says what has been done, and collects the logs."""

    def __init__(self, total: int, log: Path | None) -> None:
        self._total, self._done, self._log = total, 0, log
        self._lock = Lock()
        self._begun = time.monotonic()
        self._shared = ""

    def tell(self, line: str) -> None:
        with self._lock:
            self._done += 1
            minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
            print(f"[{self._done:3}/{self._total} {minutes:2}:{seconds:02}] {line}", file=sys.stderr, flush=True)

    def isolate(self) -> None:
        """Gives the calling thread a network and mounts; says once when it has to do without."""
        reason = isolation.enter()
        with self._lock:
            if reason and not self._shared:
                print(f"The servers share this machine's network and mounts: {reason}", file=sys.stderr, flush=True)
            self._shared = reason

    def log(self, name: str, text: str) -> None:
        if self._log:
            with self._lock, self._log.open("a") as file:
                file.write(f"--- {name}\n{text}")


def run(plans: Sequence[Plan], wish: Wish) -> Run:
    """Runs the plans. ``PeerError`` when a server does not start."""
    teller = _Teller(len(plans), wish.log)
    grounds: SimpleQueue[Ground] = SimpleQueue()
    found = Run([], {})

    def one(plan: Plan) -> None:
        ground = grounds.get()
        try:
            suite = _on(ground, plan, wish, teller)
            found.suites.append(suite)
            teller.tell(progress(suite))
        except Unfit as error:
            found.unfit[plan.title] = str(error)
            teller.tell(f"{plan.title}: not run: {error}")
        finally:
            grounds.put(ground)

    with Janitor() as janitor:
        made = [Ground(wish.settings) for _ in range(min(wish.jobs, len(plans)))]
        for ground in made:
            janitor.learn(ground.peer.base)
            grounds.put(ground)
        threads = ThreadPoolExecutor(len(made), initializer=teller.isolate)
        try:
            list(threads.map(one, sorted(plans, key=lambda plan: -plan.seconds)))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # what still runs, the janitor ends
        for ground in made:
            ground.discard()
    return found


def once_more(done: Run, names: Sequence[str], wish: Wish) -> Run:
    """Runs tests again, one suite after the other: on a busy machine the clock decides some of them. What comes of it takes the place of
    what came before, and a test that passed only now is told in ``Suite.unsteady``.
    """
    plans = [plan._replace(tests=tests) for plan in PLANS if (tests := tuple(plan.name(name) for name in names if _is_of(name, plan)))]
    if not plans:
        return done
    again = {suite.name: suite for suite in run(plans, wish._replace(jobs=1)).suites}
    return done._replace(suites=[_joined(suite, again[suite.name]) if suite.name in again else suite for suite in done.suites])


def _is_of(name: str, plan: Plan) -> bool:
    return name == plan.title or name.startswith(f"{plan.title}.")


def _joined(first: Suite, second: Suite) -> Suite:
    steady = tuple(name for name, outcome in second.outcomes.items() if outcome == "success")
    return first._replace(
        outcomes={**first.outcomes, **second.outcomes},
        reasons={**{name: text for name, text in first.reasons.items() if name not in second.outcomes}, **second.reasons},
        late=second.late,
        problems=(*first.problems, *second.problems),
        unsteady=steady,
    )


def _on(ground: Ground, plan: Plan, wish: Wish, teller: _Teller) -> Suite:
    """One plan on one ground."""
    load, problems = None, []
    try:
        ground.begin(plan)
        if wish.under_load:
            load = Load(ground.peer.host, ground.peer.port, *LOADER, LOADED)
        suite = run_plan(ground.server, plan, plan.slow * wish.patience)
        if load and (error := load.end()):
            problems.append(error)
    finally:
        text, wrong = ground.end()
        teller.log(plan.title, text)
    return suite._replace(problems=(*problems, *wrong))
