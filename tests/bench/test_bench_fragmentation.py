"""The replay of a recording on each mode: what is counted is what is out, and what is drawn is what was counted."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from bench import fragmentation
from bench.drawing import Panel, drawing
from bench.fragmentation import MIB, Point, Replay, figure, sizes, summary
from pools.buffer import CAPACITIES
from pools.plan import USUAL_PLAN
from pools.pool import MODES
from smbd.monitor.recording import ClassSample, Head, Recording, Sample

SPACE = "{http://www.w3.org/2000/svg}"
HEAD = Head(1.0, 0.25, "dynamic", 1 << 30, 256 * MIB, 16 * MIB, 3.0, tuple(CAPACITIES[number] for number in USUAL_PLAN.classes))


def sample(at: float, count: int, out: int) -> Sample:
    """``count`` requests of 96 KiB, of which ``out`` are not answered yet."""
    classes = dict.fromkeys(CAPACITIES, ClassSample()) | {1 << 17: ClassSample(in_use=out, high_water=3)}
    return Sample(at, 1, 0, 0, 0, 0, 0, {1 << 17: count}, {1 << 17: count * 98304}, classes)


RECORDING = Recording(HEAD, (sample(0, 0, 0), sample(1, 40, 2), *(sample(at, 40, 0) for at in (2, 30, 60, 90, 120, 150))))


@pytest.mark.parametrize("mode", MODES)
def test_a_replay_has_out_what_was_recorded(mode: str) -> None:
    made = Replay(mode, RECORDING)
    points = [made.interval(before, after) for before, after in zip(RECORDING.samples, RECORDING.samples[1:], strict=False)]
    busy, quiet, last = points[0], points[1], points[-1]
    assert 98304 < busy.requested <= 3 * 131072
    assert busy.requested == busy.requested_large
    assert (quiet.requested, quiet.handed_out, made.pool.in_use()) == (0, 0, 0)
    if mode == "malloc":
        assert busy.handed_out == pytest.approx(busy.requested, rel=0.01)
    else:
        assert busy.handed_out > 1.1 * busy.requested
        assert busy.committed >= busy.handed_out
    if mode == "dynamic":
        assert last.committed < busy.committed


def test_a_summary_is_parts_of_what_is_committed() -> None:
    found = summary([Point("static", 1.0, 60, 80, 160, 30, 60), Point("static", 2.0, 0, 0, 160, 0, 0)])
    assert (found["internal"], found["internal_large"], found["external"]) == (0.25, 0.5, 0.75)
    assert (found["committed_mean"], found["committed_high"]) == (160, 160)
    assert summary([])["external"] == 1.0


def test_every_mode_has_its_panel_and_its_line() -> None:
    drawn = ET.fromstring(figure([Point(mode, at, 1, 2, 3, 0, 0) for mode in MODES for at in (0.0, 1.0)], "a <note>"))
    assert len(list(drawn.iter(f"{SPACE}polyline"))) == 3 * len(MODES)
    texts = [text.text or "" for text in drawn.iter(f"{SPACE}text")]
    assert all(any(text.startswith(f"{mode}: internal") for text in texts) for mode in MODES)
    assert "a <note>" in texts


@pytest.mark.parametrize("panels", [[], [Panel("empty", {})], [Panel("one", {"a": [(1, 1)]}, log=True, dots=True)]])
def test_little_or_nothing_can_be_drawn(panels: list[Panel]) -> None:
    assert ET.fromstring(drawing("title", panels, [])) is not None


def test_the_highest_point_stays_on_the_panel() -> None:
    drawn = ET.fromstring(drawing("t", [Panel("p", {"a": [(1, 3.0), (10, 7.1), (100, 0)]}, log=True, dots=True)], []))
    places = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in drawn.iter(f"{SPACE}circle")]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert abs((places[1][0] - places[0][0]) - (places[2][0] - places[1][0])) < 0.2
    assert places[1][1] == min(y for _, y in places) > 0


def test_sizes_are_from_4_kib_to_8_mib() -> None:
    draw = fragmentation.random.Random(1)
    drawn = [sizes(phase, draw) for phase in ("small", "files", "large") for _ in range(500)]
    assert 4096 <= min(drawn) < max(drawn) <= 8 * MIB
