"""``python -m bench.profile``: where a worker's time goes in a workload, as a flame graph and as a table.

Owns: the recording (py-spy samples the worker from outside, nothing is built into the server) and the drawing of its stacks.
Invariant: width is time: a frame is as wide as the share of samples in which it was on the stack, below the frame that called it.
"""

from __future__ import annotations

import argparse
import linecache
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from bench.load.account import tree
from bench.load.client import Client, Failure, Order
from bench.load.peers import PEERS
from bench.load.workloads import WORKLOADS, furnish

WIDTH, ROW, MARGIN = 1400, 17, 10
NARROWEST = 0.4  # pixels; what is narrower is not drawn
_COLOURS = {"pools": "#8fbf8f", "smbd": "#e0a458", "workers": "#d98880", "authd": "#85a3c9", "srvsvc": "#85a3c9"}

Stack = tuple[str, ...]

# The line that a thread stands on when it has nothing to do, which py-spy cannot always tell from work.
WAITING = re.compile(r"\b(poll|acquire|wait|wait_for|may_wait|_wait_for_tstate_lock)\(|\.get\(\)")


def options() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workload", default="read 4K w16", help=f"one of {', '.join(row.name for row in WORKLOADS)}")
    parser.add_argument("--protection", default="plain", choices=("plain", "signed", "encrypted"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=int, default=1000, help="samples a second (default 1000)")
    parser.add_argument("--peer", default="millpond", choices=[name for name in PEERS if name.startswith("millpond")])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a global parameter of the server")
    parser.add_argument("--output", type=Path, default=Path("build/profile.svg"), help="the flame graph (default build/profile.svg)")
    parser.add_argument("--top", type=int, default=25, help="rows of the table (default 25)")
    return parser.parse_args()


def parse(folded: Iterable[str]) -> Counter[Stack]:
    """Stacks in the folded form, ``a;b;c 12`` a line, outermost first."""
    stacks: Counter[Stack] = Counter()
    for line in folded:
        names, _, count = line.rstrip().rpartition(" ")
        if count.isdigit():
            stacks[tuple(names.split(";"))] += int(count)
    return stacks


def working(stacks: Counter[Stack]) -> Counter[Stack]:
    """Without those that end in waiting."""
    return Counter({stack: count for stack, count in stacks.items() if not WAITING.search(source_line(stack[-1]))})


def source_line(frame: str) -> str:
    """The text of the line a frame stands on, ``name (path:number)``; empty when there is none."""
    place, _, number = frame.partition("(")[2].rstrip(")").rpartition(":")
    return linecache.getline(place, int(number)) if number.isdecimal() else ""


def table(stacks: Counter[Stack], rows: int) -> str:
    """The functions in which most time was spent: by themselves, and with what they called."""
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for stack, count in stacks.items():
        alone[_function(stack[-1])] += count
        for name in {_function(frame) for frame in stack}:
            within[name] += count
    total = stacks.total() or 1
    lines = [f"{'alone':>7}{'all':>7}  function"]
    lines += [f"{100 * count / total:6.1f}%{100 * within[name] / total:6.1f}%  {name}" for name, count in alone.most_common(rows)]
    return "\n".join(lines)


def _function(frame: str) -> str:
    """Without the line number: ``read (workers/commands/read.py:30)`` is one function wherever it was."""
    return frame.rpartition(":")[0] + ")" if frame.endswith(")") and ":" in frame else frame


class _Node:
    __slots__ = ("below", "count")

    def __init__(self) -> None:
        self.count = 0
        self.below: dict[str, _Node] = {}


def svg(stacks: Counter[Stack], title: str) -> str:
    """The flame graph; each frame says its name and share when pointed at."""
    root = _Node()
    depth = 0
    for stack, count in stacks.items():
        node = root
        node.count += count
        depth = max(depth, len(stack))
        for frame in stack:
            node = node.below.setdefault(_function(frame), _Node())
            node.count += count
    height = (depth + 3) * ROW + 2 * MARGIN
    scale = (WIDTH - 2 * MARGIN) / max(1, root.count)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fffdf8"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 12}" font-size="14">{escape(title)}</text>',
        *_draw(root, MARGIN, height - MARGIN - ROW, (scale, root.count)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _draw(node: _Node, x: float, y: float, measure: tuple[float, int]) -> Iterator[str]:
    scale, total = measure
    for name, below in sorted(node.below.items()):
        width = below.count * scale
        if width >= NARROWEST:
            text = escape(name[: max(0, int(width / 6.7))]) if width > 30 else ""
            yield (
                f'<g><title>{escape(name)}: {100 * below.count / total:.1f} %</title>'
                f'<rect x="{x:.1f}" y="{y}" width="{max(0.3, width - 0.4):.1f}" height="{ROW - 1}" fill="{_colour(name)}"/>'
                f'<text x="{x + 2:.1f}" y="{y + 12}">{text}</text></g>'
            )
            yield from _draw(below, x, y - ROW, measure)
        x += width


def _colour(name: str) -> str:
    place = name.partition("(")[2]
    return next((colour for package, colour in _COLOURS.items() if f"{package}/" in place), "#d5d0c4")


def record(asked: argparse.Namespace) -> Counter[Stack] | str:
    """The stacks of the worker that serves one busy client, or why there are none."""
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        return "py-spy is not installed: pip install '.[profile]'"
    peer = PEERS[asked.peer]()
    try:
        furnish(peer.share, 1)
        getattr(peer, "settings", {}).update(dict(text.split("=", 1) for text in asked.set))
        peer.start()
        client = Client(peer.where, asked.protection, 0)
        if isinstance(client.signing, Failure):
            return client.signing.text
        client.begin(Order(asked.workload, asked.seconds + 1.0))
        time.sleep(0.3)  # the workload's own beginning is not what is asked about
        worker = max(tree(peer.pid), key=lambda process: process.create_time())
        with tempfile.NamedTemporaryFile(suffix=".folded") as folded:
            done = subprocess.run(
                [spy, "record", "--pid", str(worker.pid), "--duration", str(max(1, round(asked.seconds))), "--rate", str(asked.rate),
                 "--format", "raw", "--output", folded.name, "--native" if asked.peer != "millpond" else "--full-filenames"],
                capture_output=True, text=True, timeout=asked.seconds + 60, check=False,
            )  # fmt: skip
            report = client.finish(asked.seconds + 1.0)
            client.close()
            if done.returncode:
                return f"py-spy: {done.stderr.strip()[-400:]}"
            if isinstance(report, Failure):
                return report.text
            return parse(Path(folded.name).read_text(encoding="utf-8").splitlines())
    finally:
        peer.stop()
        peer.remove()


def main() -> int:
    """Records, draws, prints; 1 when nothing could be recorded."""
    asked = options()
    if asked.workload not in {row.name for row in WORKLOADS}:
        print(f"no such workload: {asked.workload}; there are {', '.join(row.name for row in WORKLOADS)}", file=sys.stderr)
        return 1
    recorded = record(asked)
    if isinstance(recorded, str):
        print(recorded, file=sys.stderr)
        return 1
    stacks = working(recorded)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    waiting = recorded.total() - stacks.total()
    title = f"{asked.workload}, {asked.protection}: {stacks.total()} samples of work, {waiting} of waiting left out"
    asked.output.write_text(svg(stacks, title), encoding="utf-8")
    print(table(stacks, asked.top))
    print(f"flame graph: {asked.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
