"""``python -m bench.load``: the bench's command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.load.peers import PEERS, USUAL, PeerError
from bench.load.report import document, figures, standing, table
from bench.load.run import Plan, run
from bench.load.workloads import WORKLOADS, Workload


def options() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="Measures SMB 2/3 servers side by side on this machine.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one sample (default 0.5)")
    parser.add_argument("--clients", default="1", metavar="N[,N...]", help="client processes at once (default 1); several: one run each")
    parser.add_argument("--idle-clients", type=int, default=20, help="connections held for the memory figure (default 20)")
    parser.add_argument("--only", action="append", metavar="NAME", help="workloads whose name contains NAME; may be repeated")
    parser.add_argument("--peers", default=",".join(USUAL), help=f"which servers, of {', '.join(PEERS)} (default {','.join(USUAL)})")
    parser.add_argument("--protections", default="plain,signed,encrypted")
    parser.add_argument("--dir", type=Path, help="where the servers' folders are made (default: the temporary directory)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a global parameter for millpond")
    return parser.parse_args()


def plan_of(asked: argparse.Namespace, workloads: tuple[Workload, ...], clients: int) -> Plan:
    """What the command line asks for, with so many clients."""
    return Plan(
        tuple(asked.peers.split(",")),
        workloads,
        tuple(asked.protections.split(",")),
        rounds=1 if asked.quick else asked.rounds, clients=clients, seconds=asked.seconds,
        idle_clients=asked.idle_clients, directory=asked.dir, settings=dict(text.split("=", 1) for text in asked.set),
    )


def main() -> int:
    """Runs, prints, writes; 1 when a server did not start."""
    asked = options()
    workloads = tuple(row for row in WORKLOADS if not asked.only or any(part in row.name for part in asked.only))
    unknown = set(asked.peers.split(",")) - set(PEERS)
    if unknown or not workloads:
        print(f"no such {'server: ' + ', '.join(sorted(unknown)) if unknown else 'workload'}", file=sys.stderr)
        return 1
    documents = []
    for clients in asked.clients.split(","):
        plan = plan_of(asked, workloads, int(clients))
        try:
            results = run(plan, lambda line: print(line, file=sys.stderr, flush=True))
        except PeerError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{plan.clients} client{'s' if plan.clients > 1 else ''}, {plan.rounds} rounds")
        print(table(plan, results))
        print(standing(figures(plan, results)))
        documents.append(document(plan, results))
        if asked.json:  # after each run: what was measured is not lost to what comes after it
            asked.json.write_text(json.dumps(documents, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
