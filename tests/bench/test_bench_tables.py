"""Figures as Markdown, and the count of rows that are ahead."""

from __future__ import annotations

from typing import Any

from bench.load.report import ratios
from bench.load.tables import markdown, standing


def figure(peer: str, workload: str, rate: float, cpu: float) -> dict[str, Any]:
    return {"workload": workload, "protection": "plain", "peer": peer, "unit": "op/s", "rate": rate, "server_cpu_us": cpu, "p99_us": 10.0}


FIGURES = [
    figure("millpond", "echo", 200.0, 5.0), figure("samba", "echo", 100.0, 10.0), figure("samba-sync", "echo", 150.0, 8.0),
    figure("millpond", "stat", 90.0, 5.0), figure("samba", "stat", 100.0, 10.0), figure("samba-sync", "stat", 80.0, 8.0),
]  # fmt: skip


def document() -> dict[str, Any]:
    peers = ["millpond", "samba", "samba-sync"]
    return {"plan": {"peers": peers, "clients": 1, "rounds": 5}, "figures": FIGURES, "ratios": ratios(FIGURES), "memory": {}}


def test_ratios_compare_with_the_better_of_both() -> None:
    found = {row["workload"]: (row["rate"], row["cpu"], row["p99"]) for row in ratios(FIGURES)}
    assert found == {"echo": (1.33, 1.6, 1.0), "stat": (0.9, 1.6, 1.0)}


def test_a_row_a_workload_and_a_column_a_server() -> None:
    lines = markdown(document()).splitlines()
    assert lines[2] == "| echo | plain | op/s | 200 (5) | 100 (10) | 150 (8) |"
    assert lines[-1].startswith("| private memory")


def test_rows_ahead_are_counted() -> None:
    assert standing(document()) == "millpond: of 2 rows 1 ahead or level in throughput, 2 in CPU, 1 in both"
