"""``python -m tests.conformance [SUITE...]``: smbtorture's smb2 suites against a server started for them.

Prints a line per suite beside Samba's own outcomes, writes JSON when asked, and ends with 1 when a test is worse than recorded.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.load.peers import PeerError
from tests.conformance import verdict
from tests.conformance.torture import CORE, GLOBAL, LIMIT, QUICK, REST, SHARE_SETTINGS, Suite, clear, run_suite
from tests.server import IS_SAMBA, Server


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Runs smbtorture's smb2 suites against millpond.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="'lock' or 'smb2.lock' or a single test; without: the core suites")
    parser.add_argument("--all", action="store_true", help="every suite, also those of features that are still to come")
    parser.add_argument("--quick", action="store_true", help="a few short suites")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds per suite (default {LIMIT:.0f})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write outcomes and reasons here")
    parser.add_argument("--update", action="store_true", help="record the outcomes as the expected ones")
    parser.add_argument("--reasons", action="store_true", help="print why tests failed")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the server's log here")
    return parser.parse_args()


def _run(names: list[str], limit: float, log: Path | None) -> tuple[list[Suite], str]:
    server = Server(settings=GLOBAL, share_settings=SHARE_SETTINGS)
    suites = []
    try:
        server.start()
        for name in names:
            suite = run_suite(server, name, limit)
            suites.append(suite)
            counts = ", ".join(f"{suite.count(outcome)} {outcome}" for outcome in verdict.OUTCOMES if suite.count(outcome))
            print(f"{suite.name}: {counts or 'nothing'}{'' if suite.ended else ' (did not end in time)'}", file=sys.stderr, flush=True)
            clear(server.share)
    finally:
        text = server.log
        if log:
            log.write_text(text)
        server.discard()
    return suites, text


def main() -> int:
    """Runs, compares, prints."""
    asked = _options()
    chosen = asked.suites or (CORE + REST if asked.all else QUICK if asked.quick else CORE)
    try:
        suites, log = _run(list(chosen), asked.limit, asked.log)
    except PeerError as error:
        print(error, file=sys.stderr)
        return 1
    samba = verdict.read(verdict.SAMBA)
    print(verdict.table(suites, samba))
    late = verdict.behind(suites, samba)
    if late:
        print(f"\n{len(late)} tests that Samba passes are missing:")
        print("\n".join(f"  {line}" for line in late))
    if asked.reasons:
        print("\n".join(f"\n{name}:\n{text}" for suite in suites for name, text in suite.reasons.items()))
    if asked.json:
        document = {suite.name: suite._asdict() for suite in suites}
        asked.json.write_text(json.dumps(document, indent=1) + "\n")
    if asked.update and not IS_SAMBA:
        verdict.record(suites)
    lost = verdict.worse(suites, verdict.read(verdict.EXPECTED))
    if lost:
        print(f"\n{len(lost)} tests are worse than recorded:", *lost, sep="\n  ")
    tracebacks = log.count("Traceback (most recent call last)")
    if tracebacks:
        print(f"\nthe server's log has {tracebacks} tracebacks (--log FILE keeps it)")
    return 1 if lost or tracebacks else 0


if __name__ == "__main__":
    sys.exit(main())
