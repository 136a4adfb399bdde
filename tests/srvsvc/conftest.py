"""A world without processes behind a real pipe, and impacket's client on the other end of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from impacket.dcerpc.v5 import rpcrt

from authd.directory import Directory
from authd.users import UserDatabase
from smbd.accounts import Account, IdMap, UserRecord
from smbd.config import Config, Share
from smbd.sharing import FileKey, OpenRow, SessionRecord, TreeRecord
from smbd.smb2 import status
from smbd.smb2.dtyp.sid import SID
from srvsvc.messages import Caller
from srvsvc.server import Server
from srvsvc.service import Pipe

MACHINE = SID.parse("S-1-5-21-1-2-3")
NOW = 1_700_000_000.25
FILETIME = (1_700_000_000 - 60 + 11644473600) * 10**7


class World:
    """``Backend`` with two shares, one session, one open, and a real directory."""

    def __init__(self, database: UserDatabase) -> None:
        shares = (
            Share(name="Public", path="/srv/public", comment="Open to %L", csc_policy="documents"),
            Share(name="hidden", path="/srv/hidden", browseable=False),
            Share(name="homes", path="/home/%U"),
            Share(name="Größe", path="/srv/g", max_connections=5),
            Share(name="IPC$", kind="pipe"),
        )
        self.config = Config(netbios_name="MILLPOND", shares={share.name.casefold(): share for share in shares})
        self.ids = IdMap(MACHINE, "MILLPOND")
        self._directory = Directory(self.ids, database)
        self.closed: list[Any] = []

    def use(self, config: Config) -> None:
        self.config = config

    def sessions(self) -> Sequence[SessionRecord]:
        session = SessionRecord(7, 16, 1, 0x0311, FILETIME, 0, 0, 0, 1000, 1000, bytes(16), "alice", "MILLPOND", "S-1", "192.0.2.1", "PC")
        return [session]

    def trees(self) -> Sequence[TreeRecord]:
        return [TreeRecord(7, 1, 16, 1, FILETIME, 0, "Public")]

    def opens(self) -> Sequence[OpenRow]:
        return [OpenRow(FileKey(1, 2), 16, 1, 99, 0x3, 0x7, 0, 7, 1, FILETIME, 1000, 1000, "Public", "dir/file.txt", "alice", 2)]

    def close_open(self, row: OpenRow) -> bool:
        self.closed.append(row.file_id)
        return True

    def close_session(self, record: SessionRecord) -> bool:
        self.closed.append(record.session_id)
        return True

    def lookup_names(self, names: Sequence[str]) -> list[Account]:
        return [self._directory.by_name(name) for name in names]

    def lookup_sids(self, sids: Sequence[str]) -> list[Account]:
        return [self._directory.by_sid(sid) for sid in sids]

    def users(self) -> list[UserRecord]:
        return self._directory.users()

    def now(self) -> float:
        return NOW


class PipeTransport:
    """What impacket's DCERPC_v5 wants of a transport."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.fragment = 0

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def get_credentials(self) -> tuple[str, ...]:
        return ("",) * 8

    def get_kerberos(self) -> bool:
        return False

    def set_max_fragment_size(self, size: int) -> None:
        self.fragment = size

    def doesSupportNTLMv2(self) -> bool:
        return True

    def send(self, data: bytes, forceWriteAndx: int = 0, forceRecv: int = 0) -> None:
        assert self.pipe.write(data) == status.SUCCESS

    def recv(self, forceRecv: int = 0, count: int = 0) -> bytes:
        parts = []
        while True:
            code, part = self.pipe.read(1000)
            parts.append(part)
            if code != status.BUFFER_OVERFLOW:
                assert code == status.SUCCESS
                return b"".join(parts)


@pytest.fixture
def world(tmp_path: Any) -> World:
    database = UserDatabase(tmp_path / "smbpasswd")
    database.add("millponduser", "x")
    return World(database)


@pytest.fixture
def connect(world: World) -> Callable[..., Any]:
    def make(name: str, uuid: Any, administrator: bool = True, **who: Any) -> rpcrt.DCERPC_v5:
        caller = Caller("alice", "MILLPOND", "S-1-5-21-1-2-3-3000", "192.0.2.1", 1000, administrator=administrator)._replace(**who)
        rpc = rpcrt.DCERPC_v5(PipeTransport(Pipe(name, 0x1234, Server(world, caller))))
        rpc.connect()
        rpc.bind(uuid)
        return rpc

    return make
