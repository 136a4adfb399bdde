"""The program of a worker that is a process: what the composition root hands to the master for each accepted connection.

Owns: what the fork brought, and its end. Invariant: the shared state is opened here, after the fork and still privileged, and nowhere else
in the process.
"""

from __future__ import annotations

import os

from pools import port
from pools.counters import TXN_SINCE
from smbd.child import SHARING_DIRECTORY, Child
from smbd.config_messages import unpack_config
from smbd.sharing import Sharing
from workers.room import Room, serve


def main(child: Child) -> None:
    """Serve one client until it leaves, the master stops us or the connection breaks."""
    assert child.client is not None
    row = child.counters.row(child.slot)
    directory = os.path.join(child.config.lock_directory, SHARING_DIRECTORY)
    sharing = Sharing(directory, child.slot, child.generation, row.words[TXN_SINCE : TXN_SINCE + 1], child.counters.is_alive)
    room = Room(
        slot=child.slot,
        generation=child.generation,
        config=child.config,
        hub=child.hub,
        client=child.client,
        address=child.address[0] if child.address is not None else "",
        arena=child.arena,
        row=row,
        sharing=sharing,
        title=lambda words: port.processes.set_title(f"millpond: worker {words}"),
        unpack=unpack_config,
        outlived=False,
    )
    try:
        serve(room)
    finally:
        sharing.close_environment()  # its reader's slot is free at once, not when somebody looks for the dead
