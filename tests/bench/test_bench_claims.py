"""Drawings of claims: what is drawn is what was measured."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from bench import claims
from bench.load.peers import PEERS, Millpond
from bench.load.workloads import EVERY

SPACE = "{http://www.w3.org/2000/svg}"


def record(form: str, workload: str, cpu: float) -> dict[str, Any]:
    return {"form": form, "workload": workload, "unit": "MB/s", "rate": 1000.0, "cpu_us": cpu, "date": "d", "kernel": "k", "python": "p"}


def test_every_claim_names_workloads_that_are_there() -> None:
    known = {row.name for row in EVERY}
    for claim in claims.CLAIMS:
        assert set(claim.workloads) <= known


def test_each_form_is_a_server_with_its_settings() -> None:
    claim = claims.CLAIMS[0]
    for name in claims.peers_of(claim):
        peer = PEERS.pop(name)()
        assert isinstance(peer, Millpond)
        assert peer.title == name
        assert peer.settings == claim.forms[name.removeprefix("millpond ")]
        peer.remove()


def test_bars_are_parts_of_the_first_form() -> None:
    claim = claims.CLAIMS[0]
    drawn = ET.fromstring(claims.drawing(claim, [record("user", "read 1M", 400.0), record("kernel", "read 1M", 200.0)]))
    widths = [float(rect.attrib["width"]) for rect in drawn.iter(f"{SPACE}rect") if rect.attrib.get("height") == str(claims.BAR - 2)]
    assert widths == [claims.SCALE, claims.SCALE / 2]
    texts = [text.text or "" for text in drawn.iter(f"{SPACE}text")]
    assert any(text.startswith("0.50   200.0 µs/MB") for text in texts)


def test_nothing_measured_is_no_error() -> None:
    assert ET.fromstring(claims.drawing(claims.CLAIMS[1], [])) is not None
