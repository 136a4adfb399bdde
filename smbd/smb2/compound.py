"""Cuts a compound into its elements: [MS-SMB2] 3.3.5.2.7.

Owns: the walk along NextCommand. Invariant: the elements are disjoint, in order, each at least a header long, and cover the whole PDU.
"""

from __future__ import annotations

from pools.layout import WireError
from smbd.smb2.header import HEADER, HEADER_SIZE, PROTOCOL_ID, Header

MAX_ELEMENTS = 256


def split(pdu: memoryview) -> list[tuple[Header, memoryview]]:
    """(header, view from the header to the next one, padding included) of each element of ``pdu``.

    Raises ``WireError`` for a NextCommand that is unaligned, shorter than a header or leaves the PDU, for a wrong ProtocolId, and for
    more than ``MAX_ELEMENTS`` elements.
    """
    elements: list[tuple[Header, memoryview]] = []
    start, end = 0, len(pdu)
    while len(elements) < MAX_ELEMENTS:
        header = HEADER.unpack(pdu, start)
        if header.protocol_id != PROTOCOL_ID:
            raise WireError(f"element {len(elements)} of a compound has ProtocolId {header.protocol_id!r}")
        following = header.next_command
        if following == 0:
            elements.append((header, pdu[start:end]))
            return elements
        if following & 7 or following < HEADER_SIZE or start + following > end - HEADER_SIZE:
            raise WireError(f"NextCommand {following} with {end - start} bytes left")
        elements.append((header, pdu[start : start + following]))
        start += following
    raise WireError(f"more than {MAX_ELEMENTS} elements in a compound")
