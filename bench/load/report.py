"""The table and the JSON of a run.

Owns: how samples become figures: medians over the rounds; CPU is the server's, per operation or per megabyte of payload.
"""

from __future__ import annotations

import platform
import time
from statistics import median
from typing import Any

import psutil

from bench.load.run import Key, Plan, Results, Sample
from bench.load.workloads import Workload

MB = 1_000_000


def rate(workload: Workload, sample: Sample) -> float:
    """MB/s or operations per second."""
    amount = sample.payload / MB if workload.unit == "MB/s" else sample.operations
    return amount / sample.seconds


def cost(workload: Workload, sample: Sample) -> float:
    """Server CPU in microseconds per MB or per operation."""
    amount = sample.payload / MB if workload.unit == "MB/s" else sample.operations
    return sample.server_cpu * 1e6 / amount if amount else 0.0


def figures(plan: Plan, results: Results) -> list[dict[str, Any]]:
    """One record per workload, protection and server."""
    records: list[dict[str, Any]] = []
    for workload in plan.workloads:
        for protection in plan.protections:
            for peer in plan.peers:
                key = Key(workload.name, protection, peer)
                samples = results.samples.get(key, [])
                record: dict[str, Any] = {**key._asdict(), "unit": workload.unit}
                if samples:
                    record |= {
                        "rate": round(median(rate(workload, sample) for sample in samples), 1),
                        "rates": [round(rate(workload, sample), 1) for sample in samples],
                        "server_cpu_us": round(median(cost(workload, sample) for sample in samples), 2),
                        "p99_us": round(median(sample.p99 for sample in samples), 1),
                        "client_busy": round(median(sample.client_cpu / sample.seconds for sample in samples), 2),
                        "samples": [sample._asdict() for sample in samples],
                    }
                elif key in results.failures:
                    record["failure"] = results.failures[key]
                else:
                    continue
                records.append(record)
    return records


def ratios(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each figure of ours, how it stands to the better of the two Sambas: more than 1 is ahead, in throughput, CPU and p99 alike."""
    found = []
    rows = {Key(record["workload"], record["protection"], record["peer"]): record for record in records if "rate" in record}
    for key, ours in rows.items():
        others = [row for other, row in rows.items() if other[:2] == key[:2] and other.peer.startswith("samba")]
        if not key.peer.startswith("millpond") or not others:
            continue
        found.append({
            **key._asdict(),
            "rate": round(ours["rate"] / max(row["rate"] for row in others), 2),
            "cpu": round(min(row["server_cpu_us"] for row in others) / max(ours["server_cpu_us"], 0.01), 2),
            "p99": round(min(row["p99_us"] for row in others) / max(ours["p99_us"], 0.01), 2),
        })  # fmt: skip
    return found


def standing(records: list[dict[str, Any]]) -> str:
    """The ratios for people, a line a row; behind in both is marked !!, behind in one !."""
    lines = [f"{'':16}{'':10}{'':20}{'throughput':>11}{'CPU':>7}{'p99':>7}   (more than 1: ahead of the better Samba)"]
    for row in ratios(records):
        behind = "!" * ((row["rate"] < 1) + (row["cpu"] < 1))
        lines.append(
            f"{row['workload']:16}{row['protection']:10}{row['peer']:20}{row['rate']:>11.2f}{row['cpu']:>7.2f}{row['p99']:>7.2f} {behind}"
        )
    return "\n".join(lines)


def document(plan: Plan, results: Results) -> dict[str, Any]:
    """The JSON document."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cpus": psutil.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "processor": _processor(),
        },
        "plan": {
            "rounds": plan.rounds,
            "clients": plan.clients,
            "seconds": plan.seconds,
            "peers": list(plan.peers),
            "settings": plan.settings,
        },
        "signing": results.signing,
        "memory": {
            peer: {"server_without_clients": results.base[peer], "per_idle_client": results.idle[peer]}
            for peer in plan.peers
            if peer in results.idle
        },
        "figures": figures(plan, results),
        "ratios": ratios(figures(plan, results)),
    }


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def table(plan: Plan, results: Results) -> str:
    """The figures for people: rate, and in brackets the server's CPU microseconds per operation or MB."""
    records = {Key(r["workload"], r["protection"], r["peer"]): r for r in figures(plan, results)}
    width = 20
    lines = [f"{'':16}{'':10}{'unit':>6} " + "".join(f"{peer:>{width}}" for peer in plan.peers)]
    for workload in plan.workloads:
        for protection in plan.protections:
            row = [records.get(Key(workload.name, protection, peer)) for peer in plan.peers]
            if any(row):
                cells = "".join(f"{_cell(record):>{width}}" for record in row)
                lines.append(f"{workload.name:16}{protection:10}{workload.unit:>6} {cells}")
    lines.append(f"{'idle client':16}{'':10}{'KiB':>6} " + "".join(f"{_kib(results.idle.get(peer)):>{width}}" for peer in plan.peers))
    lines.append(f"{'no client':16}{'':10}{'KiB':>6} " + "".join(f"{_kib(results.base.get(peer)):>{width}}" for peer in plan.peers))
    lines.append("signed with: " + ", ".join(f"{peer}: {name}" for peer, name in results.signing.items()))
    lines.append("in brackets: server CPU, microseconds per operation or per MB")
    lines.append("memory: private (USS), of each idle client and of the server without clients")
    lines += [f"not measured: {key.peer}, {key.workload}, {key.protection}: {text}" for key, text in results.failures.items()]
    return "\n".join(lines)


def _cell(record: dict[str, Any] | None) -> str:
    if record is None or "rate" not in record:
        return "-"
    return f"{record['rate']:,.0f} ({record['server_cpu_us']:,.0f})"


def _kib(value: float | None) -> str:
    return "-" if value is None else f"{value / 1024:,.0f}"
