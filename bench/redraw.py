"""``python -m bench.redraw``: every drawing, and README's table, made anew from the raw data in bench/figures. Nothing is measured.

Owns: which data a drawing is of (the newest by its name's date), and the rows of README's table.
Invariant: what README shows can be made from what lies beside it; a test compares the two.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import claims, fragmentation, scale
from bench.load.peers import ROOT
from bench.load.tables import cell

FIGURES = Path(__file__).resolve().parent / "figures"
README = ROOT / "README.md"
_TABLE = re.compile(r"(?<=<!-- make figures: table -->\n).*?(?=<!-- end -->)", re.DOTALL)
# Columns in their order, those that were measured.
PEERS = {
    "millpond": "Millpond",
    "millpond-threaded": "threaded",
    "millpond-compiled": "compiled",
    "samba": "Samba",
    "samba-sync": "Samba, no aio",
}
# (workload, protection, what README calls it)
ROWS = (
    ("read 1M", "plain", "read, 1 MiB requests"),
    ("read 1M", "signed", "… signed"),
    ("read 1M", "encrypted", "… encrypted"),
    ("read 8M", "plain", "read, 8 MiB requests"),
    ("write 1M", "plain", "write, 1 MiB requests"),
    ("write 1M", "signed", "… signed"),
    ("write 1M", "encrypted", "… encrypted"),
    ("write 8M", "plain", "write, 8 MiB requests"),
    ("read 4K w16", "plain", "random read 4 KiB, 16 under way"),
    ("write 4K w16", "plain", "random write 4 KiB, 16 under way"),
    ("read 4K w1", "plain", "random read 4 KiB, one at a time"),
    ("open-close", "plain", "open and close"),
    ("stat w8", "plain", "stat (compound), 8 under way"),
    ("create-delete", "plain", "create, write, close, delete"),
    ("list", "plain", "list, entries"),
    ("echo w16", "plain", "echo, 16 under way"),
    ("connect", "plain", "connect and log on"),
)


def newest(directory: Path, pattern: str) -> Path | None:
    """The file with the latest date in its name; None when there is none."""
    return max(directory.glob(pattern), default=None)


def drawings(directory: Path) -> Iterator[tuple[str, str]]:
    """(file name, text) of every drawing whose raw data lie there."""
    for claim in claims.CLAIMS:
        data = directory / f"{claim.name}.jsonl"
        if data.exists():
            yield f"{claim.name}.svg", claims.drawing(claim, [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()])
    raw = directory / fragmentation.RAW
    if raw.exists():
        yield fragmentation.FIGURE, fragmentation.figure(*fragmentation.read_raw(raw))
    found = newest(directory, "scale-*.json")
    if found is not None:
        yield "scale.svg", scale.figure(json.loads(found.read_text(encoding="utf-8")))


def table(document: dict[str, Any]) -> str:
    """README's table of one run."""
    peers = [peer for peer in PEERS if peer in document["plan"]["peers"]]
    records = {(record["workload"], record["protection"], record["peer"]): record for record in document["figures"]}
    lines = [f"|  | unit | {' | '.join(PEERS[peer] for peer in peers)} |", "| --- | --- |" + " ---: |" * len(peers)]
    for workload, protection, name in ROWS:
        cells = [records.get((workload, protection, peer)) for peer in peers]
        unit = next((record["unit"] for record in cells if record is not None), "")
        lines.append(f"| {name} | {unit} | {' | '.join(map(cell, cells))} |")
    idle = [document["memory"].get(peer) for peer in peers]
    shown = " | ".join(f"{one['per_idle_client'] / 1024:,.0f}" if one else "–" for one in idle)
    lines.append(f"| private memory of an idle client | KiB | {shown} |")
    return "\n".join(lines) + "\n"


def readme(text: str, directory: Path) -> str:
    """README with its table of the newest run of one client."""
    found = newest(directory, "load-*.json")
    if found is None:
        return text
    runs = json.loads(found.read_text(encoding="utf-8"))
    run = next((one for one in runs if one["plan"]["clients"] == 1), runs[0])
    replacement: Callable[[re.Match[str]], str] = lambda _found: table(run)  # noqa: E731 - a template would read backslashes
    return _TABLE.sub(replacement, text)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes what has changed, and says so."""
    parser = argparse.ArgumentParser(prog="python -m bench.redraw", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--directory", type=Path, default=FIGURES, help=f"raw data and drawings (default {FIGURES})")
    asked = parser.parse_args(argv)
    wanted = [(asked.directory / name, text) for name, text in drawings(asked.directory)]
    wanted.append((README, readme(README.read_text(encoding="utf-8"), asked.directory)))
    for path, text in wanted:
        changed = not path.exists() or path.read_text(encoding="utf-8") != text
        if changed:
            path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}: {'made anew' if changed else 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
