"""``millpond tune``: measure on this machine, or take from a recording, what the configuration should say. ``tune datapath`` is here.

Owns: the table and the wording. Invariant: a configuration is changed only with --write, and only by what was shown.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from pools import port
from smbd.cli import place, progress
from smbd.instance import StartError

if TYPE_CHECKING:
    from smbd.cli.command import Run
    from smbd.config import Config
    from smbd.tuning.datapath import Figure

_TUNE = """\
Measure on this machine what the configuration should say.

  datapath   from which size on a plain READ or WRITE should stay in the kernel (sendfile, splice)
  pools      which sizes of buffers, how much memory for them and for how long, by what clients ask for

examples:
  millpond tune datapath --directory /srv/public
  millpond record && millpond tune pools millpond-pools.jsonl
"""
_DATAPATH = """\
Measure what a transfer costs in user format (through memory) and in kernel format (sendfile, splice), for reads and writes of each size
over loopback, with a nameless file of 32 MiB in the folder. Takes about ten seconds. A threshold is the size from which on the kernel
format saves most CPU, all larger sizes taken together; 0 means never. It matters to plain payload only: what is signed or encrypted goes
through memory.

examples:
  millpond tune datapath --directory /srv/public
  millpond tune datapath --directory /srv/public --config /etc/millpond/millpond.conf --write
"""
_POOLS = """\
Read a recording of 'millpond record', or without one look at the running server, and propose parameters of the buffer pools.

A request gets a buffer of the smallest size that holds it. WASTED is the part of the buffers handed out that nobody asked for; MISSES found
no free buffer and had to fetch memory, WAITS were not served at once. On the right stand the sizes proposed and what they would waste. One
look knows sums since the server's start; for how long memory should be kept (pool decay) only a recording tells.

examples:
  millpond tune pools                                        of the running server
  millpond record --time 24h && millpond tune pools millpond-pools.jsonl
  millpond tune pools millpond-pools.jsonl --config /etc/millpond/millpond.conf --write
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """tune datapath, tune pools."""
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
    made = what.add_parser("pools", help="sizes and memory of the buffer pools", description=_POOLS, formatter_class=plain)
    made.add_argument("recording", metavar="RECORDING", nargs="?", help="a file of 'millpond record' (default: one look at the server)")
    made.add_argument("--write", action="store_true", help="put the parameters into the configuration; the old file is kept as FILE.bak")
    made.add_argument("--json", action="store_true", help="for programs; sizes in bytes, times in seconds")
    place.add_options(made)
    made.set_defaults(action=_pools)


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 to 100")
    return int(text)


def _datapath(arguments: argparse.Namespace, _run: Run) -> int:
    # Only when it runs: the server forks from this command and would carry them.
    import tempfile  # noqa: PLC0415  # see above

    from smbd.tuning import datapath  # noqa: PLC0415  # see above
    from smbd.tuning.rewrite import check, rewrite  # noqa: PLC0415  # see above

    if not port.sockets.KERNEL_FORMAT:
        raise StartError("this port has no kernel format: there is nothing to choose")
    path = arguments.config or place.DEFAULT_CONFIG
    if arguments.write:
        check(path)  # before the measuring, which takes its time
    directory = arguments.directory or tempfile.gettempdir()
    figures = datapath.measure(directory, arguments.rounds, 32 * datapath.MIB, progress.show)
    reads, writes = datapath.threshold(figures, "read"), datapath.threshold(figures, "write")
    wanted = {
        "data path": "auto",
        "data path read threshold": size_text(reads),
        "data path write threshold": size_text(writes),
    }
    backup = ""

    def holds(config: Config) -> bool:
        return (config.data_path, config.data_path_read_threshold, config.data_path_write_threshold) == ("auto", reads, writes)

    if not arguments.json:
        _show(directory, figures, wanted)
    try:
        if arguments.write:
            backup = rewrite(path, wanted, holds)
    finally:  # the figures are shown whatever becomes of the file
        if arguments.json:
            print(json.dumps(_document(directory, figures, wanted, backup), indent=2))
    if arguments.json:
        return 0
    if backup:
        print(f"\nwritten to {path}; the old file is {backup}. 'millpond reload' brings it to new connections.")
    else:
        print("\n--write puts this into the configuration.")
    return 0


def _pools(arguments: argparse.Namespace, _run: Run) -> int:
    from smbd.cli import tune_pools  # noqa: PLC0415  # as above

    return tune_pools.run(arguments)


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
