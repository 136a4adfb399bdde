"""A snapshot as metrics for Prometheus (text exposition format 0.0.4).

Owns: the metrics' names, which stay. Pure. Invariant: a counter never shrinks while the server runs; no label comes from a client.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smbd.monitor.snapshot import Row, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Metric -> (type, help, key of the totals)
_TOTALS = {
    "millpond_connections_total": ("counter", "Client connections since the start.", "workers"),
    "millpond_requests_total": ("counter", "SMB requests since the start.", "requests"),
    "millpond_errors_total": ("counter", "Requests answered with an error.", "errors"),
    "millpond_read_bytes_total": ("counter", "Bytes of files read by clients.", "bytes_read"),
    "millpond_written_bytes_total": ("counter", "Bytes of files written by clients.", "bytes_written"),
    "millpond_pool_bytes": ("gauge", "Memory committed in buffer pools.", "pool_bytes"),
    "millpond_pool_budget_bytes": ("gauge", "What the buffer pools may take together.", "budget"),
}
# Metric -> (type, help, key of a pool's row)
_POOLS = {
    "millpond_pool_requests_total": ("counter", "Buffers asked for, by size of buffer.", "requests"),
    "millpond_pool_requested_bytes_total": ("counter", "Bytes asked for.", "requested_bytes"),
    "millpond_pool_misses_total": ("counter", "Requests that found no free buffer.", "misses"),
    "millpond_pool_waits_total": ("counter", "Requests that had to wait for memory.", "waits"),
    "millpond_pool_refusals_total": ("counter", "Leases refused.", "refusals"),
    "millpond_pool_in_use_buffers": ("gauge", "Buffers that are out.", "in_use"),
    "millpond_pool_committed_bytes": ("gauge", "Memory committed.", "committed_bytes"),
}
# Metric -> (type, help, key of a process's row)
_ROLES = {
    "millpond_processes": ("gauge", "Processes (and worker threads) by role.", ""),
    "millpond_private_bytes": ("gauge", "Memory that no other process shares, by role.", "private"),
}


def exposition(snapshot: Snapshot) -> str:
    """The whole page, of a snapshot with all sections."""
    return "\n".join(_lines(snapshot)) + "\n"


def _lines(snapshot: Snapshot) -> Iterator[str]:
    yield from _metric("millpond_start_time_seconds", "gauge", "When the server started.", [("", snapshot["started"])])
    build = _label(version=snapshot["version"], form=snapshot["form"])
    yield from _metric("millpond_build_info", "gauge", "Version and form.", [(build, 1)])
    for section in ("sessions", "channels", "opens", "locks"):
        yield from _metric(f"millpond_{section}", "gauge", f"{section.capitalize()} at the moment.", [("", len(snapshot[section]))])
    for name, (kind, text, key) in _TOTALS.items():
        yield from _metric(name, kind, text, [("", snapshot["totals"][key])])
    for name, (kind, text, key) in _POOLS.items():
        yield from _metric(name, kind, text, [(_label(size=str(row["size"])), row[key]) for row in snapshot["pools"]])
    for name, (kind, text, key) in _ROLES.items():
        yield from _metric(name, kind, text, [(_label(role=role), value) for role, value in _by_role(snapshot["processes"], key)])


def _metric(name: str, kind: str, text: str, values: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values:
        yield f"{name}{labels} {value}"


def _label(**labels: str) -> str:
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()}
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def _by_role(rows: Iterable[Row], key: str) -> list[tuple[str, int]]:
    """Sums; the number of rows without a key."""
    sums: dict[str, int] = {}
    for row in rows:
        sums[row["role"]] = sums.get(row["role"], 0) + (row[key] if key else 1)
    return sorted(sums.items())
