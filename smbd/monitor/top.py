"""Two snapshots as one screen: what the server did between them, the busiest processes first.

Owns: the screen's lines. Pure. Invariant: no line is longer than the terminal is wide, none comes from a client unescaped.
"""

from __future__ import annotations

from collections.abc import Iterator

from smbd.monitor.snapshot import Row, Snapshot
from smbd.monitor.tables import duration, plain, size

# What ``frame`` needs of a snapshot.
SECTIONS = ("sessions", "channels", "opens", "locks", "processes")
_HEADINGS = ("CPU%", "REQ/s", "READ/s", "WRITE/s", "ERR/s", "PRIVATE", "POOLS", "SESS", "OPENS", "PID")
_WIDTHS = (6, 8, 9, 9, 7, 8, 8, 5, 6, 8)
_COUNTS = ("sessions", "opens", "pid")
_RATES = ("requests", "bytes_read", "bytes_written", "errors")


def frame(before: Snapshot, after: Snapshot, columns: int, lines: int) -> list[str]:
    """The screen. Before the second look (``before`` is ``after``) rates are 0."""
    seconds = after["taken"] - before["taken"]
    then = {(row["slot"], row["pid"], row["since"]): row for row in before["processes"]}
    rows = [(row, _rates(then.get((row["slot"], row["pid"], row["since"])), row, seconds)) for row in after["processes"]]
    rows.sort(key=lambda pair: (-pair[1]["cpu"], -pair[1]["requests"], pair[0]["slot"]))
    shown = [*_head(before, after, seconds), "", *_table(rows)]
    return [line[:columns].rstrip() for line in shown[: max(lines, 1)]]


def _rates(old: Row | None, new: Row, seconds: float) -> dict[str, float]:
    """Per second; a process that has just begun counts from nothing."""
    found = {name: _rate(old[name] if old else 0, new[name], seconds) for name in _RATES}
    return found | {"cpu": 100 * _rate(old["cpu_seconds"] if old else 0.0, new["cpu_seconds"], seconds)}


def _rate(old: float, new: float, seconds: float) -> float:
    return max(0.0, new - old) / seconds if seconds > 0 else 0.0


def _head(before: Snapshot, after: Snapshot, seconds: float) -> Iterator[str]:
    totals, old = after["totals"], before["totals"]
    up = duration(after["taken"] - after["started"]) if after["started"] else "?"
    workers = sum(1 for row in after["processes"] if row["role"] == "worker")
    yield (
        f"millpond {after['version']}, process {after['master']}, up {up}   workers {workers}   sessions {len(after['sessions'])}"
        f"   channels {len(after['channels'])}   opens {_opens(after['opens'])}   locks {len(after['locks'])}"
    )
    rates = {name: _rate(old[name], totals[name], seconds) for name in _RATES}
    yield (
        f"requests {rates['requests']:,.0f}/s   read {size(round(rates['bytes_read']))}/s   written {size(round(rates['bytes_written']))}/s"
        f"   errors {rates['errors']:,.0f}/s   pools {size(totals['pool_bytes'])} of {size(totals['budget'])}"
    )


def _opens(rows: list[Row]) -> str:
    lost = sum(1 for row in rows if row["lost"])
    return f"{len(rows)} ({lost} lost)" if lost else str(len(rows))


def _table(rows: list[tuple[Row, dict[str, float]]]) -> Iterator[str]:
    yield "".join(heading.rjust(width) for heading, width in zip(_HEADINGS, _WIDTHS, strict=True)) + "  PROCESS"
    for row, rates in rows:
        cells = (
            f"{rates['cpu']:.1f}", f"{rates['requests']:,.0f}", size(round(rates["bytes_read"])), size(round(rates["bytes_written"])),
            f"{rates['errors']:,.0f}", size(row["private"]), size(row["pool_bytes"]), *(str(row[name]) for name in _COUNTS),
        )  # fmt: skip
        title = plain(row["title"]).removeprefix("millpond: ")
        if row.get("thread") or not title:
            title = f"{row['role']} {title}"
        yield "".join(cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True)) + f"  {title}"
