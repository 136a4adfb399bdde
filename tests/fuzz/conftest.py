"""The target of each module of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.target import Target
from tests.server import Server


@pytest.fixture(scope="module")
def target(server: Server) -> Iterator[Target]:
    """The target, on this module's server. At the end nothing may be left of what was thrown."""
    found = Target(server)
    yield found
    found.check()
    found.client.close_connection()
    found.witness.close_connection()
    lines = len(server.log.splitlines())
    assert lines <= 40 + 3 * found.hang_ups, f"{lines} lines for {found.hang_ups} hang-ups: more than one for each"
