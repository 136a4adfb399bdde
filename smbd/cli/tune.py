"""``millpond tune datapath``: measure on this machine what the configuration should say.

Owns: the progress bar, the table and the wording. Invariant: a configuration is changed only with --write, and only by what was shown.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from pools import port
from smbd.cli import place
from smbd.instance import StartError

if TYPE_CHECKING:
    from smbd.cli.command import Run
    from smbd.config import Config
    from smbd.tuning.datapath import Figure

_TUNE = """\
Measure on this machine what the configuration should say.

  datapath   from which size on a plain READ or WRITE should stay in the kernel (sendfile, splice)

example:
  millpond tune datapath --directory /srv/public
"""
_DATAPATH = """\
Measure what a transfer costs in user format (through memory) and in kernel format (sendfile, splice), for reads and writes of each size
over loopback, with a nameless file of 32 MiB in the folder. Takes about ten seconds. A threshold is the size from which on the kernel
format needs less CPU at every size; 0 means never. It matters to plain payload only: what is signed or encrypted goes through memory.

examples:
  millpond tune datapath --directory /srv/public
  millpond tune datapath --directory /srv/public --config /etc/millpond/millpond.conf --write
"""
_BAR = 40


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """tune datapath."""
    plain = argparse.RawDescriptionHelpFormatter
    tune = commands.add_parser("tune", help="measure what the configuration should say", description=_TUNE, formatter_class=plain)
    what = tune.add_subparsers(dest="what", metavar="WHAT", required=True)
    data = what.add_parser("datapath", help="user or kernel format, by size", description=_DATAPATH, formatter_class=plain)
    data.add_argument("--directory", metavar="DIR", help="a folder on the file system that is shared (default: the temporary directory)")
    data.add_argument("--config", metavar="FILE", help=f"the configuration to write to (default: {place.DEFAULT_CONFIG})")
    data.add_argument("--rounds", type=_rounds, metavar="N", default=5, help="samples of each format and size (default 5)")
    data.add_argument("--write", action="store_true", help="put the thresholds into the configuration; the old file is kept as FILE.bak")
    data.add_argument("--json", action="store_true", help="for programs")
    data.set_defaults(action=_datapath)


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 to 100")
    return int(text)


def _datapath(arguments: argparse.Namespace, _run: Run) -> int:
    # Only when it runs: the server forks from this command and would carry them.
    import tempfile  # noqa: PLC0415  # see above

    from smbd.tuning import datapath  # noqa: PLC0415  # see above
    from smbd.tuning.rewrite import rewrite  # noqa: PLC0415  # see above

    if not port.sockets.KERNEL_FORMAT:
        raise StartError("this port has no kernel format: there is nothing to choose")
    directory = arguments.directory or tempfile.gettempdir()
    figures = datapath.measure(directory, arguments.rounds, 32 * datapath.MIB, _progress)
    reads, writes = datapath.threshold(figures, "read"), datapath.threshold(figures, "write")
    wanted = {
        "data path": "auto",
        "data path read threshold": size_text(reads),
        "data path write threshold": size_text(writes),
    }
    backup = ""
    path = arguments.config or place.DEFAULT_CONFIG
    if arguments.write:

        def holds(config: Config) -> bool:
            return (config.data_path, config.data_path_read_threshold, config.data_path_write_threshold) == ("auto", reads, writes)

        backup = rewrite(path, wanted, holds)
    if arguments.json:
        print(json.dumps(_document(directory, figures, wanted, backup), indent=2))
        return 0
    _show(directory, figures, wanted)
    if backup:
        print(f"\nwritten to {path}; the old file is {backup}. 'millpond reload' brings it to new connections.")
    else:
        print("\n--write puts this into the configuration.")
    return 0


def _progress(part: float) -> None:
    if sys.stderr.isatty():
        full = round(part * _BAR)
        print(f"\r[{'#' * full}{'.' * (_BAR - full)}] {part:4.0%}", end="\n" if part >= 1 else "", file=sys.stderr, flush=True)


def size_text(size: int) -> str:
    """Bytes as the configuration has them."""
    for shift, letter in ((20, "M"), (10, "K")):
        if size and not size % (1 << shift):
            return f"{size >> shift}{letter}"
    return str(size)


def _document(directory: str, figures: list[Figure], wanted: dict[str, str], backup: str) -> dict[str, Any]:
    rows = [{**one._asdict(), "ratio": round(one.ratio, 3)} for one in figures]
    return {"directory": directory, "cpu_seconds_per_gib": rows, "parameters": wanted, "written": bool(backup), "backup": backup}


def _show(directory: str, figures: list[Figure], wanted: dict[str, str]) -> None:
    print(f"CPU seconds per GiB in {directory}\n")
    print(f"{'':8}{'size':>8}{'user':>10}{'kernel':>10}{'kernel / user':>16}")
    for one in figures:
        print(f"{one.direction:8}{size_text(one.size):>8}{one.user:>10.3f}{one.kernel:>10.3f}{one.ratio:>16.2f}")
    print()
    for name, value in wanted.items():
        print(f"   {name} = {value}")
