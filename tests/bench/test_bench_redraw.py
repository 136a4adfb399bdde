"""What lies in bench/figures, and README's table, are what the raw data say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import redraw
from bench.load.workloads import WORKLOADS

DRAWN = dict(redraw.drawings(redraw.FIGURES))


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_each_drawing_is_of_the_data_beside_it(name: str) -> None:
    assert (redraw.FIGURES / name).read_text(encoding="utf-8") == DRAWN[name], "python -m bench.redraw makes it anew"


def test_every_drawing_that_is_shown_can_be_made() -> None:
    pages = (redraw.README, redraw.FIGURES.parent / "README.md")
    shown = {word.partition(")")[0] for page in pages for word in page.read_text(encoding="utf-8").split("figures/")[1:]}
    assert {name for name in shown if name.endswith(".svg")} <= set(DRAWN) | {"scale.svg"}


def test_the_table_of_readme_is_of_the_newest_run() -> None:
    text = redraw.README.read_text(encoding="utf-8")
    assert redraw.readme(text, redraw.FIGURES) == text, "python -m bench.redraw makes it anew"
    assert "<!-- make figures: table -->" in text


def test_the_table_has_the_peers_that_were_measured() -> None:
    assert {workload for workload, _, _ in redraw.ROWS} <= {row.name for row in WORKLOADS}
    record = {"workload": "list", "protection": "plain", "peer": "samba", "unit": "op/s", "rate": 1234.0, "server_cpu_us": 5.0}
    lines = redraw.table({"plan": {"peers": ["samba", "millpond"]}, "figures": [record], "memory": {"samba": {"per_idle_client": 2048}}})
    assert lines.startswith("|  | unit | Millpond | Samba |\n")
    assert "| list, entries | op/s | – | 1,234 (5) |\n" in lines
    assert lines.endswith("| private memory of an idle client | KiB | – | 2 |\n")


def test_without_data_nothing_is_drawn(tmp_path: Path) -> None:
    assert dict(redraw.drawings(tmp_path)) == {}
    assert redraw.readme("text", tmp_path) == "text"


def test_the_newest_is_by_date(tmp_path: Path) -> None:
    for day in ("2026-11-02", "2026-12-01", "2026-11-30"):
        (tmp_path / f"scale-{day}.json").write_text(json.dumps({}))
    assert redraw.newest(tmp_path, "scale-*.json") == tmp_path / "scale-2026-12-01.json"
