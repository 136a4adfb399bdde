"""``python -m bench.claims``: what the published designs claim, measured on this code: raw data and drawings in bench/figures.

Owns: the claims and their drawings. A claim is a set of forms of the same server, told apart by one parameter, measured in one alternating
run; what pools waste is ``bench.fragmentation``'s, which this calls too.
Invariant: a drawing shows nothing that is not in the raw data beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from html import escape
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench import fragmentation
from bench.load.peers import PEERS, Millpond, PeerError
from bench.load.report import cost, rate
from bench.load.run import Key, Plan, Results, run
from bench.load.wire import WireFault
from bench.load.workloads import EVERY, Workload

FIGURES = Path(__file__).resolve().parent / "figures"
COLOURS = ("#3d6b99", "#d98841", "#6f9e5c")
LEFT, BAR, GAP, SCALE = 150, 15, 12, 560


class Claim(NamedTuple):
    """One question: forms of the server by their settings, and the workloads that answer it."""

    name: str
    title: str
    forms: dict[str, dict[str, str]]
    workloads: tuple[str, ...]


CLAIMS = (
    Claim(
        "formats",
        "User against kernel format, plain",
        {"user": {"data path": "user"}, "kernel": {"data path": "kernel"}},
        ("read 64K", "read 256K", "read 1M", "read 8M", "write 64K", "write 256K", "write 1M", "write 8M", "list"),
    ),
    Claim(
        "pools",
        "Dynamic pools, static pools, and malloc (user format)",
        {
            mode: {"data path": "user", "pool mode": mode} for mode in ("dynamic", "static", "malloc")
        },
        ("read 64K", "read 1M", "read 8M", "write 64K", "write 1M", "write 8M", "read 4K w16", "write 4K w16"),
    ),
)  # fmt: skip


NAMES = (*(claim.name for claim in CLAIMS), "fragmentation")


def peers_of(claim: Claim) -> tuple[str, ...]:
    """Enters a kind of server for each form into the bench's table; their names."""
    names = []
    for form, settings in claim.forms.items():
        name = f"millpond {form}"

        def start(self: Millpond, base: Path | None = None, *, fixed: dict[str, str] = settings) -> None:
            Millpond.__init__(self, base, settings=fixed)

        PEERS[name] = type(f"Millpond{form.title()}", (Millpond,), {"title": name, "__init__": start})
        names.append(name)
    return tuple(names)


def measure(claim: Claim, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """One record per form and workload: medians, and every round's figures."""
    workloads = tuple(row for row in EVERY if row.name in claim.workloads)
    plan = Plan(peers_of(claim), workloads, ("plain",), rounds=rounds, seconds=seconds, idle_clients=1)
    results = run(plan, lambda line: print(f"{claim.name}: {line}", file=sys.stderr, flush=True))
    records = [_record(claim, form, workload, results) for workload in workloads for form in claim.forms]
    return [record for record in records if record is not None]


def _record(claim: Claim, form: str, workload: Workload, results: Results) -> dict[str, Any] | None:
    samples = results.samples.get(Key(workload.name, "plain", f"millpond {form}"), [])
    if not samples:
        return None
    return {
        "claim": claim.name, "form": form, "workload": workload.name, "unit": workload.unit,
        "rate": round(median(rate(workload, sample) for sample in samples), 1),
        "cpu_us": round(median(cost(workload, sample) for sample in samples), 2),
        "rates": [round(rate(workload, sample), 1) for sample in samples],
        "cpus_us": [round(cost(workload, sample), 2) for sample in samples],
        "date": time.strftime("%Y-%m-%d"), "kernel": platform.release(), "python": platform.python_version(),
    }  # fmt: skip


def drawing(claim: Claim, records: list[dict[str, Any]]) -> str:
    """Bars of server CPU, for each workload in parts of its first form's; each bar says CPU and throughput."""
    forms = list(claim.forms)
    by_place = {(record["workload"], record["form"]): record for record in records}
    names = [name for name in claim.workloads if (name, forms[0]) in by_place]
    height = 70 + len(names) * (len(forms) * BAR + GAP) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + SCALE + 330}" height="{height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15">{escape(claim.title)}: server CPU, in parts of “{escape(forms[0])}”</text>',
    ]
    for place, form in enumerate(forms):
        x = LEFT + place * 130
        parts.append(f'<rect x="{x}" y="36" width="12" height="12" fill="{COLOURS[place]}"/>')
        parts.append(f'<text x="{x + 18}" y="47">{escape(form)}</text>')
    shares = [record["cpu_us"] / by_place[name, forms[0]]["cpu_us"] for (name, _), record in by_place.items() if name in names]
    worst = max(shares, default=1.0)
    y = 70
    for name in names:
        parts.append(f'<text x="12" y="{y + BAR}">{escape(name)}</text>')
        for place, form in enumerate(forms):
            record = by_place.get((name, form))
            if record is not None:
                parts += _bar(record, record["cpu_us"] / by_place[name, forms[0]]["cpu_us"], worst, (y, COLOURS[place]))
            y += BAR
        y += GAP
    example = records[0] if records else {"date": "", "kernel": "", "python": ""}
    parts.append(f'<text x="12" y="{y + 14}" fill="#666">{example["date"]}, Linux {example["kernel"]}, CPython {example["python"]}; '
                 "median of the rounds; client and server share the machine</text>")  # fmt: skip
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(record: dict[str, Any], part: float, worst: float, place: tuple[int, str]) -> list[str]:
    y, colour = place
    width = part / max(worst, 0.01) * SCALE
    unit = "MB" if record["unit"] == "MB/s" else "operation"
    text = f"{part:.2f}   {record['cpu_us']:,.1f} µs/{unit}, {record['rate']:,.0f} {record['unit']}"
    return [
        f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{colour}"/>',
        f'<text x="{LEFT + width + 6:.1f}" y="{y + 11}" font-size="11">{escape(text)}</text>',
    ]


def options() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", choices=NAMES, help=f"of {', '.join(NAMES)}; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one sample (default 0.5)")
    parser.add_argument("--directory", type=Path, default=FIGURES, help=f"where data and drawings go (default {FIGURES})")
    return parser.parse_args()


def main() -> int:
    """Measures and draws; 1 when a server did not start."""
    asked = options()
    asked.directory.mkdir(parents=True, exist_ok=True)
    wanted = asked.only or NAMES
    try:
        for claim in CLAIMS:
            if claim.name in wanted:
                _make(claim, asked)
        if "fragmentation" in wanted:
            fragmentation.make(asked.directory)
    except (PeerError, OSError, WireFault) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _make(claim: Claim, asked: argparse.Namespace) -> None:
    records = measure(claim, asked.rounds, asked.seconds)
    (asked.directory / f"{claim.name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    (asked.directory / f"{claim.name}.svg").write_text(drawing(claim, records), encoding="utf-8")
    for record in records:
        print(f"{record['workload']:14}{record['form']:10}{record['rate']:>12,.0f} {record['unit']:6}{record['cpu_us']:>10,.1f} us")


if __name__ == "__main__":
    sys.exit(main())
