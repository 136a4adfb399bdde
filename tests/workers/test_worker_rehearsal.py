"""The rehearsal: the imaginary client is served to its end, and nothing of it is left."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pools import port
from smbd.child import Child
from smbd.config import Config
from smbd.config.serve import Serve, from_serve
from workers import identity, rehearsal
from workers.rehearsal import client, rehearse


@pytest.fixture
def config(tmp_path: Path) -> Config:
    share = tmp_path / "share"
    share.mkdir()
    places = {}
    for name in ("lock", "state"):
        (tmp_path / name).mkdir()
        places[f"{name}_directory"] = str(tmp_path / name)
    # A configuration that refuses as much as it can: the rehearsal is no client of this server.
    options = ("smb encrypt = required", "server signing = mandatory", "server max protocol = SMB2_10", "hosts deny = ALL")
    return replace(from_serve(Serve(directory=str(share), port=4450, options=options)), **places)


def descriptors() -> set[str]:
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}


@pytest.mark.parametrize("data_path", ["auto", "user", "kernel"])
def test_everything_the_client_asks_is_answered_and_nothing_is_left(config: Config, data_path: str) -> None:
    config = replace(config, data_path=data_path)
    before = descriptors(), threading.active_count(), identity.current()
    assert rehearse(config)
    assert (descriptors(), threading.active_count(), identity.current()) == before
    assert os.listdir(config.lock_directory) == []
    assert os.listdir(config.shares["share"].path) == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert logging.getLogger("millpond.worker").isEnabledFor(logging.CRITICAL)


def test_every_protection_meets_every_algorithm() -> None:
    turns = rehearsal.ROUNDS // client.PROTECTIONS
    assert rehearsal.ROUNDS % client.PROTECTIONS == 0
    assert turns >= max(len(client.CIPHERS), len(client.SIGNERS))


def test_a_server_that_cannot_rehearse_goes_on(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    assert not rehearse(replace(config, lock_directory=config.lock_directory + "/absent"))
    assert "could not be warmed up" in caplog.text


def test_a_worker_that_fails_takes_only_the_rehearsal_with_it(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(child: Child) -> None:
        port.polling.poller().close()
        raise ZeroDivisionError

    monkeypatch.setattr(rehearsal, "main", broken)
    assert not rehearse(config)
    assert "ZeroDivisionError" in caplog.text
    assert os.listdir(config.lock_directory) == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_client_that_is_not_served_well_ends(config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def deaf(child: Child) -> None:
        assert child.client is not None
        child.client.close()

    monkeypatch.setattr(rehearsal, "main", deaf)
    assert not rehearse(config)
    assert "could not be warmed up" in caplog.text


def test_the_wires_encoding_is_there_before_the_first_fork() -> None:
    """A worker that acts for a user may have no right to read the library's folder any more."""
    found = subprocess.run(
        [sys.executable, "-c", "import sys, smbd.__main__; print('encodings.utf_16_le' in sys.modules)"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert found.stdout == "True\n"
