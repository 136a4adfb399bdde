"""``python -m tests.conformance [SUITE...]``: smbtorture's smb2 suites against servers started for them. ``--help`` says the rest."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from bench.load.peers import PeerError
from tests import combinations
from tests.conformance import report, verdict
from tests.conformance.run import Run, Wish, once_more, run
from tests.conformance.suites import LEFT_OUT, PATIENCE, PLANS, QUICK, Plan, chosen
from tests.server import IS_SAMBA

_ABOUT = """\
Runs smbtorture's smb2 suites, each against a server of its own that is started as the suite wants it, and prints pass, fail and skip beside
Samba's. What is expected of each test stands in tests/conformance/expected/millpond.json, and why it fails if it does."""

_MORE = """\
SUITE is a suite ('session', with its variants, or 'session@' without), a variant ('session@encrypted') or a test ('lock.cancel').
Some ways to use it:

  make conformance                                  all of it
  make conformance ARGS='lock oplock --reasons'     two suites, and what smbtorture says of what failed
  make conformance ARGS='--combination pocket'      with a thread for each client instead of a process
  make conformance ARGS='lease --under-load'        while another client works on the same server
  make conformance ARGS='--update'                  and expect what passed from now on
  MILLPOND_TEST_SERVER=samba make conformance ARGS='read --update'     Samba's outcomes anew, with its smbd (as root)

The status is 1 when a test came out worse than expected, when a server did not end well or logged a traceback, or when the other client of
--under-load had a wrong answer; 2 when a server did not start or nothing is called so. A test that passes unexpectedly is only told.
What came out worse is run once more, alone: on a busy machine the clock decides some tests. Those that pass then are told.
As root each server has a network and mounts of its own: runs side by side do not meet."""

_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Ended(BaseException):
    """One of the signals has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance", description=_ABOUT, epilog=_MORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="what to run (default: everything)")
    parser.add_argument("--quick", action="store_true", help="a few short suites")
    parser.add_argument("--list", action="store_true", help="print the suites, with what each wants of its server, and end")
    parser.add_argument("--jobs", type=int, default=6, metavar="N", help="servers side by side (default 6: suites mostly wait)")
    parser.add_argument("--limit", type=float, default=PATIENCE, metavar="SECONDS", help=f"for each test (default {PATIENCE:.0f})")
    parser.add_argument("--combination", metavar="ROW", choices=[row.name for row in combinations.TABLE],
                        help=f"a form of the server, of {', '.join(row.name for row in combinations.TABLE)}")  # fmt: skip
    parser.add_argument("--under-load", action="store_true", help="while another client reads, writes and creates on the same server")
    parser.add_argument("--reasons", action="store_true", help="print what smbtorture says of tests that failed or were skipped")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write outcomes, reasons and comparisons here")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the servers' logs here")
    parser.add_argument("--update", action="store_true", help="expect what became better or is new from now on; what became worse, never")
    return parser


def _list() -> None:
    for plan in sorted(PLANS, key=lambda plan: plan.title):
        wants = [f"{name} = {value}" for name, value in (*plan.settings.items(), *plan.share.items())]
        print(f"{plan.title:36}{'; '.join((*plan.options, *wants, *plan.fixtures))}".rstrip())
    print("\nleft out:")
    for name, why in LEFT_OUT.items():
        print(f"{name:36}{why}")


def _tell(done: Run, asked: argparse.Namespace, expectations: verdict.Expectations) -> int:
    """Prints and writes what is asked; the status."""
    samba = verdict.samba()
    print(report.table(done.suites, samba))
    if IS_SAMBA:
        if asked.update:
            verdict.record_samba(done.suites)
    else:
        print(report.sections(done.suites, samba, expectations))
    for name, why in done.unfit.items():
        print(f"\n{name} did not run: {why}")
    if asked.reasons:
        print(report.reasons(done.suites))
    if asked.json:
        report.write(asked.json, report.document(done.suites, samba, expectations))
    if IS_SAMBA:
        return 0
    if asked.update:
        verdict.write_expected(verdict.taken_over(done.suites, expectations))
    return 1 if verdict.worse(done.suites, expectations) or any(suite.problems for suite in done.suites) else 0


def _end(number: int, frame: FrameType | None) -> None:
    for other in _ENDS:
        signal.signal(other, signal.SIG_IGN)
    raise _Ended(number)


def _die_of(number: int) -> None:
    """As this process would have ended at once, had it not had to clear up."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def main() -> int:
    """Runs, compares, prints."""
    for number in _ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _end)
    parser = _options()
    asked = parser.parse_args()
    if asked.list:
        _list()
        return 0
    try:
        plans: list[Plan] = chosen(tuple(asked.suites or (QUICK if asked.quick else ())))
    except LookupError as error:
        parser.error(f"there is no suite or test '{error.args[0]}'; --list names the suites")
    if asked.update and asked.combination:
        parser.error("--update records the outcomes of the server as it is by default: without --combination")
    row = next((row for row in combinations.TABLE if row.name == asked.combination), None)
    expectations = verdict.expected_of(row.settings if row else {})
    wish = Wish(max(1, asked.jobs), asked.limit, row.settings if row else {}, asked.under_load, asked.log)
    if asked.log:
        asked.log.write_text("")
    try:
        done = run(plans, wish)
        if not IS_SAMBA:
            done = once_more(done, [change.name for change in verdict.worse(done.suites, expectations)], wish)
        return _tell(done, asked, expectations)
    except PeerError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except _Ended as ended:
        _die_of(ended.number)
