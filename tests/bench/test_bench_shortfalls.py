"""Tables of the rows that are behind: which samples count, and what is said when there are none."""

from __future__ import annotations

import argparse
import inspect
import json
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from bench import profile, shortfalls
from bench.load.peers import ROOT, PeerError
from bench.load.workloads import WORKLOADS
from workers.loop import Loop


def line_of(words: str) -> int:
    """Where they stand in the loop's source."""
    lines, first = inspect.getsourcelines(Loop)
    return first + next(number for number, line in enumerate(lines) if words in line)


def figures(directory: Path, *ratios: tuple[str, str, float, float]) -> None:
    """Load figures with these rows: workload, protection, throughput and CPU beside the better Samba's."""
    rows = [dict(zip(("workload", "protection", "rate", "cpu"), row, strict=True)) | {"peer": "millpond"} for row in ratios]
    (directory / "load-2026-11-29.json").write_text(json.dumps([{"ratios": rows}]))


def test_each_row_that_is_behind_has_a_table_and_no_other() -> None:
    rows = shortfalls.behind(shortfalls.FIGURES)
    assert {row.workload for row in rows} <= {row.name for row in WORKLOADS}
    assert {path.name for path in shortfalls.FIGURES.glob("profile-*.txt")} == {row.file for row in rows}, "make shortfalls makes them"


def test_behind_is_who_is_behind_in_throughput_or_in_cpu(tmp_path: Path) -> None:
    figures(tmp_path, ("list", "plain", 1.0, 1.2), ("list", "signed", 0.99, 1.2), ("echo w1", "plain", 1.3, 0.5))
    assert shortfalls.behind(tmp_path) == [shortfalls.Row("list", "signed"), shortfalls.Row("echo w1", "plain")]


def test_without_load_figures_it_says_how_to_make_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shortfalls.main(["--directory", str(tmp_path)]) == 1
    assert "python -m bench.load --json" in capsys.readouterr().err


def test_who_waits_in_the_poller_does_not_work() -> None:
    place = ROOT / "workers" / "loop.py"
    waits = (f"Loop.turn ({place}:{line_of('_poller.poll(')})",)
    works = (f"Loop.turn ({place}:{line_of('def turn(')})",)
    assert profile.working(Counter({waits: 5, works: 2, ("<lambda> (<string>)",): 1})) == {works: 2, ("<lambda> (<string>)",): 1}


def test_shares_are_by_package_and_paths_are_the_repositorys() -> None:
    stacks = Counter({(f"read ({ROOT}/workers/commands/read.py:3)",): 3, (f"pack ({sysconfig.get_path('stdlib')}/struct.py:1)",): 1})
    assert [line.split() for line in shortfalls.rooms(stacks).splitlines()] == [["75.0%", "workers"], ["25.0%", "libraries"]]
    assert shortfalls.plain_paths(f"read ({ROOT}/workers/commands/read.py)") == "read (workers/commands/read.py)"


def test_what_could_not_be_recorded_is_named_and_the_rest_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def recorded(asked: argparse.Namespace) -> Counter[profile.Stack] | str:
        return Counter({("f (a.py:1)",): 4}) if asked.protection == "plain" else "no luck"

    monkeypatch.setattr(profile, "record", recorded)
    figures(tmp_path, ("echo w1", "plain", 0.9, 0.9), ("echo w1", "signed", 0.9, 0.9), ("list", "plain", 0.9, 0.9))
    (tmp_path / "profile-stat-w1-plain.txt").write_text("of a row that is not behind any more")
    assert shortfalls.main(["--only", "echo w1", "--directory", str(tmp_path)]) == 1
    assert "echo w1, signed: no luck" in capsys.readouterr().err
    (made,) = tmp_path.glob("*.txt")
    assert made.name == "profile-echo-w1-plain.txt"
    assert made.read_text().startswith("echo w1, plain; ")
    assert "100.0% 100.0%  f (a.py)" in made.read_text()


def test_without_perf_its_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_given, **_more: None)
    with pytest.raises(PeerError, match="linux-perf"):
        shortfalls.by_perf(shortfalls.Row("connect", "plain"), shortfalls.options([]))
