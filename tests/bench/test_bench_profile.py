"""The drawing of stacks: what is drawn is what was recorded."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter

from bench import profile

FOLDED = [
    "main (a.py:1);read (workers/read.py:10);pread (b.py:2) 30",
    "main (a.py:1);read (workers/read.py:11) 50",
    "main (a.py:2) 20",
    "junk",
]


def test_stacks_are_counted() -> None:
    assert profile.parse(FOLDED).total() == 100
    assert profile.parse([]) == Counter()


def test_the_table_tells_alone_from_with_callees() -> None:
    lines = profile.table(profile.parse(FOLDED), 2).splitlines()
    assert lines[1].split() == ["50.0%", "80.0%", "read", "(workers/read.py)"]
    assert lines[2].split() == ["30.0%", "30.0%", "pread", "(b.py)"]
    assert len(lines) == 3


def test_width_is_time() -> None:
    drawn = ET.fromstring(profile.svg(profile.parse(FOLDED), "a <title> & more"))
    space = "{http://www.w3.org/2000/svg}"
    widths = {}
    for group in drawn.iter(f"{space}g"):
        title, rect = group.find(f"{space}title"), group.find(f"{space}rect")
        assert title is not None
        assert rect is not None
        widths[(title.text or "").split()[0]] = float(rect.attrib["width"])
    whole = profile.WIDTH - 2 * profile.MARGIN
    assert abs(widths["main"] - whole) < 1
    assert abs(widths["read"] - 0.8 * whole) < 1
    assert abs(widths["pread"] - 0.3 * whole) < 1


def test_no_samples_are_no_error() -> None:
    assert ET.fromstring(profile.svg(Counter(), "nothing")) is not None
