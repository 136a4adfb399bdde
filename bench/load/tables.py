"""``python -m bench.load.tables FILE``: a run's figures as Markdown, and how many rows are ahead of the better Samba.

Owns: nothing but the form. Invariant: every figure is one of the file's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def markdown(document: dict[str, Any]) -> str:
    """One table: a row a workload and protection, a column a server; in brackets the server's CPU, in microseconds per MB or operation."""
    peers = document["plan"]["peers"]
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for record in document["figures"]:
        rows.setdefault((record["workload"], record["protection"]), {})[record["peer"]] = record
    lines = [f"| | | unit | {' | '.join(peers)} |", "| --- | --- | --- |" + " ---: |" * len(peers)]
    for (workload, protection), cells in rows.items():
        unit = next(iter(cells.values()))["unit"]
        shown = " | ".join(cell(cells.get(peer)) for peer in peers)
        lines.append(f"| {workload} | {protection} | {unit} | {shown} |")
    idle = [document["memory"].get(peer) for peer in peers]
    shown = " | ".join(f"{one['per_idle_client'] / 1024:,.0f}" if one else "–" for one in idle)
    lines.append(f"| private memory of an idle client | | KiB | {shown} |")
    return "\n".join(lines)


def cell(record: dict[str, Any] | None) -> str:
    """Rate, and CPU in brackets."""
    if record is None or "rate" not in record:
        return "–"
    return f"{record['rate']:,.0f} ({record['server_cpu_us']:,.0f})"


def standing(document: dict[str, Any]) -> str:
    """For each form of ours: rows ahead or level in throughput, in CPU, and in both."""
    lines = []
    for peer in sorted({row["peer"] for row in document["ratios"]}):
        mine = [row for row in document["ratios"] if row["peer"] == peer]
        ahead = [sum(row[what] >= 1 for row in mine) for what in ("rate", "cpu")]
        both = sum(row["rate"] >= 1 and row["cpu"] >= 1 for row in mine)
        lines.append(f"{peer}: of {len(mine)} rows {ahead[0]} ahead or level in throughput, {ahead[1]} in CPU, {both} in both")
    return "\n".join(lines)


def main() -> int:
    """Prints every run of the file."""
    for document in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        print(f"{document['plan']['clients']} clients, median of {document['plan']['rounds']} rounds\n")
        print(markdown(document))
        print()
        print(standing(document))
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
