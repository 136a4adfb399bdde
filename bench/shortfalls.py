"""``python -m bench.shortfalls``: where the time goes in the rows that are behind Samba, as small tables beside the figures.

Owns: which rows, by the newest load figures, and the tables ``figures/profile-ROW-PROTECTION.txt``. A row whose work is done by one worker
is sampled by py-spy, from outside, as in ``bench.profile``. Connecting is done by processes too short-lived for that: it is sampled by
perf(1), which follows forks but sees the interpreter's own functions and the kernel's instead of Python's.
Invariants: each row that is behind has a table, and no other; a row that could not be recorded is named, and the others are made all
the same.
"""

from __future__ import annotations

import argparse
import errno
import json
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import profile
from bench.load.client import Client, Failure, Order
from bench.load.peers import PEERS, ROOT, PeerError
from bench.load.workloads import WORKLOADS, furnish
from bench.profile import Stack
from bench.redraw import newest

FIGURES = Path(__file__).resolve().parent / "figures"
RATE = 999


class Row(NamedTuple):
    """A workload under a protection."""

    workload: str
    protection: str

    @property
    def file(self) -> str:
        """The table's name."""
        return f"profile-{self.workload.replace(' ', '-')}-{self.protection}.txt"


def behind(directory: Path) -> list[Row]:
    """The rows in which Millpond is behind the better Samba in throughput or CPU, with any number of clients, by the newest load figures.

    ``FileNotFoundError`` without any.
    """
    found = newest(directory, "load-*.json")
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "no load figures: python -m bench.load --json makes them", str(directory / "load-*.json"))
    ratios = [ratio for run in json.loads(found.read_text(encoding="utf-8")) for ratio in run["ratios"] if ratio["peer"] == "millpond"]
    return list(dict.fromkeys(Row(one["workload"], one["protection"]) for one in ratios if one["rate"] < 1 or one["cpu"] < 1))


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.shortfalls", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    known = [workload.name for workload in WORKLOADS]
    parser.add_argument("--only", action="append", metavar="WORKLOAD", choices=known, help=f"of {', '.join(known)}; may be repeated")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each row (default 4)")
    parser.add_argument("--top", type=int, default=30, help="functions of each table (default 30)")
    parser.add_argument("--directory", type=Path, default=FIGURES, help=f"where the tables go, and load figures are (default {FIGURES})")
    return parser.parse_args(argv)


def by_python(row: Row, asked: argparse.Namespace) -> str:
    """The functions of one worker."""
    wanted = argparse.Namespace(
        workload=row.workload, protection=row.protection, seconds=asked.seconds, rate=RATE, peer="millpond", set=[]
    )  # fmt: skip
    stacks = profile.record(wanted)
    if isinstance(stacks, str):
        raise PeerError(stacks)
    busy = profile.working(stacks)
    waiting = stacks.total() - busy.total()
    head = f"{busy.total()} samples of the worker at work ({waiting} more, of waiting threads, left out), {RATE} a second"
    return f"{head}\n\n{rooms(busy)}\n\n{plain_paths(profile.table(busy, asked.top))}\n"


def rooms(stacks: Counter[Stack]) -> str:
    """The share of each package, by the innermost frame."""
    shares: Counter[str] = Counter()
    for stack, count in stacks.items():
        place = plain_paths(stack[-1]).partition("(")[2]
        shares[place.partition("/")[0] if place.startswith(("pools/", "smbd/", "workers/", "authd/", "srvsvc/")) else "libraries"] += count
    total = stacks.total() or 1
    return "\n".join(f"{100 * count / total:6.1f}%  {name}" for name, count in shares.most_common())


def plain_paths(text: str) -> str:
    """Paths as they are in this repository, in the library or among its packages."""
    for prefix in (str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        text = text.replace(f"({prefix}/", "(")
    return text


def by_perf(row: Row, asked: argparse.Namespace) -> str:
    """The functions of the whole server, forks included."""
    perf = shutil.which("perf")
    if perf is None:
        raise PeerError("perf is not installed: apt-get install linux-perf")
    peer = PEERS["millpond"]()
    try:
        furnish(peer.share, 1)
        peer.start()
        client = Client(peer.where, row.protection, 0)
        if isinstance(client.signing, Failure):
            raise PeerError(client.signing.text)
        with tempfile.NamedTemporaryFile(suffix=".perf") as data:
            # ticks of the clock: a virtual machine has no counters of its own
            recorder = [perf, "record", "--event", "cpu-clock", "--freq", str(RATE), "--output", data.name, "--inherit"]
            command = [*recorder, "--pid", str(peer.pid), "--", "sleep", f"{asked.seconds:g}"]
            client.begin(Order(row.workload, asked.seconds + 1.0))
            done = subprocess.run(command, capture_output=True, text=True, timeout=asked.seconds + 60, check=False)
            report = client.finish(asked.seconds + 1.0)
            client.close()
            if done.returncode or isinstance(report, Failure):
                raise PeerError(report.text if isinstance(report, Failure) else f"perf: {done.stderr.strip()[-400:]}")
            return f"{report.tally.operations} operations; the master and all workers\n\n{_report(perf, data.name, asked.top)}\n"
    finally:
        peer.stop()
        peer.remove()


def _report(perf: str, data: str, top: int) -> str:
    """By process, then by function."""
    parts = []
    for sort in ("comm", "dso", "dso,symbol"):
        command = [perf, "report", "--input", data, "--stdio", "--no-children", "--sort", sort, "--percent-limit", "0.3"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        lines = [line.rstrip().rstrip("- ").rstrip() for line in done.stdout.splitlines() if line.strip() and not line.startswith("#")]
        parts.append("\n".join(lines[:top]))
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the tables; 1 when one could not be made."""
    asked = options(argv)
    try:
        rows = behind(asked.directory)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    failed = 0
    for stale in {path.name for path in asked.directory.glob("profile-*.txt")} - {row.file for row in rows}:
        (asked.directory / stale).unlink()
    for row in rows:
        if asked.only and row.workload not in asked.only:
            continue
        try:
            text = by_perf(row, asked) if row.workload == "connect" else by_python(row, asked)
        except (PeerError, OSError, subprocess.TimeoutExpired) as error:
            print(f"{row.workload}, {row.protection}: {error}", file=sys.stderr)
            failed = 1
            continue
        about = f"{time.strftime('%Y-%m-%d')}, Linux {platform.release()}, CPython {platform.python_version()}"
        (asked.directory / row.file).write_text(f"{row.workload}, {row.protection}; {about}\n{text}", encoding="utf-8")
        print(f"{asked.directory / row.file}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
