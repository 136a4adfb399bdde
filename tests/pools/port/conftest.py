"""Every test here runs once with each port: what it says is the contract, not what one of them happens to do."""

from __future__ import annotations

import pytest

from pools.port import choice
from pools.port.choice import Port


@pytest.fixture(params=choice.NAMES)
def port(request: pytest.FixtureRequest) -> Port:
    """One port's modules, in use or not."""
    return choice.load(request.param)
