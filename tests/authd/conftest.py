"""A gate with two users and one disabled, all in memory but the database file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from authd.acceptor import TargetNames
from authd.conversation import Conversations, Gate, Policy
from authd.identity import Identities
from authd.limits import Limiter
from authd.users import UserDatabase
from smbd.accounts import IdMap
from smbd.smb2.dtyp.sid import SID

MACHINE = SID.parse("S-1-5-21-1-2-3")


@pytest.fixture
def database(tmp_path: Path) -> UserDatabase:
    users = UserDatabase(tmp_path / "smbpasswd")
    users.add("alice", "Pässword-1")
    users.add("Böb", "secret")
    users.add("carol", "secret")
    users.enable("carol", False)
    return users


@pytest.fixture
def conversations(database: UserDatabase) -> Callable[..., Conversations]:
    def make(policy: Policy | None = None, **limits: int) -> Conversations:
        names = TargetNames("MILLPOND", "WORKGROUP", "millpond", "")
        identities = Identities(IdMap(MACHINE, "MILLPOND"), "nobody")
        return Conversations(Gate(database, identities, names, Limiter(1.0), b"secret", policy or Policy()), **limits)

    return make
