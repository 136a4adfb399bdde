"""``python -m bench.load``: the bench's command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.load.peers import PEERS, PeerError
from bench.load.report import document, table
from bench.load.run import Plan, run
from bench.load.workloads import WORKLOADS


def options() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="Measures SMB 2/3 servers side by side on this machine.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of one sample (default 1.5)")
    parser.add_argument("--clients", type=int, default=1, help="client processes at once (default 1)")
    parser.add_argument("--idle-clients", type=int, default=20, help="connections held for the memory figure (default 20)")
    parser.add_argument("--only", action="append", metavar="NAME", help="workloads whose name contains NAME; may be repeated")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"which servers (default {','.join(PEERS)})")
    parser.add_argument("--protections", default="plain,signed,encrypted")
    parser.add_argument("--dir", type=Path, help="where the servers' folders are made (default: the temporary directory)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a global parameter for millpond")
    return parser.parse_args()


def main() -> int:
    """Runs, prints, writes; 1 when a server did not start."""
    asked = options()
    workloads = tuple(row for row in WORKLOADS if not asked.only or any(part in row.name for part in asked.only))
    plan = Plan(
        tuple(asked.peers.split(",")),
        workloads,
        tuple(asked.protections.split(",")),
        rounds=1 if asked.quick else asked.rounds, clients=asked.clients, seconds=0.5 if asked.quick else asked.seconds,
        idle_clients=asked.idle_clients, directory=asked.dir, settings=dict(text.split("=", 1) for text in asked.set),
    )
    unknown = set(plan.peers) - set(PEERS)
    if unknown or not workloads:
        print(f"no such {'server: ' + ', '.join(sorted(unknown)) if unknown else 'workload'}", file=sys.stderr)
        return 1
    try:
        results = run(plan, lambda line: print(line, file=sys.stderr, flush=True))
    except PeerError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(plan, results))
    if asked.json:
        asked.json.write_text(json.dumps(document(plan, results), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
