"""A house with one share, its folder, and a client in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wire_client import WireClient
from tests.workers.house import House


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir(mode=0o777)
    return made


@pytest.fixture
def make_house(folder: Path) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(**options: Any) -> House:
        made.append(House(folder, **options))
        return made[-1]

    yield make
    for house in made:
        house.end()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()


@pytest.fixture
def client(house: House) -> WireClient:
    return house.client()
