"""The log: one line for one event, whatever a client calls itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from smbd.config import Config
from smbd.log import OneLine, follow, set_up


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


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, left as it was."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield root
    for one in root.handlers:
        one.close()
    root.handlers[:] = kept
    root.setLevel(level)


def test_a_reload_opens_the_file_anew_and_sets_the_level(root: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "log"
    set_up(Config(log_file=str(path), log_level=1))
    logging.getLogger("x").warning("first")
    path.rename(tmp_path / "log.1")
    before = len(os.listdir("/proc/self/fd"))
    follow(Config(log_file=str(path), log_level=2))
    logging.getLogger("x").info("second")
    assert "first" in (tmp_path / "log.1").read_text()
    assert path.read_text().endswith("x INFO: second\n")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_log_that_cannot_be_opened_stays_where_it_is(root: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "log"
    set_up(Config(log_file=str(path)))
    follow(Config(log_file=str(tmp_path / "absent" / "log"), log_level=0))
    logging.getLogger("x").error("still here")
    assert "the log stays where it is: " in path.read_text()
    assert path.read_text().endswith("still here\n")
    assert root.level == logging.ERROR


def test_a_log_that_is_not_ours_is_left_alone(root: logging.Logger, tmp_path: Path) -> None:
    root.handlers[:] = [theirs] = [logging.NullHandler()]
    follow(Config(log_file=str(tmp_path / "log"), log_level=3))
    assert root.handlers == [theirs]
