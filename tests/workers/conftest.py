"""A house with one share, its folder, and a client in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pools.port import files
from tests.btrfs import mounted
from tests.wire_client import WireClient
from tests.workers.house import House


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module that says ``ON_ERRANDS_TOO`` is run twice: as on a healthy disk, and as on one that may wait for ever at any call."""
    if getattr(metafunc.module, "ON_ERRANDS_TOO", False) and "make_house" in metafunc.fixturenames:
        metafunc.parametrize("errands", [False, True], ids=["at once", "on errands"], indirect=True)


@pytest.fixture
def errands(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether all that touches the disk goes on errands."""
    wanted = bool(getattr(request, "param", False))
    if wanted:
        monkeypatch.setattr(files, "asks_others", lambda _path: True)
    return wanted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir(mode=0o777)
    return made


@pytest.fixture
def btrfs() -> Iterator[Path]:
    """A small file system that shares blocks and compresses files."""
    with mounted() as root:
        yield root


@pytest.fixture
def make_house(folder: Path, errands: bool) -> Iterator[Callable[..., House]]:
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
