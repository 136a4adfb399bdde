"""bench.scale: a short step against a live server, and what becomes of its figures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import scale

SPACE = "{http://www.w3.org/2000/svg}"


def test_a_short_run_gives_figures_for_each_number_of_clients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--peers", "millpond", "--clients", "3,1", "--seconds", "0.1", "--directory", str(tmp_path)]) == 0
    (raw,) = tmp_path.glob("scale-*.json")
    found = json.loads(raw.read_text())
    assert [(row["peer"], row["clients"]) for row in found["steps"]] == [("millpond", 1), ("millpond", 3)]
    assert all(row["connects_per_second"] > 0 and row["private_kib"] > 0 for row in found["steps"])
    assert (found["bare_fork_kib"] > 0, found["missing"]) == (True, [])
    assert "bare fork" in capsys.readouterr().out
    drawn = ET.fromstring((tmp_path / "scale.svg").read_text())
    assert len(list(drawn.iter(f"{SPACE}circle"))) == 2 * len(scale.ROWS)


def test_what_takes_too_long_is_said_and_the_rest_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--peers", "millpond", "--clients", "1", "--limit", "0", "--directory", str(tmp_path)]) == 1
    (raw,) = tmp_path.glob("scale-*.json")
    assert "not done in time" in json.loads(raw.read_text())["missing"][0]
    assert "missing: millpond" in capsys.readouterr().out


def test_a_server_that_is_unknown_is_said() -> None:
    assert scale.main(["--peers", "other"]) == 1
