"""``millpond record``: what the pools of a running server are asked for, sampled into a file for ``millpond tune pools``.

Owns: the command and its options; the sampling is the monitor's.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from smbd.cli import place, progress
from smbd.config import values
from smbd.instance import StartError

if TYPE_CHECKING:
    from smbd.cli.command import Run

OUTPUT = "millpond-pools.jsonl"
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_ROOM = values.size(64 << 10)
_RECORD = """\
Sample the counters of a running server's buffer pools into a file: sizes asked for, buffers in use, high water, misses and waits, by size.
'millpond tune pools FILE' proposes parameters from it. Record while clients do what they usually do, best for a day. Looking costs the
server nothing; Ctrl-C ends the recording and keeps what there is.

examples:
  millpond record                                     a minute
  millpond record --time 24h --interval 10 --output monday.jsonl
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """record."""
    made = commands.add_parser(
        "record", help="record what the buffer pools are asked for", description=_RECORD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("--output", metavar="FILE", default=OUTPUT, help=f"a new file (default {OUTPUT})")
    made.add_argument("--time", type=_duration, metavar="TIME", default=60.0, help="how long: seconds, or with m, h or d (default 60)")
    made.add_argument("--interval", type=_duration, metavar="TIME", default=1.0, help="between two samples, from 0.1 (default 1)")
    made.add_argument(
        "--max-size", type=_room, metavar="SIZE", default=64 << 20,
        help="room for the recording; when half of it is full the older half is FILE.1 (default 64M)",
    )  # fmt: skip
    made.add_argument("--json", action="store_true", help="for programs: file, samples, seconds and what ended it")
    place.add_options(made)
    made.set_defaults(action=_record)


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text)
    if match is None or not 0.1 <= (found := float(match[1]) * _UNITS[match[2]]) <= 366 * 86400:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time from 0.1 seconds to a year: 90, 10m, 24h, 7d")
    return found


def _room(text: str) -> int:
    try:
        found: int = _ROOM.read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return found


def _record(arguments: argparse.Namespace, _run: Run) -> int:
    from pools.counters import CounterSegment  # noqa: PLC0415  # only when it runs: the server forks from this command
    from smbd.child import COUNTERS_FILE  # noqa: PLC0415  # see above
    from smbd.monitor import recording  # noqa: PLC0415  # see above

    config = place.locate(arguments)
    master = place.master(config)
    with place.looking():
        counters = CounterSegment.attach(str(Path(config.lock_directory) / COUNTERS_FILE))
        recording.look(counters, 0.0)
    try:
        writer = recording.Writer(Path(arguments.output), arguments.max_size)
    except FileExistsError:
        raise StartError(f"{arguments.output} is there already: name another file with --output, or remove it") from None
    try:
        taken, why = recording.record(
            counters, master, writer, recording.Course(arguments.interval, arguments.time, progress.show)
        )  # fmt: skip
    except FileNotFoundError:
        raise StartError(f"the server has just ended; what was recorded is in {arguments.output}") from None
    finally:
        writer.close()
        counters.close()
    if arguments.json:
        print(json.dumps({"file": arguments.output, "samples": taken, "interval": arguments.interval, "ended_by": why}, indent=2))
    else:
        _say(arguments.output, taken, why)
    return 0


def _say(output: str, taken: int, why: str) -> None:
    early = {"interrupt": " until Ctrl-C", "server": " until the server ended"}.get(why, "")
    print(f"{taken} samples in {output}{early}. 'millpond tune pools {output}' proposes parameters from them.")
