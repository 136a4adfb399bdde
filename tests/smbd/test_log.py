"""The log: one line for one event, whatever a client calls itself."""

from __future__ import annotations

import logging

import pytest

from smbd.__main__ import OneLine


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ann", "ann"),
        ("Zoë 漢", "Zoë 漢"),
        ("ann\n2026-01-01 1 authd INFO: bob logged on", r"ann\n2026-01-01 1 authd INFO: bob logged on"),
        ("\r\x1b[2J\x9b\x7f", r"\r\x1b[2J\x9b\x7f"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("\udcff\ud800", r"\udcff\ud800"),
    ],
)
def test_names_write_no_lines(name: str, shown: str) -> None:
    record = logging.LogRecord("authd", logging.INFO, "", 0, "logon of %s refused", (name,), None)
    line = OneLine("%(name)s %(levelname)s: %(message)s").format(record)
    assert line == f"authd INFO: logon of {shown} refused"
    assert len(line.encode().splitlines()) == 1


def test_a_traceback_keeps_its_lines() -> None:
    try:
        raise ValueError("a bug")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "it ended", (), (ValueError, error, error.__traceback__))
    assert len(OneLine("%(message)s").format(record).splitlines()) > 2
