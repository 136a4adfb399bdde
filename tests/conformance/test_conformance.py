"""The quick slice of smbtorture for every test run, and the reader of its output."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance import verdict
from tests.conformance.torture import GLOBAL, QUICK, SHARE_SETTINGS, Suite, clear, parse, run_suite
from tests.server import Server

TEXT = """\
time: 2024-01-01 00:00:00.000000Z
test: smb2.lock.one
time: 2024-01-01 00:00:00.000001Z
success: smb2.lock.one
test: smb2.lock.two
failure: smb2.lock.two [
../source/lock.c:12: status was NT_STATUS_OK, expected NT_STATUS_X
]
test: smb2.lock.three
skip: smb2.lock.three [
not here
]
test: smb2.lock.four
"""


def test_output_is_read() -> None:
    outcomes, reasons = parse(TEXT.splitlines())
    assert outcomes == {"smb2.lock.one": "success", "smb2.lock.two": "failure", "smb2.lock.three": "skip", "smb2.lock.four": "error"}
    assert reasons["smb2.lock.three"] == "not here"


def test_what_is_worse_is_found() -> None:
    suite = Suite("smb2.lock", {"smb2.lock.one": "failure"}, {"smb2.lock.one": "why"}, 1.0, True)
    expected = {"smb2.lock.one": "success", "smb2.lock.two": "success", "smb2.lock.three": "failure", "smb2.locker": "success"}
    assert verdict.worse([suite], expected) == ["smb2.lock.one: was success, is failure: why", "smb2.lock.two: was success, is absent"]


@pytest.fixture(scope="module")
def tortured() -> Iterator[Server]:
    """A server with the settings of the conformance run."""
    server = Server(settings=GLOBAL, share_settings=SHARE_SETTINGS)
    try:
        server.start()
        yield server
        server.finish()
    finally:
        server.discard()


@pytest.mark.parametrize("name", QUICK)
def test_quick_slice(tortured: Server, name: str) -> None:
    suite = run_suite(tortured, name, 100)
    clear(tortured.share)
    assert suite.ended
    assert suite.outcomes, "the suite ran no test"
    assert verdict.worse([suite], verdict.read(verdict.EXPECTED)) == []
