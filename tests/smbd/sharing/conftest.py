"""A shared state on tmpfs and processes that are declared alive or dead."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from shutil import rmtree

import pytest

from smbd.sharing import Sharing, prepare


@dataclass
class House:
    """One lock directory, and who is dead."""

    directory: str
    dead: set[tuple[int, int]] = field(default_factory=set)
    sharing: Sharing | None = None

    def process(self, slot: int, generation: int = 1) -> Sharing:
        """The state as another process sees it. One environment a process is LMDB's rule, so they share it here."""
        if self.sharing is None:
            self.sharing = Sharing(self.directory, slot, generation, None, lambda s, g: (s, g) not in self.dead)
            return self.sharing
        twin = object.__new__(Sharing)
        twin.__dict__.update(self.sharing.__dict__)
        twin.slot, twin.generation = slot, generation
        return twin


@pytest.fixture
def lock_directory() -> Iterator[str]:
    directory = tempfile.mkdtemp(dir="/dev/shm", prefix="millpond-test-")
    yield directory
    rmtree(directory)


@pytest.fixture
def house(lock_directory: str) -> Iterator[House]:
    prepare(lock_directory, 8 << 20, max_readers=64)
    house = House(lock_directory)
    yield house
    if house.sharing is not None:
        house.sharing.close_environment()


@pytest.fixture
def make_process(house: House) -> Callable[[int], Sharing]:
    return house.process
