"""Runs beside each other and beside what else the machine does; and what is left of one that is ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from bench.load.peers import ROOT
from tests.conformance import isolation
from tests.conformance.run import Wish, run
from tests.conformance.suites import chosen
from tests.conformance.torture import listed
from tests.server import eventually

WISH = Wish(jobs=3, patience=5, settings={}, under_load=False, log=None)
KINDS = ("net", "mnt")
BUG = "smb2.multichannel.bugs.bug_15346"
PLACES = f"""\
#!/bin/sh
case "$*" in
*--list*) echo smb2.lock.one.one; echo smb2.rw.one.one; echo {BUG}.bug_15346; exit ;;
*smb2.lock) name=smb2.lock.one ;;
*smb2.rw) name=smb2.rw.one ;;
*) name={BUG} ;;
esac
echo "test: $name"
echo "failure: $name ["
readlink /proc/self/ns/net /proc/self/ns/mnt
ls /proc/sys/net/ipv4/conf
echo "]"
"""


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts a shell script in smbtorture's place."""

    def put(text: str) -> None:
        fake = tmp_path / "smbtorture"
        fake.write_text(text)
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        listed.cache_clear()

    yield put
    listed.cache_clear()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_servers_side_by_side_have_networks_and_mounts_of_their_own(pretend: Callable[[str], None]) -> None:
    """So port 445 is free though somebody has it."""
    pretend(PLACES)
    mine = [os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS]
    with closing(socket.socket()) as taken:
        with suppress(OSError):  # it is somebody else's: as good
            taken.bind(("0.0.0.0", 445))
            taken.listen()
        done = run(chosen(("lock", "rw", "multichannel@port445")), WISH)
    assert not done.unfit
    said = [text.split() for suite in done.suites for text in suite.reasons.values()]
    assert len(said) == 3
    for kind in range(len(KINDS)):
        assert len({mine[kind], *(lines[kind] for lines in said)}) == 4
    assert all(lines[2:] == ["all", "default", "lo"] for lines in said)
    assert [os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS] == mine


def test_without_them_it_is_said_and_goes_on(
    pretend: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(PLACES)
    monkeypatch.setattr(isolation, "enter", lambda: "nobody may")
    done = run(chosen(("lock", "rw")), WISH)
    assert sorted(suite.name for suite in done.suites if suite.outcomes) == ["smb2.lock", "smb2.rw"]
    assert capsys.readouterr().err.count("The servers share this machine's network and mounts: nobody may\n") == 1


HANGS = """\
#!/bin/sh
case "$*" in
*--list*) echo smb2.ioctl.one.one ;;
*) echo test: smb2.ioctl.one; echo here >BEGUN; exec sleep 100 ;;
esac
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing_behind(pretend: Callable[[str], None], tmp_path: Path, number: signal.Signals) -> None:
    """No server, no smbtorture, no directory, and no image that is mounted (as root)."""
    begun, ground = tmp_path / "begun", tmp_path / "ground"
    os.mkfifo(begun)
    ground.mkdir()
    pretend(HANGS.replace("BEGUN", str(begun)))
    suite = "ioctl@btrfs" if os.geteuid() == 0 else "ioctl@"
    environment = {**os.environ, "TMPDIR": str(ground), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.conformance", suite]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as ended:
        assert begun.read_text() == "here\n"
        eventually(lambda: {"millpond: master", "sleep"} <= set(of(ground)))  # a master that begins has another name
        mounted = images(ground)
        ended.send_signal(number)
        assert ended.wait(60) == -number
    assert bool(mounted) == (os.geteuid() == 0)
    if number == signal.SIGKILL:
        eventually(lambda: not of(ground) and not list(ground.iterdir()), timeout=60)
    assert of(ground) == []
    assert list(ground.iterdir()) == []
    eventually(lambda: not images(ground))  # the kernel lets go of it when nobody sees it any more


def of(ground: Path) -> list[str]:
    """The processes that have something open in a directory, or work in it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            proc = Path(f"/proc/{process.pid}")
            if any(str(ground) in os.readlink(path) for path in (proc / "cwd", *(proc / "fd").iterdir())):
                found += process.cmdline()[:1]
    return found


def images(ground: Path) -> list[Path]:
    """The files of a directory that are block devices."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # it has just gone
            if str(ground) in path.read_text():
                found.append(path)
    return found
