"""Reads tests/golden/smb2: captures with one field per line, as ``name hex``, in sections ``[message]``."""

from __future__ import annotations

from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "smb2"


def load(name: str) -> dict[str, list[tuple[str, bytes]]]:
    """Message -> its fields in order. A line without a name continues the field before."""
    messages: dict[str, list[tuple[str, bytes]]] = {}
    fields: list[tuple[str, bytes]] = []
    for line in (GOLDEN / name).read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            fields = messages[line.strip("[]")] = []
            continue
        field, value = line[:28].strip(), bytes.fromhex(line[28:])
        if not field:
            field, before = fields.pop()
            value = before + value
        fields.append((field, value))
    return messages


def pdu(fields: list[tuple[str, bytes]]) -> bytes:
    return b"".join(value for _, value in fields)
