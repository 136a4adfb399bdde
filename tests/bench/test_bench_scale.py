"""bench.scale: a short step against a live server, and what becomes of its figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import scale


def test_a_short_run_gives_a_line_for_each_number_of_clients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "scale.jsonl"
    assert scale.main(["--peers", "millpond", "--clients", "3,1", "--seconds", "0.1", "--json", str(raw)]) == 0
    rows = [json.loads(line) for line in raw.read_text().splitlines()]
    assert [(row["peer"], row["clients"]) for row in rows] == [("millpond", 1), ("millpond", 3)]
    assert all(row["connects_per_second"] > 0 and row["bare_fork_kib"] > 0 for row in rows)
    assert "bare fork" in capsys.readouterr().out


def test_a_server_that_is_unknown_is_said() -> None:
    assert scale.main(["--peers", "other"]) == 1
