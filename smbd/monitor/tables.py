"""A snapshot as tables for a terminal.

Owns: headings, units and alignment. Pure. Invariant: a client's text cannot move the cursor or change colours; what is not printable is
shown escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smbd.monitor.snapshot import Row, Snapshot

# Section -> (heading, key, unit): what fits on a line. JSON has everything.
_COLUMNS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "sessions": (
        ("SESSION", "session", ""), ("USER", "user", ""), ("CLIENT", "client", ""), ("DIALECT", "dialect", ""), ("SIGNING", "signing", ""),
        ("ENCRYPTION", "encryption", ""), ("SHARES", "shares", ""), ("CHANNELS", "channels", "n"), ("OPENS", "opens", "n"),
        ("AGE", "since", "time"), ("PID", "pid", "n"),
    ),
    "channels": (
        ("SESSION", "session", ""), ("USER", "user", ""), ("CLIENT", "client", ""), ("SERVER", "server", ""),
        ("INTERFACE", "interface", ""), ("BOUND", "bound", ""), ("AGE", "since", "time"), ("PID", "pid", "n"),
    ),
    "opens": (
        ("OPEN", "open", ""), ("SHARE", "share", ""), ("PATH", "path", ""), ("USER", "user", ""), ("ACCESS", "access", ""),
        ("SHARED", "shared", ""), ("LOCKS", "locks", "n"), ("LASTS", "lasts", ""), ("LOST", "lost", ""), ("LEFT", "left", "span"),
        ("AGE", "since", "time"), ("PID", "pid", "n"),
    ),
    "locks": (
        ("SHARE", "share", ""), ("PATH", "path", ""), ("OFFSET", "offset", "n"), ("LENGTH", "length", "n"),
        ("EXCLUSIVE", "exclusive", ""), ("PID", "pid", "n"),
    ),
    "pools": (
        ("SIZE", "size", "bytes"), ("BUFFERS", "buffers", "n"), ("IN USE", "in_use", "n"), ("HIGH", "high_water", "n"),
        ("COMMITTED", "committed_bytes", "bytes"), ("MISSES", "misses", "n"), ("WAITS", "waits", "n"), ("REFUSED", "refusals", "n"),
    ),
    "processes": (
        ("ROLE", "role", ""), ("PID", "pid", "n"), ("AGE", "since", "time"), ("CPU s", "cpu_seconds", "n"),
        ("PRIVATE", "private", "bytes"), ("POOLS", "pool_bytes", "bytes"), ("SESSIONS", "sessions", "n"), ("OPENS", "opens", "n"),
        ("REQUESTS", "requests", "n"), ("READ", "bytes_read", "bytes"), ("WRITTEN", "bytes_written", "bytes"),
        ("ERRORS", "errors", "n"), ("TITLE", "title", ""),
    ),
}  # fmt: skip


def as_text(snapshot: Snapshot) -> str:
    """Head line and one table for each section the snapshot has."""
    up = duration(snapshot["taken"] - snapshot["started"]) if snapshot["started"] else "?"
    parts = [f"millpond {snapshot['version']}, process {snapshot['master']}, up {up}"]
    for name, columns in _COLUMNS.items():
        if name in snapshot:
            # A size class that was never needed says nothing; JSON has it all the same.
            rows = [row for row in snapshot[name] if name != "pools" or row["buffers"] or row["misses"]]
            parts.append(_table(name, columns, rows, snapshot["taken"]))
    return "\n\n".join(parts) + "\n"


def _table(name: str, columns: Sequence[tuple[str, str, str]], rows: Sequence[Row], now: float) -> str:
    if not rows:
        return f"no {name}" if name != "pools" else "no memory in pools"
    cells = [[heading for heading, _, _ in columns]]
    cells += [[_cell(row.get(key, 0), unit, now) for _, key, unit in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [unit in ("n", "bytes") for _, _, unit in columns]
    lines = (
        "  ".join(text.rjust(width) if numeric else text.ljust(width) for text, width, numeric in zip(line, widths, right, strict=True))
        for line in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any, unit: str, now: float) -> str:
    if unit == "bytes":
        return size(value)
    if unit == "time":
        return duration(now - value) if value else "-"
    if unit == "span":
        return duration(value) if value else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list):
        value = " ".join(value) or "-"
    return plain(str(value))


def plain(text: str) -> str:
    """A client's words on one line of a terminal: what is not printable is shown escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def size(value: int) -> str:
    """Bytes with a unit, at most four figures."""
    amount = float(value)
    for unit in ("", "K", "M", "G", "T"):
        if amount < 1024:
            return f"{amount:.1f}{unit}" if unit and amount < 10 and amount % 1 else f"{amount:.0f}{unit}"
        amount /= 1024
    return f"{amount:.0f}P"


def duration(seconds: float) -> str:
    """A span of time in its two largest units."""
    left = max(0, int(seconds))
    if left >= 86400:
        return f"{left // 86400}d{left % 86400 // 3600:02d}h"
    if left >= 3600:
        return f"{left // 3600}h{left % 3600 // 60:02d}m"
    return f"{left // 60}m{left % 60:02d}s" if left >= 60 else f"{left}s"
